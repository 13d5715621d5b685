"""Sizes that cannot be had: refused before the work where that is certain, else told in a line."""

import torch

from scoreflow.errors import RequestError
from scoreflow.host_memory import total_bytes

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
    return total_bytes()


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
    there = total_memory(device)
    if need > there:
        raise RequestError(
            f"{what} needs {need / GIGA:,.0f} GB of memory at least, and {device} has "
            f"{there / GIGA:,.0f} GB: {remedy}"
        )


def no_room(error: BaseException) -> str:
    """What an error says of memory that could not be had; "" for any other error."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return text or "MemoryError"
    known = isinstance(error, RuntimeError) and any(sign in text for sign in NO_ROOM)
    return text if known else ""
