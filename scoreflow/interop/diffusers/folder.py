"""Where diffusers keeps a UNet2DModel and its scheduler: the files of a folder, old and new.

    model_index.json
    unet/config.json, unet/diffusion_pytorch_model.safetensors (or .bin)
    scheduler/scheduler_config.json
    checkpoint-N/unet/, checkpoint-N/unet_ema/          of train_unconditional.py: raw, averaged

Its first repositories had all of these at the root. A folder of the network alone serves as well,
if a scheduler's lies in it, beside it or above it.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from scoreflow.errors import RequestError
from scoreflow.interop.tensor_files import read_tensors
from scoreflow.interop.torch_files import first_line
from scoreflow.schema.config import KEYS
from scoreflow.storage.validation import parse_json, read_bytes

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
"""Names of the weights, the first that there is."""
NETWORKS = ("unet", "unet_ema", ".")
"""Where in a folder the network may lie; a checkpoint of training has both of the first two."""
SCHEDULE = "scheduler_config.json"
OURS = "scoreflow.json"
"""What our own export adds: settings that diffusers' files have no place for."""
OUR_KEYS = (
    *(key for key in KEYS if key.startswith("sde.")),
    "training.times",
    "training.t_min",
    "training.dequantization",
    "model.conditional",
    "model.num_classes",
    "model.null_class",
    "model.integer_times",
    "model.data_scale",
)
"""The config keys in it."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Folder:
    """The files of one network.

    Attributes:
        network: folder of its config.json and weights: the averaged ones where there are two.
        raw: folder of the raw weights of the same training; None where there is none.
        scheduler: the scheduler's config.json.
    """

    network: Path
    raw: Path | None
    scheduler: Path


def holds_network(path: Path) -> bool:
    """Whether a folder, or its unet/, looks like a diffusers network."""
    if not path.is_dir():
        return False
    if (path / "model_index.json").is_file():
        return True
    return any(_class_of(path / name).startswith("UNet") for name in NETWORKS)


def locate(path: Path) -> Folder:
    """The files of a folder.

    Args:
        path: a pipeline, a checkpoint of its training, or the network's folder.

    Raises:
        RequestError: the network, its weights or a scheduler is missing.
    """
    found = [path / name for name in NETWORKS if (path / name / "config.json").is_file()]
    if not found:
        raise RequestError(
            f"{path} has no unet/config.json or config.json: pass the folder of a DDPMPipeline, "
            "or the one of its unet"
        )
    by_name = {folder.name: folder for folder in found}
    network = by_name.get("unet_ema", found[0])
    raw = by_name["unet"] if network.name == "unet_ema" and "unet" in by_name else None
    if raw is None and network != path:
        raw = _last_checkpoint(path)
    return Folder(network, raw, _scheduler(path))


def tensors(folder: Path) -> dict[str, Tensor]:
    """The weights of a network's folder, by diffusers' names.

    Raises:
        RequestError: there are none, or the file is damaged.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return read_tensors(folder / name)
    others = sorted(each.name for each in folder.glob("diffusion_pytorch_model*"))
    there = f"; there is {', '.join(others)}" if others else ""
    raise RequestError(
        f"{folder} has none of {', '.join(WEIGHTS)}{there}: save it whole by "
        "save_pretrained(max_shard_size='100GB') without a variant"
    )


def read_json(path: Path) -> Json:
    """A file of diffusers' settings.

    Raises:
        RequestError: it is not there, or holds something else.
    """
    try:
        found = parse_json(read_bytes(path))
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{path} cannot be read ({first_line(error)}): download it again"
        ) from error
    if not isinstance(found, dict):
        raise RequestError(
            f"{path} must hold an object, got a {type(found).__name__}: download it again"
        )
    return found


def our_settings(path: Path, folder: Folder) -> Json:
    """Config keys that our own export left in the network's folder or its pipeline's; else none.

    Args:
        path: what the user named. The folder above the network's counts if it lies in this, or if
            the scheduler was taken from it as well: it is the network's pipeline then.
        folder: the files that were found there.
    """
    network, scheduler = folder.network.absolute(), folder.scheduler.absolute()
    inside = network.parent.is_relative_to(path.absolute())
    shared = network.parent in scheduler.parents and network not in scheduler.parents
    for base in (network, network.parent) if inside or shared else (network,):
        if (base / OURS).is_file():
            found = read_json(base / OURS)
            return {key: found[key] for key in OUR_KEYS if key in found}
    return {}


def step_of(network: Path, config: Json) -> int:
    """Training steps behind a network, 0 where its folder does not say."""
    told = config.get("optimization_step")  # of an average that was saved as such
    if type(told) is int and told >= 0:
        return told
    named = re.fullmatch(r"checkpoint-(\d+)", network.parent.name)
    return int(named[1]) if named else 0


def _class_of(folder: Path) -> str:
    path = folder / "config.json"
    if not path.is_file():
        return ""
    try:
        found = parse_json(read_bytes(path))
    except (OSError, ValueError):
        return ""
    return str(found.get("_class_name", "")) if isinstance(found, dict) else ""


def _last_checkpoint(path: Path) -> Path | None:
    """The raw weights that train_unconditional.py left beside its pipeline."""
    steps = {}
    for folder in path.glob("checkpoint-*"):
        named = re.fullmatch(r"checkpoint-(\d+)", folder.name)
        if named and (folder / "unet" / "config.json").is_file():
            steps[int(named[1])] = folder / "unet"
    return steps[max(steps)] if steps else None


def _scheduler(path: Path) -> Path:
    path = path.absolute()
    for base in (path, path.parent, path.parent.parent):
        for file in (base / "scheduler" / SCHEDULE, base / SCHEDULE):
            if file.is_file():
                return file
    raise RequestError(
        f"{path} has no scheduler/{SCHEDULE}, without which its noise schedule is unknown: copy "
        "it there from the pipeline"
    )
