"""Paths that a user gives: refused in one line where no file can ever be at them."""

import hashlib
import os
from pathlib import Path

from scoreflow.errors import RequestError

LONGEST = 4096 - 256
"""Bytes of a path, so that the files below it have names too: Linux takes 4096 in all."""
LONGEST_NAME = 100
"""Bytes that a name of the user's keeps inside the name of a file of ours; a name has 255."""
SHOWN = 60
"""Characters of a path that a message shows."""


def user_path(text: str | Path, what: str) -> Path:
    """A path as the user wrote it, with ~ expanded; whether anything lies there is not asked.

    Args:
        text: the path.
        what: the flag or key that gave it, for messages.

    Raises:
        RequestError: it has a null byte, a name that is too long or a home that is not known, or
            leads through a folder that may not be entered.
    """
    shown = repr(str(text)[:SHOWN] + "..." if len(str(text)) > SHOWN else str(text))
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise RequestError(
            f"{what}: nobody's home is known for {shown}; write the whole path"
        ) from error
    try:
        path.stat()
        long = len(os.fsencode(path)) > LONGEST
    except (FileNotFoundError, NotADirectoryError):
        long = len(os.fsencode(path)) > LONGEST
    except ValueError as error:
        raise RequestError(
            f"{what}: {shown} is no path ({error}); write one without it"
        ) from error
    except OSError as error:
        raise RequestError(
            f"{what}: {shown} cannot be opened ({error.strerror}); pass another path"
        ) from error
    if long:
        raise RequestError(f"{what}: {shown} is longer than {LONGEST} bytes; pass a shorter path")
    return path


def short_name(name: str) -> str:
    """A user's name as a part of a file's name: the end of a long one becomes its hash."""
    whole = os.fsencode(name)
    if len(whole) <= LONGEST_NAME:
        return name
    begin = whole[:LONGEST_NAME].decode(errors="ignore")
    return f"{begin}-{hashlib.sha256(whole).hexdigest()[:8]}"
