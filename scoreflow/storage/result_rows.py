"""Resumable result rows: JSON lines under a heading, which survive a kill.

The heading says what the rows were made with. A file under another heading is begun anew; rows
under the same one are taken as done. A line without its newline was cut off by a kill. Several
processes write a file each, and read all of them.
"""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from scoreflow.errors import RunError
from scoreflow.storage.atomic_files import Json, dumps, fsync_file, write_atomic


class Rows:
    """Rows by their number, kept in a file as they come.

    Args:
        path: of the file.
        heading: all that a row depends on but its number.
        key: the field that holds a row's number.
        others: the files of other processes, whose rows count too; called when they are needed.

    Attributes:
        done: the rows that are there; of two under one number the later, unless it alone is not
            done.
        stale: how many stand under another heading, and go when the first row is made.
    """

    def __init__(
        self,
        path: Path,
        heading: Json,
        key: str = "image",
        others: Callable[[], list[Path]] = list,
    ) -> None:
        self.path, self.key, self._others = path, key, others
        self._first = dumps(heading, path.name, RunError, indent=None, sort_keys=True)
        self._kept = self._under_this_heading(path)
        self._begun = False
        self.stale = max(0, len(_whole_lines(path)) - 1) if not self._kept else 0
        self.done = self._better(self._rows(self._kept), self._theirs())

    def append(self, rows: Iterable[Json]) -> None:
        """Keep some more rows; they have reached the disk when this returns."""
        rows = list(rows)
        self._begin()
        data = b"".join(dumps(row, self.path.name, RunError, indent=None) for row in rows)
        try:
            with open(self.path, "ab") as file:
                file.write(data)
                file.flush()
                fsync_file(file.fileno())
        except OSError as error:
            raise RunError(f"cannot write {self.path} ({error.strerror})") from error
        self.done |= {row[self.key]: row for row in rows}

    def adopt(self) -> None:
        """Take in the rows of the other processes, all of which are done: their files go."""
        others = self._others()
        if not others:
            return
        held = self._rows(self._under_this_heading(self.path))
        better = self._better(held, self._theirs())
        self.append([row for number, row in better.items() if held.get(number) != row])
        for other in others:
            other.unlink()

    def _theirs(self) -> dict[int | str, Json]:
        lines = [line for other in self._others() for line in self._under_this_heading(other)]
        return self._rows(lines)

    def _rows(self, lines: list[bytes]) -> dict[int | str, Json]:
        return {row[self.key]: row for row in map(self._parse, lines) if row}

    def _better(
        self, held: dict[int | str, Json], others: dict[int | str, Json]
    ) -> dict[int | str, Json]:
        """Both together; where both have a number, the others' only if it alone is done."""
        worse = [k for k in held.keys() & others.keys() if _is_done(held[k])]
        return held | {k: row for k, row in others.items() if k not in worse}

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


def rows_in(folder: Path, name: str, heading: Json, rank: int, key: str) -> Rows:
    """{name}.jsonl of a folder: the rows made under this heading, and room for more.

    Of several processes, each but the first writes {name}.rank{rank}.jsonl.
    """
    own = folder / (f"{name}.rank{rank}.jsonl" if rank else f"{name}.jsonl")
    ranked = re.compile(rf"{re.escape(name)}(\.rank\d+)?\.jsonl")

    def others() -> list[Path]:
        found = (path for path in folder.glob("*.jsonl") if ranked.fullmatch(path.name))
        return sorted(path for path in found if path != own)

    return Rows(own, heading, key, others)


def _is_done(row: Json) -> bool:
    return bool(row.get("status", "done") == "done")


def _whole_lines(path: Path) -> list[bytes]:
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [line for line in lines if line.endswith(b"\n")]
