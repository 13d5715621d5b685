"""Our own .safetensors: a network by our names, with its run's config in the metadata."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from scoreflow.errors import RequestError
from scoreflow.interop.imported import Imported
from scoreflow.interop.options import answers
from scoreflow.interop.tensor_files import read_tensors
from scoreflow.schema.config import KEYS
from scoreflow.schema.request import flatten
from scoreflow.storage.atomic_files import Json
from scoreflow.storage.validation import conform, parse_json

NAME = "scoreflow"
SECTIONS = ("sde", "model", "training")
"""What of a config belongs to a network, whatever it is measured on."""


def recognises(path: Path) -> bool:
    """Whether a path is a file that `--mode export --to safetensors` wrote."""
    return path.is_file() and path.suffix == ".safetensors" and "scoreflow" in _metadata(path)


def read(path: Path, options: Mapping[str, object]) -> Imported:
    """A file as the settings and weights that it was written from.

    Args:
        path: of an export.
        options: none are asked for.

    Raises:
        RequestError: it is no such file, or of vectors.
    """
    answers(NAME, (), options)
    metadata, weights = _metadata(path), read_tensors(path)
    try:
        config = flatten(conform(parse_json(metadata["config"].encode()), Json))
        shape = tuple(conform(parse_json(metadata["shape"].encode()), list[int]))
        step, which = int(metadata["step"]), metadata["weights"]
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise RequestError(
            f"{path} is no whole export of ScoreFlow ({error}): export it again"
        ) from error
    if len(shape) != 3:
        raise RequestError(
            f"{path} is a network of vectors {shape}: only those of images are read"
        )
    kept = {k: v for k, v in config.items() if k.split(".")[0] in SECTIONS and k in KEYS}
    settings = kept | {"model.shape": shape} | _classes(kept, weights) | _levels(weights)
    facts = {
        "weights": {"ema": "averaged", "raw": "raw"}.get(which, which),
        "schedule": f"{kept.get('sde.name')}, {kept.get('sde.num_steps')} steps",
        "prediction": str(kept.get("model.prediction")),
        "exported": f"by ScoreFlow {metadata.get('scoreflow', 'of an unknown version')}",
    }
    return Imported(NAME, settings, weights, None, facts, step)


def _classes(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The number of classes, which a run may leave to its data."""
    table = weights.get("embedding.classes.weight")
    if table is None:
        return {}
    return {"model.num_classes": len(table) - int(bool(config.get("model.null_class", True)))}


def _levels(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The number of levels that a network of the residual knows."""
    law = weights.get("pixels.probabilities")
    return {} if law is None else {"model.num_levels": law.shape[-1]}


def _metadata(path: Path) -> dict[str, str]:
    """What the file says besides its tensors; nothing if it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as held:
            return dict(held.metadata() or {})
    except (OSError, SafetensorError, ValueError):
        return {}
