"""Sizes that cannot be had: refused before the work where that is certain, else told in a line."""

import os
from contextlib import suppress
from pathlib import Path

import torch

from scoreflow.errors import RequestError

GIGA = 10**9
NO_ROOM = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "size calculation overflowed",
    "Overflow when unpacking long",
    "invalid storage size",
    "exceeds the maximum",
    "numel: integer multiplication overflow",
)
"""What torch says, as a RuntimeError of no kind of its own, where there is no room."""


def total_memory(device: torch.device) -> int:
    """Bytes that a device has in all, the host's within the limit of a container."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    found = []
    with suppress(OSError, ValueError, KeyError):  # no Linux
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        kilobytes = {key: text.split()[0] for key, text in (line.split(":") for line in lines)}
        found.append(1024 * (int(kilobytes["MemTotal"]) + int(kilobytes["SwapTotal"])))
    with suppress(OSError, ValueError):  # no container, or one without a limit
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text("ascii")))
    if not found and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=2**63)


def refuse_above_memory(what: str, need: int, device: torch.device, remedy: str) -> None:
    """Refuse what takes more memory than there is, whatever else runs.

    Args:
        what: is asked for, key and value.
        need: bytes that it takes at least.
        device: where.
        remedy: what to do.

    Raises:
        RequestError: the device has less in all.
    """
    total = total_memory(device)
    if need > total:
        raise RequestError(
            f"{what} needs {need / GIGA:,.0f} GB of memory at least, and {device} has "
            f"{total / GIGA:,.0f} GB: {remedy}"
        )


def no_room(error: BaseException) -> str:
    """What an error says of memory that could not be had; "" for any other error."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return text or "MemoryError"
    known = isinstance(error, RuntimeError) and any(sign in text for sign in NO_ROOM)
    return text if known else ""
