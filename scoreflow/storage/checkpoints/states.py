"""Checkpoint files, written atomically, with a SHA-256 sidecar that they must match.

The hash is written first, so there is never a state without one; while a state replaces another,
the hashes of both are there. They load as tensors and plain values alone. The same state has the
same bytes, whether it was made in one go or by a training that was stopped and went on.
"""

import hashlib
import io
import pickle
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from scoreflow.storage.atomic_files import Json, reason_of, write_atomic
from scoreflow.storage.validation import InvalidError, open_to_read, read_bytes


class DamagedError(Exception):
    """A checkpoint that is missing, truncated or fails its SHA-256."""


def sidecar(path: Path) -> Path:
    """Where the hash of a state belongs, in the form that sha256sum checks."""
    return path.with_name(f"{path.name}.sha256")


def write_state(path: Path, state: Json) -> None:
    """Write a state and its hash."""
    stream = io.BytesIO()
    torch.save(_alone(state), stream)
    data, hashes = stream.getbuffer(), sidecar(path)
    line = f"{hashlib.sha256(data).hexdigest()}  {path.name}\n".encode()
    replaced = read_bytes(hashes) if path.is_file() and hashes.is_file() else b""
    write_atomic(hashes, line + replaced)
    write_atomic(path, data)
    if replaced:
        write_atomic(hashes, line)


def read_state(path: Path, map_location: str | torch.device) -> Json:
    """Load a state, checked against its hash.

    Raises:
        DamagedError: it is not there, does not fit its hash, cannot be read, or holds more than
            plain values.
    """
    data = _checked(path)
    try:
        state = torch.load(io.BytesIO(data), map_location=map_location, weights_only=True)
    except torch.OutOfMemoryError:  # of the device, which is no fault of the file
        raise
    except Exception as error:  # what bytes that are no checkpoint do to its reader is unbounded
        reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        if isinstance(error, pickle.UnpicklingError):
            reason = "it holds more than tensors and plain values"
        raise DamagedError(f"{path} cannot be read ({reason})") from error
    if not isinstance(state, dict):
        raise DamagedError(f"{path} must hold a dict, got {state!r:.40}")
    return state


def _alone(value: Any) -> Any:  # noqa: ANN401
    """A state in containers of its own, its texts all interned.

    Pickle writes an object that it meets again as a reference, by identity: equal states would
    have other bytes where one has texts and tuples twice that the other shares.
    """
    if isinstance(value, str):
        return sys.intern(str(value))
    if isinstance(value, dict):
        copy = type(value)() if type(value) in (dict, OrderedDict) else {}
        copy.update((_alone(key), _alone(each)) for key, each in value.items())
        if (about := getattr(value, "_metadata", None)) is not None:  # of Module.state_dict
            setattr(copy, "_metadata", _alone(about))  # noqa: B010  (a dict declares none)
        return copy
    if type(value) in (list, tuple):
        return type(value)(map(_alone, value))
    return value


def _checked(path: Path) -> bytes:
    data, recorded = _bytes_of(path), _bytes_of(sidecar(path))
    if hashlib.sha256(data).hexdigest().encode() not in recorded.split():
        raise DamagedError(f"{path} ({len(data)} bytes) does not fit its hash")
    return data


def _bytes_of(path: Path) -> bytes:
    try:
        with open_to_read(path) as file:
            return file.read()
    except (OSError, InvalidError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else str(error)
        raise DamagedError(f"{path} cannot be read ({reason})") from error
