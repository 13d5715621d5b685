"""Files written into folders that may be somebody else's: no link is followed, nothing guessed.

A temporary file has a name that nobody can foresee, and its process holds a lock on it as long as
it is written. The system lets go of that lock when the process ends, however it ends, so what a
kill left is told from what another process is writing, on this machine or another.

All of it raises OSError, with a text that can stand in brackets behind the file's name.
"""

import errno
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

WINDOWS = os.name == "nt"
CANNOT = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
"""What a file system answers to a call that it does not know."""
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # opening a pipe would wait for its other end
_BINARY = getattr(os, "O_BINARY", 0)
_LEFT = re.compile(r"\.(?P<name>.+)\.(?P<pid>[0-9]{1,10})(?P<token>\.[0-9a-f]{16})?\.tmp")
"""Names of temporary files; those of 0.1 and 1.0 have no token, and had no lock."""
_NAMED = 40
"""Characters of a file's name in that of its temporary file: names have at most 255 bytes."""
DAY = 86400.0
"""Seconds after which a temporary file is old, where no lock says whether it is written."""


def open_regular(path: Path, flags: int) -> int:
    """A descriptor of a regular file: what else has its name is neither followed nor opened.

    Args:
        path: of a file, there or, with O_CREAT, not.
        flags: of os.open. O_TRUNC is not for them: a file is cut when it is known to be regular.

    Raises:
        OSError: as os.open, or it is a link, a folder, a pipe, a device.
    """
    refuse_other(path)
    try:
        descriptor = os.open(path, flags | _NO_LINK | _NO_WAIT | _BINARY, 0o666)
    except OSError as error:
        refuse_other(path)  # it came since
        raise error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _other(path, "no regular file")
    return descriptor


def refuse_other(path: Path) -> None:
    """Raise OSError where a name is there, and of no regular file."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:  # not there, or not to be looked at: opening it says which
        return
    if stat.S_ISLNK(mode):
        what = "a link, and nothing is written through links"
        raise _other(path, what, "put the file itself in its place")
    if not stat.S_ISREG(mode):
        raise _other(path, "a folder" if stat.S_ISDIR(mode) else "no regular file")


def _other(path: Path, what: str, remedy: str = "remove it") -> OSError:
    return OSError(errno.ELOOP, f"it is {what}; {remedy}", str(path))


def put(path: Path, data: bytes | memoryview) -> None:
    """Make path hold data, whole; whether they have reached the disk is not waited for."""
    with temporary_file(path) as temporary:
        temporary.write_bytes(data)
        os.replace(temporary, path)


# ---- temporary files ----------------------------------------------------------------------------


@contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """An empty file beside `path`, new and locked; gone at the end, unless it was moved."""
    with _temporary(path, _make_file) as made:
        try:
            yield made
        finally:
            with suppress(OSError):  # moved, or for the next `sweep`
                made.unlink()


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path`, new and locked; gone at the end, unless it was moved."""
    with _temporary(path, os.mkdir) as made:
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)


def sweep(folder: Path, name: str = "") -> None:
    """Remove the temporary files of a folder whose process is gone; what cannot be, stays.

    Args:
        folder: which is not searched deeper.
        name: only those of the file or folder of this name; "" for all.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = _LEFT.fullmatch(entry.name)
            if found and not entry.is_symlink() and name[:_NAMED] in ("", found["name"]):
                with suppress(OSError):
                    _drop(Path(entry.path), int(found["pid"]), bool(found["token"]))


def _make_file(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK | _BINARY, 0o666))


@contextmanager
def _temporary(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    while True:
        token = secrets.token_hex(8)
        made = path.with_name(f".{path.name[:_NAMED]}.{os.getpid()}.{token}.tmp")
        make(made)
        try:
            lock = _lock(made)
        except BlockingIOError:  # a sweep was faster than the lock, and removes it
            continue
        try:
            yield made
        finally:
            if lock is not None:
                os.close(lock)
        return


def _lock(path: Path) -> int | None:
    """A descriptor that holds a file or folder; None where there are no locks.

    Raises:
        BlockingIOError: another descriptor holds it, or it is gone.
    """
    try:
        import fcntl
    except ImportError:
        return None
    kind = os.O_RDONLY if path.is_dir() else os.O_RDWR  # a network share locks what can be written
    try:
        descriptor = os.open(path, kind | _NO_LINK | _NO_WAIT)
    except FileNotFoundError as error:
        raise BlockingIOError from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        os.close(descriptor)
        return None
    if os.fstat(descriptor).st_nlink == 0:  # removed by who held it
        os.close(descriptor)
        raise BlockingIOError
    return descriptor


def _drop(path: Path, pid: int, had_lock: bool) -> None:
    """Remove a temporary file, unless a process may still write it."""
    lock = _lock(path)
    try:
        if lock is None or not had_lock:
            old = time.time() - path.lstat().st_mtime > DAY
            if _runs(pid) or (lock is None and not old):
                return
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    finally:
        if lock is not None:
            os.close(lock)


def _runs(pid: int) -> bool:
    """Whether another process of this machine has that number; on Windows nobody may ask."""
    if WINDOWS or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        return True
    return True
