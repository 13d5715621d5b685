"""Checkpoint files, written atomically, with a SHA-256 sidecar that they must match.

The hash is written first, so there is never a state without one; while a state replaces another,
the hashes of both are there. They load as tensors and plain values alone.
"""

import hashlib
import io
import pickle
from pathlib import Path

import torch

from scoreflow.storage.atomic_files import Json, write_atomic


class DamagedError(Exception):
    """A checkpoint that is missing, truncated or fails its SHA-256."""


def sidecar(path: Path) -> Path:
    """Where the hash of a state belongs, in the form that sha256sum checks."""
    return path.with_name(f"{path.name}.sha256")


def write_state(path: Path, state: Json) -> None:
    """Write a state and its hash."""
    stream = io.BytesIO()
    torch.save(state, stream)
    data, hashes = stream.getbuffer(), sidecar(path)
    line = f"{hashlib.sha256(data).hexdigest()}  {path.name}\n".encode()
    replaced = hashes.read_bytes() if path.exists() and hashes.exists() else b""
    write_atomic(hashes, line + replaced)
    write_atomic(path, data)
    if replaced:
        write_atomic(hashes, line)


def is_whole(path: Path) -> bool:
    """Whether a state is there and fits its hash."""
    try:
        _checked(path)
    except DamagedError:
        return False
    return True


def read_state(path: Path, map_location: str | torch.device) -> Json:
    """Load a state, checked against its hash.

    Raises:
        DamagedError: it is not there, does not fit its hash, or holds more than plain values.
    """
    data = _checked(path)
    try:
        state: Json = torch.load(io.BytesIO(data), map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise DamagedError(f"{path} holds more than tensors and plain values") from error
    return state


def _checked(path: Path) -> bytes:
    try:
        data, recorded = path.read_bytes(), sidecar(path).read_bytes()
    except OSError as error:
        raise DamagedError(f"{error.filename} cannot be read ({error.strerror})") from error
    if hashlib.sha256(data).hexdigest().encode() not in recorded.split():
        raise DamagedError(f"{path} ({len(data)} bytes) does not fit its hash")
    return data
