"""Choice of the torch device by name, and where states in float64 lie."""

import re

import torch

from scoreflow.errors import RequestError, did_you_mean
from scoreflow.runtime import distributed

MPS = ("mps", "mps:0")
WITHOUT_FLOAT64 = ("mps",)
"""Kinds of device that a network can lie on, and float64 states of samplers and solvers cannot."""


def build_device(name: str) -> torch.device:
    """A device by name, or the best one found, which must be there.

    It knows float64; or it is Apple's MPS, where a network can lie alone: see `states_of`.
    """
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    place = distributed.local_rank()
    if not name and there > 1 and place is not None:  # of torchrun: a device each
        device = torch.device("cuda", place % there)
        torch.cuda.set_device(device)  # where what names no device of its own goes
        return device
    if not name:
        return torch.device("cuda" if there else "cpu")
    if name in ("cpu", "cpu:0"):
        return torch.device("cpu")
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
    device = torch.device("cuda", index) if ":" in name else torch.device("cuda")
    try:
        float(torch.zeros((), dtype=torch.float64, device=device))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise RequestError(
            f"--device {name} cannot be used here ({reason}); cpu always can"
        ) from error
    return device


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
