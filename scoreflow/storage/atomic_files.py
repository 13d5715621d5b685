"""Atomic file writes, and strict JSON.

What a file system or platform cannot do (locks on some network shares, folders that reach the disk
by themselves on Windows) is done without where nothing is lost by it, and said where something is.
"""

import errno
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from torch import Tensor

from scoreflow.errors import RequestError, RunError
from scoreflow.storage.regular_files import (
    CANNOT,
    WINDOWS,
    sweep,
    temporary_file,
)
from scoreflow.storage.validation import InvalidError, conform, parse_json, read_bytes, shown

Json = dict[str, Any]
T = TypeVar("T")
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EISDIR, errno.EBADF}
"""What it answers besides, where a folder cannot be opened like a file."""
REPLACES = 6
"""Attempts to put a file in another's place on Windows, where a reader forbids it for a moment."""


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
    try:
        with temporary_file(path) as temporary:
            yield temporary
            with open(temporary, "r+b") as file:
                fsync_file(file.fileno())
            _replace(temporary, path)
    except OSError as error:
        raise RunError(f"cannot write {path} ({reason_of(error)}): what it held stays") from error
    try:
        fsync_folder(path.parent)
    except OSError as error:
        raise RunError(
            f"{path} is written, and whether it has reached the disk is not known "
            f"({reason_of(error)}): see to the disk before you rely on it"
        ) from error


def reason_of(error: OSError) -> str:
    """What the system says of a failure, in a few words."""
    return error.strerror or str(error) or type(error).__name__


def _replace(temporary: Path, path: Path) -> None:
    for attempt in range(REPLACES):
        try:
            os.replace(temporary, path)
        except PermissionError:
            if not WINDOWS or attempt == REPLACES - 1:
                raise
            time.sleep(0.05 * 2**attempt)
        else:
            return


def make_folder(path: Path) -> None:
    """Make a folder, if it is not there, and those above it.

    Raises:
        RunError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {path} ({reason_of(error)})") from error


def check_writable(folder: Path, remedy: str) -> None:
    """Refuse a folder that nothing can be written into, before the work whose result it is for.

    Args:
        folder: or one that will be made, in the nearest folder above it that is there.
        remedy: what to do, for the message.

    Raises:
        RequestError: a file cannot be made in it.
    """
    folder = folder.absolute()
    folder = next(each for each in (folder, *folder.parents) if each.exists())
    sweep(folder, "try")  # what a kill left
    try:
        with temporary_file(folder / "try"):
            pass
    except OSError as error:
        raise RequestError(
            f"cannot write into {folder} ({reason_of(error)}), where the result belongs: {remedy}"
        ) from error


def check_readable(folder: Path, remedy: str, endings: tuple[str, ...] = ()) -> None:
    """Refuse a folder, or files in it, that cannot be read, before the work that needs them.

    Args:
        folder: that may be there.
        remedy: what to do, for the message.
        endings: of the files.

    Raises:
        RequestError: with the name of the folder, or of the first file.
    """
    if not folder.is_dir():
        return
    shut = None if os.access(folder, os.R_OK | os.X_OK) else folder
    if shut is None and endings:
        files = (path for path in sorted(folder.iterdir()) if path.suffix in endings)
        shut = next((path for path in files if _is_shut(path)), None)
    if shut is not None:
        raise RequestError(f"cannot read {shut} (Permission denied): {remedy}")


def _is_shut(path: Path) -> bool:
    return path.is_file() and not os.access(path, os.R_OK)


def append(file: IO[bytes], data: bytes) -> None:
    """Add data to an unbuffered file that is open for appending: all of them, or, failing, none.

    Raises:
        OSError: a full disk, say.
    """
    end = os.fstat(file.fileno()).st_size
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]
    except OSError:
        with suppress(OSError):
            file.truncate(end)
        raise


def fsync_folder(folder: Path) -> None:
    """Have the names in a folder reach the disk, where the system can be asked to."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:  # it cannot be opened like a file, as on Windows, or not asked
        if error.errno not in CANNOT | FORBIDDEN:
            raise


def fsync_file(descriptor: int) -> None:
    """Have what was written to a file reach the disk, where the file system can be asked to."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in CANNOT:
            raise


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


def load_json(path: Path, missing: str, remedy: str, kind: type[Any] = Json) -> Json:
    """The object in a JSON file as it is, with the fields that a schema does not name.

    Args:
        path: of the file.
        missing: the message where there is none.
        remedy: what to do where it is damaged, for the message.
        kind: the schema that it is of; see `storage.validation` for what is refused.

    Raises:
        RequestError: it is missing, or damaged.
    """
    value = _object_in(path, missing, remedy)
    _conform(value, kind, path, remedy)
    return value


def load_object(path: Path, kind: type[T], missing: str, remedy: str) -> T:
    """The object in a JSON file, as a schema: a frozen dataclass, see `storage.validation`.

    Raises:
        RequestError: `missing` where there is no file, or what is wrong with it and `remedy`.
    """
    return _conform(_object_in(path, missing, remedy), kind, path, remedy)


def _object_in(path: Path, missing: str, remedy: str) -> Json:
    try:
        value = parse_json(read_bytes(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RequestError(missing) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise RequestError(f"{path} cannot be read ({reason}): {remedy}") from error
    except InvalidError as error:
        raise RequestError(f"{path} cannot be read ({error}): {remedy}") from error
    if not isinstance(value, dict):
        raise RequestError(f"{path} must hold a JSON object, got {shown(value)}: {remedy}")
    return value


def _conform(value: Json, kind: type[T], path: Path, remedy: str) -> T:
    try:
        return conform(value, kind)
    except InvalidError as error:
        raise RequestError(f"{path} is damaged ({error}): {remedy}") from error
