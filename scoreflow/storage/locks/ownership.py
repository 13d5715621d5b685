"""A lock file for what one command at a time may write: it waits for the others, and says so.

The system lets go of it when its holder ends, however it ends. Where the file system has no locks
(some network shares), a file with the holder's process and machine stands for one (`file_lock`): a
killed holder's is found out on the same machine alone, and from another it is to be removed by
hand.
"""

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scoreflow.errors import RequestError, RunError, warn
from scoreflow.storage.locks.file_lock import Lock, is_marked, marker_of, try_lock
from scoreflow.storage.regular_files import WINDOWS

PAUSE = 0.1
"""Seconds between two attempts."""
UNSAID = 1.0
"""Seconds that are waited without a word: most holders only write a file."""


@contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file while the block runs, after whoever holds it now.

    Args:
        path: of the lock file, whose folder is made if it is not there.
        what: the holder does, for the line about waiting: "measures the same".

    Raises:
        RequestError: it is no regular file.
        RunError: it cannot be made.
    """
    waiting = Waiting(path, what)
    while (lock := attempt(path)) is None:
        waiting.pause()
    try:
        yield
    finally:
        let_go(lock)


def attempt(path: Path) -> Lock | None:
    """The lock of a file; None while another process has it.

    Raises:
        RequestError: it is no regular file.
        RunError: it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return try_lock(path)[0]
    except OSError as error:
        raise _cannot_lock(path, error) from error


def _cannot_lock(path: Path, error: OSError) -> RequestError | RunError:
    reason = error.strerror or str(error)
    if error.errno == errno.ELOOP:
        reason = reason.removesuffix("; remove it")
        at = error.filename or path
        return RequestError(f"cannot lock {at} ({reason}): remove it, and ask again")
    return RunError(f"cannot write into {path.parent} ({reason}): what is done is kept")


def let_go(lock: Lock) -> None:
    """End what `attempt` began; its file goes."""
    if not WINDOWS and not is_marked(lock):
        with suppress(OSError):  # while it is held: one who waits for it looks whether it is there
            Path(lock.lock_file).unlink()
    with suppress(OSError):  # the system lets go of it when this process ends
        lock.release()


class Waiting:
    """Pauses while another process has a lock, with one line about it.

    Args:
        path: of the lock file.
        what: the holder does.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        self._since, self._said = time.monotonic(), False

    def pause(self) -> None:
        """A moment; the line comes once, when it is not the first."""
        if not self._said and time.monotonic() - self._since > UNSAID:
            self._said = True
            soft = marker_of(self.path)
            left = f" (remove {soft} if it has ended)" if soft.exists() else ""
            warn(f"another process {self.what}: waiting for it{left}")
        time.sleep(PAUSE)
