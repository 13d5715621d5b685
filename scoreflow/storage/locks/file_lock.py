"""One try at the lock of a file: the system's, or, where it has none, that of a marker beside it.

A marker `{name}.soft` is there while its holder, whose process and machine it names, has the lock.
Whether the system has locks is asked first, in the folder itself: filelock alone would turn some
systems' refusals into a marker under the lock's own name, and pass others on. What else has the
name of either, as a link or a pipe, is neither followed nor opened.
"""

import errno
import os
import tempfile
import warnings
from pathlib import Path

from scoreflow.storage.regular_files import CANNOT, WINDOWS, refuse_other

with warnings.catch_warnings():  # it warns where the system has no locks, which we say ourselves
    warnings.simplefilter("ignore")
    from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

Lock = BaseFileLock


def try_lock(path: Path) -> tuple[Lock | None, str]:
    """The lock of a file, unless another process has it.

    Args:
        path: of the lock file, in a folder that is there.

    Returns:
        The lock, None while another process has it; and why it is that of the marker, which is
        why the system has no locks there: "" where it has.

    Raises:
        OSError: a name is of no regular file (ELOOP), or the lock cannot be made.
    """
    marker = marker_of(path)
    for each in (path, marker):
        refuse_other(each)
    reason = without_locks(path.parent)
    lock: Lock
    if reason:
        lock = SoftFileLock(marker, thread_local=False)
    else:
        lock = FileLock(path, thread_local=False)
    try:
        # a marker that a killed process left is removed in one attempt, and made in the next
        lock.acquire(timeout=0.2 if reason else 0, poll_interval=0.05)
    except Timeout:
        return None, reason
    return lock, reason


def is_marked(lock: Lock) -> bool:
    """Whether a lock is that of a marker, which goes by itself."""
    return isinstance(lock, SoftFileLock)


def marker_of(path: Path) -> Path:
    """The file that stands for the lock of another, where the system has no locks."""
    return path.with_name(f"{path.name}.soft")


def without_locks(folder: Path) -> str:
    """Why the system cannot lock files of a folder; "" where it can."""
    if WINDOWS:
        return ""
    try:
        import fcntl
    except ImportError as error:
        return str(error)
    with tempfile.TemporaryFile(prefix=".lock.", dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in CANNOT:
                return error.strerror or os.strerror(error.errno or errno.ENOLCK)
            raise
    return ""
