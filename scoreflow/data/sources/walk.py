"""The files below a folder, links followed, in the order of their names."""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from scoreflow.data.reading.formats import SUFFIXES
from scoreflow.data.sources.names import is_junk
from scoreflow.data.sources.tables.files import SUFFIXES as TABLES
from scoreflow.errors import RequestError, first_line

OPENED = (*sorted(SUFFIXES), *TABLES, ".npy", ".json")
"""Endings of the files in a folder that are opened."""
DEEPEST = 100
"""So many folders in one another are looked into."""


def files_below(root: Path) -> list[str]:
    """The names of all files below a folder, with "/" between their parts.

    Hidden ones and those of operating systems are left out. A link to a folder is followed,
    unless it leads back to one that it lies in.
    """
    above = frozenset(_identity(each) for each in (root.resolve(), *root.resolve().parents))
    return list(_below(str(root), "", above))


def _below(folder: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise RequestError(f"{folder} cannot be read ({first_line(error)})") from error
    if prefix.count("/") > DEEPEST:
        raise RequestError(
            f"{folder} lies more than {DEEPEST} folders deep; pass the path of a folder below"
        )
    for entry in ordered:
        if is_junk(entry.name):
            continue
        if not os.path.isdir(entry.path) if entry.is_symlink() else not entry.is_dir():
            _refuse_device(entry)
            yield prefix + entry.name
            continue
        try:
            here = _identity(Path(entry.path))
        except OSError as error:  # it went while it was listed
            raise RequestError(f"{entry.path} cannot be read ({first_line(error)})") from error
        if here not in above:
            yield from _below(entry.path, f"{prefix}{entry.name}/", above | {here})


def _refuse_device(entry: "os.DirEntry[str]") -> None:
    """Refuse a pipe, socket or device that would be opened, and may never end.

    A file passes, and so does a lost link; of any other name nothing is opened.
    """
    if not entry.name.lower().endswith(OPENED):
        return
    with suppress(OSError):  # a link that leads nowhere is told of where it is read
        if entry.is_file():
            return
        kind = entry.stat().st_mode
        if stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) or stat.S_ISCHR(kind) or stat.S_ISBLK(kind):
            raise RequestError(f"{entry.path} is no regular file; remove it, or pass other data")


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino
