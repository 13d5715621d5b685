"""PyTorch's .pt, .pth and .bin files of other codebases, read without running anything in them.

A file that torch.save wrote is a pickle, and a pickle may name any function of the machine to be
called. `torch.load(weights_only=True)` knows a fixed list of names; here its refusal becomes one
line that says which name the file asked for.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any

import torch

from scoreflow.errors import RequestError

ENDINGS = (".pt", ".pth", ".bin", ".ckpt")
"""Of the names that such files have."""
LONGEST_NAME = 80
"""Characters of a name from a file that a message shows."""
_KEPT: ContextVar[dict[tuple[object, ...], dict[str, Any]] | None] = ContextVar(
    "kept", default=None
)
_CAUSE = re.compile(r"WeightsUnpickler error:\s*(.+)")
_ASKED_FOR = re.compile(r"GLOBAL (\S+)|class (\S+) to the unpickler")


def load_tensors(path: str | Path) -> dict[str, Any]:
    """The dictionary in a file that torch.save wrote, in either of its two formats.

    Args:
        path: the file.

    Returns:
        What the file holds by its names, untouched: tensors on the CPU with their dtypes, plain
        values, and further dictionaries and lists of them.

    Raises:
        RequestError: it cannot be read, is damaged or of another format, is no dictionary, or asks
            for anything but tensors and plain values: the message names what, and nothing ran.
    """
    kept = _KEPT.get()
    if kept is None:
        return _load(path)
    key = _state_of(path)
    if key not in kept:
        kept[key] = _load(path)
    return dict(kept[key])


@contextmanager
def read_once() -> Iterator[None]:
    """Inside it a file is read once: `load_tensors` keeps what it found until the outermost ends.

    Readers look into a file of many gigabytes one after another to tell whose it is. A file that
    has changed meanwhile, by its size or the time of its last change, is read again.
    """
    if _KEPT.get() is not None:
        yield
        return
    token = _KEPT.set({})
    try:
        yield
    finally:
        _KEPT.reset(token)


def _state_of(path: str | Path) -> tuple[object, ...]:
    """What changes when a file does."""
    try:
        found = Path(path).stat()
    except OSError:
        return (str(path),)  # the reading will say why
    return str(path), found.st_mtime_ns, found.st_size, found.st_ino


def _load(path: str | Path) -> dict[str, Any]:
    try:
        found = tensors_alone(open_file(path))
    except ForbiddenNameError as error:
        raise RequestError(refusal(path, str(error))) from error
    except Exception as error:  # whatever a damaged stream makes torch's readers raise
        raise RequestError(
            f"{path} is no file of torch.save, or a damaged one ({first_line(error)}): "
            f"compare its size with the original's, and download it again{_told_by(path)}"
        ) from error
    if not isinstance(found, dict):
        raise RequestError(
            f"{path} must hold a dictionary of tensors, holds one {type(found).__name__}: save "
            "the network's state_dict() in the program that made it"
        )
    return found


class ForbiddenNameError(Exception):
    """A stream asked for something outside the list; its text is the name, fit for a terminal."""


def tensors_alone(stream: IO[bytes]) -> object:
    """torch.load of tensors and plain values alone; closes the stream.

    Raises:
        ForbiddenNameError: it asks for anything else; nothing ran.
        Exception: it is damaged; of many kinds.
    """
    with stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about protocols and archives; what matters raises
        try:
            found: object = torch.load(stream, map_location="cpu", weights_only=True)
            return found
        except Exception as error:
            if asked := _ASKED_FOR.search(str(error)):
                raise ForbiddenNameError(printable(asked[1] or asked[2])) from error
            if "TorchScript" in str(error):
                raise ForbiddenNameError("torch.jit (a TorchScript program)") from error
            raise


def open_file(path: str | Path) -> IO[bytes]:
    """A file, opened for reading bytes.

    Raises:
        RequestError: it is not there, is a folder, or may not be read.
    """
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise RequestError(
            f"{path} cannot be read ({error.strerror}): name the checkpoint's own file"
        ) from error


def refusal(path: str | Path, name: str) -> str:
    """The message about a file that asks for a forbidden name."""
    return (
        f"{path} asks for {name}, which is neither a tensor nor a plain value: refused, and "
        "nothing in the file was run; have whoever made it save the state_dict() of the network "
        "alone"
    )


def printable(name: str) -> str:
    """A name from an untrusted file as one short piece of ASCII, without control characters."""
    shown = ascii(name)[1:-1]
    return shown if len(shown) <= LONGEST_NAME else f"{shown[:LONGEST_NAME]}..."


def first_line(error: Exception) -> str:
    """What an error says in its first line, fit for a terminal; its kind where it is silent."""
    cause = _CAUSE.search(str(error))  # torch's first line would advise to load it unsafely
    lines = (cause[1] if cause else str(error)).strip().splitlines()
    return printable(lines[0]) if lines else type(error).__name__


def _told_by(path: str | Path) -> str:
    """What the beginning of a file that is no checkpoint says about how it came about."""
    with open_file(path) as stream:
        start = stream.read(64).lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "; it is a pointer of Git LFS: run git lfs pull"
    if start.startswith((b"<!doctype", b"<html")):
        return "; it is a web page: the link led to a page about the file"
    return ""
