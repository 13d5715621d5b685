"""Choice of the torch device by name, and where states in float64 lie."""

import os
import re

import torch

from scoreflow.errors import RequestError, did_you_mean
from scoreflow.runtime import distributed

MPS = ("mps", "mps:0")
WITHOUT_FLOAT64 = ("mps",)
"""Kinds of device that a network can lie on, and float64 states of samplers and solvers cannot."""


def build_device(name: str) -> torch.device:
    """A device by name, or the best one found, which must be there.

    Of several processes on a machine each has a GPU of its own, that of its LOCAL_RANK, for "" and
    for "cuda" alike. It knows float64; or it is Apple's MPS, where a network can lie alone: see
    `states_of`.

    Raises:
        RequestError: it is not there, or processes of this machine would share a GPU.
    """
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    place = distributed.local_rank()
    if name in ("cpu", "cpu:0"):
        return torch.device("cpu")
    if not name:
        return _gpu_of_this_process(name, there, place) if there else torch.device("cpu")
    _refuse_kind(name)
    if name in MPS:
        if not torch.backends.mps.is_available():
            raise RequestError(
                f"--device {name} cannot be used here (no MPS device was found); cpu always can"
            )
        return torch.device("mps")
    index = int(name.partition(":")[2] or 0)
    if index >= there:
        found = f"CUDA devices are 0..{there - 1}" if there else "no CUDA device was found"
        raise RequestError(f"--device {name} cannot be used here ({found}); cpu always can")
    device = _gpu_of_this_process(name, there, place)
    try:
        float(torch.zeros((), dtype=torch.float64, device=device))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise RequestError(
            f"--device {name} cannot be used here ({reason}); cpu always can"
        ) from error
    return device


def _gpu_of_this_process(name: str, there: int, place: int | None) -> torch.device:
    """The GPU of that name; of several processes on a machine, that of the process's place.

    Args:
        name: "", "cuda" or "cuda:N".
        there: how many GPUs this process sees.
        place: `distributed.local_rank`.

    Raises:
        RequestError: two processes of this machine would have the same one.
    """
    beside = distributed.local_world()
    if beside > 1 and ":" in name:
        raise RequestError(
            f"--device {name} would be shared by the {beside} processes of this machine: --device "
            "cuda gives each a GPU of its own"
        )
    if beside > there and not _given_one_each(there, place):
        raise RequestError(
            f"{beside} processes of this machine would share {there} GPU{'s' * (there > 1)}: "
            f"start {there} (torchrun --nproc_per_node={there}), or use --device cpu"
        )
    if ":" in name:
        return torch.device("cuda", int(name.partition(":")[2]))
    if place is None or there == 1:
        return torch.device("cuda")
    device = torch.device("cuda", place % there)
    torch.cuda.set_device(device)  # where what names no device of its own goes
    return device


def _given_one_each(there: int, place: int | None) -> bool:
    """Whether a launcher lets each process see a GPU of its own alone.

    Clusters do by CUDA_VISIBLE_DEVICES, torchrun with --virtual-local-rank, which counts from 0.
    """
    visible = [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
    by_torchrun = bool(os.environ.get("TORCHELASTIC_RUN_ID"))
    return there == len(visible) == 1 and not (by_torchrun and place)


def states_of(device: torch.device) -> torch.device:
    """Where data and the float64 states of samplers and solvers lie, for a network on a device."""
    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device


def _refuse_kind(name: str) -> None:
    """Refuse what is not written as a device is."""
    kind = name.lower().partition(":")[0]
    if name not in MPS and not re.fullmatch(r"cuda(:[0-9]{1,4})?", name):
        meant = {"gpu": "cuda"}.get(kind, kind)
        hint = did_you_mean(meant, ("cpu", "cuda", "mps"), "cpu always can", cutoff=0.6)
        raise RequestError(
            f"--device {name} cannot be used: it must be cpu, cuda, cuda:N or mps; {hint}"
        )
