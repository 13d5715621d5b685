"""Atomic file writes, a folder lock that ends with its process, and strict JSON."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from torch import Tensor

from scoreflow.errors import RequestError, RunError

Json = dict[str, Any]


def write_atomic(path: Path, data: bytes | memoryview) -> None:
    """Make path hold data, or, when cut off at any point, what it held before."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to be written in the place of path, which holds what it held until that is whole.

    Raises:
        RunError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(f"cannot write {path} ({error.strerror}): what it held stays") from error
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)


def take_lock(path: Path) -> FileLock:
    """Hold the folder `path` until the lock is released or the process ends, however it ends.

    The process id is in a file of its own: on Windows nobody else can read a locked one.

    Raises:
        RequestError: another process holds the folder, or it cannot be locked.
    """
    lock, holder = FileLock(path / "lock", timeout=0, thread_local=False), path / "lock.pid"
    try:
        lock.acquire()
        holder.write_text(f"{os.getpid()}\n")
    except Timeout as error:
        raise RequestError(
            f"{path} is being trained by process {_holder(path)}: wait for it, or choose another "
            "folder"
        ) from error
    except (OSError, NotImplementedError) as error:  # a file system without locks
        reason = getattr(error, "strerror", None) or error
        raise RequestError(
            f"cannot lock {path} for training ({reason}): choose another --workdir"
        ) from error
    return lock


def release_lock(lock: FileLock) -> None:
    """Let go of a folder that `take_lock` holds."""
    Path(lock.lock_file).with_name("lock.pid").unlink(missing_ok=True)
    lock.release()


def _holder(path: Path) -> str:
    """Id of the process that holds a folder; 0.1 wrote it into the lock itself."""
    for name in ("lock.pid", "lock"):
        try:
            if number := (path / name).read_text().strip():
                return number
        except OSError:  # not there, or held by a process on Windows
            continue
    return "unknown"


def fsync_folder(folder: Path) -> None:
    """Have the names in a folder reach the disk, where the system can be asked to."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        if os.name == "nt":  # a folder cannot be opened there, nor need it be
            return
        raise
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def dumps(
    value: Json,
    where: str,
    error: type[RequestError | RunError],
    indent: int | None = 2,
    sort_keys: bool = False,
) -> bytes:
    """JSON of a value, its tensors and arrays as lists; `error` where it has none."""
    plain = _plain(value, where, error)
    return (json.dumps(plain, indent=indent, sort_keys=sort_keys) + "\n").encode()


def _plain(value: object, where: str, error: type[RequestError | RunError]) -> object:
    """Value in JSON's own types; `where` names the place for the message."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().tolist()
    elif isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item, f"{where}: {key}", error) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{i}]", error) for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise error(f"{where} must be finite, got {value}; it was not written")
    if value is not None and not isinstance(value, str | int | float):
        raise error(f"{where} must be a number, a text, a list or a dict, got {type(value)}")
    return value


def load_json(path: Path, missing: str, remedy: str) -> Json:
    """The object in a JSON file, or a RequestError: `missing`, or what is wrong and `remedy`."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RequestError(missing) from error
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} cannot be read ({error}): {remedy}") from error
    if not isinstance(value, dict):
        raise RequestError(f"{path} must hold a JSON object, got {value!r:.40}: {remedy}")
    return value
