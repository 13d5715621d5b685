"""The files below a folder, links followed, in the order of their names."""

import os
from collections.abc import Iterator
from pathlib import Path

from scoreflow.data.sources.names import is_junk
from scoreflow.errors import RequestError, first_line


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
    for entry in ordered:
        if is_junk(entry.name):
            continue
        if not os.path.isdir(entry.path) if entry.is_symlink() else not entry.is_dir():
            yield prefix + entry.name
            continue
        here = _identity(Path(entry.path))
        if here not in above:
            yield from _below(entry.path, f"{prefix}{entry.name}/", above | {here})


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino
