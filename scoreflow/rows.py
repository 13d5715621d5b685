"""A result that grows row by row and survives a kill: JSON lines under a heading.

The heading says what the rows were made with. A file under another heading is begun anew; rows
under the same one are taken as done. A line without its newline was cut off by a kill.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from scoreflow.errors import RunError
from scoreflow.files import Json, dumps, write_atomic


class Rows:
    """Rows by their number, kept in a file as they come.

    Args:
        path: of the file.
        heading: all that a row depends on but its number.
        key: the field that holds a row's number.

    Attributes:
        done: the rows that are there.
    """

    def __init__(self, path: Path, heading: Json, key: str = "image") -> None:
        self.path, self.key = path, key
        self._first = dumps(heading, path.name, RunError, indent=None, sort_keys=True)
        lines = _whole_lines(path)
        self._kept = lines[1:] if lines[:1] == [self._first] else []
        self._begun = False
        self.done: dict[int, Json] = {row[key]: row for row in map(_parse, self._kept) if row}

    def append(self, rows: Iterable[Json]) -> None:
        """Keep some more rows; they have reached the disk when this returns."""
        rows = list(rows)
        self._begin()
        data = b"".join(dumps(row, self.path.name, RunError, indent=None) for row in rows)
        try:
            with open(self.path, "ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"cannot write {self.path} ({error.strerror})") from error
        self.done |= {row[self.key]: row for row in rows}

    def _begin(self) -> None:
        """Give the file its heading; what stood under another one stays until a row replaces it."""
        if not self._begun:
            self.path.parent.mkdir(exist_ok=True)
            write_atomic(self.path, b"".join([self._first, *self._kept]))
            self._begun = True


def _whole_lines(path: Path) -> list[bytes]:
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [line for line in lines if line.endswith(b"\n")]


def _parse(line: bytes) -> Json | None:
    """The row of a line, None where it is damaged: that row is made again."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
