"""The lock of a run's folder, which ends with its process: one training a folder.

Where the system has no locks (some network shares), a file stands for one, and a line says so.
"""

import errno
import os
import socket
from contextlib import suppress
from pathlib import Path

from scoreflow.errors import RequestError, warn
from scoreflow.storage.atomic_files import reason_of
from scoreflow.storage.locks.file_lock import Lock, marker_of, try_lock
from scoreflow.storage.regular_files import open_regular, put

MARKER = marker_of(Path("lock")).name
"""A lock where the system has none: a file that is there while a process trains."""
SHORT = 400
"""Bytes that are read of a file which names a process and its machine."""


def take_lock(path: Path) -> Lock:
    """Hold the folder `path` until the lock is released or the process ends, however it ends.

    The process id is in a file of its own: on Windows nobody else can read a locked one. Where the
    system has no locks (network shares), a file stands for one, and a line says so: it stays when
    the process is killed, and is known to be left over on the same machine alone.

    Raises:
        RequestError: another process holds the folder, or it cannot be locked.
    """
    try:
        lock, reason = try_lock(path / "lock")
    except OSError as error:
        raise _cannot_lock(path, error) from error
    if lock is None:
        raise RequestError(f"{path} is being trained {_holder(path, bool(reason))}")
    try:
        put(path / "lock.pid", f"{os.getpid()}\n".encode())
    except OSError as error:
        release_lock(lock)
        raise _cannot_lock(path, error) from error
    if reason:
        warn(
            f"{path} has no locks ({reason}): the file {MARKER} there "
            "stands for one; never train one run from two machines at a time"
        )
    return lock


def _cannot_lock(path: Path, error: OSError) -> RequestError:
    at = f"{error.filename}: " if error.errno == errno.ELOOP else ""
    return RequestError(
        f"cannot lock {path} for training ({at}{reason_of(error)}): choose another --workdir"
    )


def release_lock(lock: Lock) -> None:
    """Let go of a folder that `take_lock` holds."""
    with suppress(OSError):  # a folder that is gone, or a disk that is, holds nobody up
        Path(lock.lock_file).with_name("lock.pid").unlink(missing_ok=True)
    with suppress(OSError):
        lock.release()


def _holder(path: Path, soft: bool) -> str:
    """Who holds a folder, and what to do."""
    wait = "wait for it, or choose another folder"
    if not soft:
        return f"by process {_number(path)}: {wait}"
    number, host, *_ = [*_words(path / MARKER), "", ""]
    who = f"by process {number or 'unknown'} on {host or 'an unknown machine'}: {wait}"
    if host == socket.gethostname():
        return who
    return f"{who}; if that process has ended, remove {path / MARKER}"


def _number(path: Path) -> str:
    """Id of the process that holds a folder; 0.1 wrote it into the lock itself."""
    words = [word for name in ("lock.pid", "lock") for word in _words(path / name)]
    return next((word for word in words if word.isdecimal()), "unknown")


def _words(path: Path) -> list[str]:
    """The words of a short file; none where it is not there, or held by a process on Windows."""
    try:
        descriptor = open_regular(path, os.O_RDONLY)
    except OSError:
        return []
    with open(descriptor, "rb") as file, suppress(OSError):
        return file.read(SHORT).decode(errors="replace").split()
    return []
