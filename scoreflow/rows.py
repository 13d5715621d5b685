"""A result that grows row by row and survives a kill: JSON lines under a heading.

The heading says what the rows were made with. A file under another heading is begun anew; rows
under the same one are taken as done. A line without its newline was cut off by a kill. Several
processes write a file each, and read all of them.
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
        others: files of other processes, whose rows count too.

    Attributes:
        done: the rows that are there.
    """

    def __init__(
        self, path: Path, heading: Json, key: str = "image", others: Iterable[Path] = ()
    ) -> None:
        self.path, self.key = path, key
        self._first = dumps(heading, path.name, RunError, indent=None, sort_keys=True)
        self._kept = self._under_this_heading(path)
        self._begun = False
        theirs = [line for other in others for line in self._under_this_heading(other)]
        rows = map(self._parse, [*theirs, *self._kept])
        self.done: dict[int | str, Json] = {row[key]: row for row in rows if row}

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

    def adopt(self, rows: Iterable[Json]) -> None:
        """Take in the rows of the other processes, all of which are done: their files go."""
        held = map(self._parse, self._under_this_heading(self.path))
        keys = {row[self.key] for row in held if row}
        self.append(row for row in rows if row[self.key] not in keys)
        for other in self.path.parent.glob(f"{self.path.stem}.*{self.path.suffix}"):
            other.unlink()

    def _parse(self, line: bytes) -> Json | None:
        """The row of a line, None where it is damaged: that row is made again."""
        try:
            row = json.loads(line)
        except ValueError:
            return None
        return row if isinstance(row, dict) and self.key in row else None

    def _under_this_heading(self, path: Path) -> list[bytes]:
        lines = _whole_lines(path)
        return lines[1:] if lines[:1] == [self._first] else []

    def _begin(self) -> None:
        """Give the file its heading; what stood under another stays until a row replaces it."""
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
