"""Trained weights that a new run begins with: `training.init`."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from scoreflow.errors import RequestError
from scoreflow.runtime.gpu.transfer import load_weights
from scoreflow.storage.atomic_files import Json
from scoreflow.storage.checkpoints.content import check_step, check_tensors, check_trained_with
from scoreflow.storage.fingerprint import fingerprint_of
from scoreflow.storage.run_folder import RunDir

CLASSES = "embedding.classes.weight"
"""The vectors of the classes, which an unconditional network has none of."""
LAW = "pixels.probabilities"
"""Histograms of the training images, which are those of the new run."""


@dataclass(frozen=True)
class InitialWeights:
    """Averaged weights, and where they are from.

    Attributes:
        source: a run's folder or a file.
        step: of their training.
        weights: by name.
        sha256: of the weights with their names.
        config: what it was trained with, a section a name; sections or keys may be missing.
        state: the checkpoint that they are from, for what that says of the config; {} for a file.
    """

    source: Path
    step: int
    weights: dict[str, Tensor]
    sha256: str
    config: Json
    state: Json = field(default_factory=dict)

    def as_result(self) -> Json:
        """What a run keeps of them: results/init.json."""
        return {"source": str(self.source.resolve()), "step": self.step, "sha256": self.sha256}


def read(source: Path) -> InitialWeights:
    """The averaged weights of a run's last whole checkpoint, or of a file that export wrote.

    Raises:
        RequestError: there are none.
    """
    if source.is_dir():
        folder = RunDir.open(source)
        step, state = folder.load_checkpoint(accept=_accept)
        weights, config = state["ema"], folder.config
    elif source.is_file():
        step, weights, config = _of_file(source)
        state = {}
    else:
        raise RequestError(
            f"training.init: {source} is not there; name a run's folder, or a file of --mode "
            "export --to safetensors"
        )
    digest = fingerprint_of(weights)
    return InitialWeights(source, step, weights, digest, config, state)


def load(network: nn.Module, found: InitialWeights) -> None:
    """Weights into a network of the same architecture.

    A conditional network takes those of an unconditional one: the vectors of its classes, which
    that has none of, stay as they were made. So do histograms of the run's own images.

    Raises:
        RequestError: a name or a shape differs; the first is named.
    """
    own = network.state_dict()
    weights = dict(found.weights)
    if CLASSES in own and CLASSES not in weights:
        weights[CLASSES] = own[CLASSES]
    if LAW in own and LAW in weights:
        weights[LAW] = own[LAW]
    for name in [*own, *weights]:
        here, there = _shape(own.get(name)), _shape(weights.get(name))
        if here != there:
            raise RequestError(
                f"training.init: {found.source} has another network: {name} is {there} there and "
                f"{here} here; give the model section and the shape of the data that it has"
            )
    load_weights(network, weights)


def _accept(step: int, state: Json) -> None:
    check_step(step, state)
    check_trained_with(state)
    check_tensors("ema", state.get("ema"))


def _shape(value: Tensor | None) -> str:
    if value is None:
        return "missing"
    return " x ".join(map(str, value.shape)) or "a number"


def _of_file(path: Path) -> tuple[int, dict[str, Tensor], Json]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as held:
            about = held.metadata() or {}
            if "scoreflow" not in about:
                raise RequestError(
                    f"training.init: {path} is no file of --mode export --to safetensors: import "
                    "other networks by --mode import, and name the folder of that run"
                )
            weights = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118
            return int(about["step"]), weights, json.loads(about["config"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"training.init: {path} cannot be read ({error})") from error
