"""Resumable result rows: JSON lines under a heading, which survive a kill.

    {"hashed": true, "seed": 0, "weights": "532ffd...", ...}
    {"image": 0, ..., "question": "3fa41c07d2b9e815", "check": "90b1f0a4c2d7e386"}

The heading says what the rows were made with. A file under another heading is begun anew; rows
under the same one are taken as done. Every row ends with a hash of its heading and one of its own
bytes, so that one which was damaged, or is of another question, is known and made again; rows
that are older than this have none, and are held against the schema of such rows alone. By the
same hashes rows are known whose heading was damaged: who asks for them writes it anew. A line
without its newline was cut off by a kill. A file is written by one command at a time
(`owned_rows`), of which several processes write a file each, and read all of them.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from scoreflow.errors import RequestError, RunError, warn
from scoreflow.storage.atomic_files import Json, dumps, fsync_file, reason_of, write_atomic
from scoreflow.storage.locks.file_lock import Lock
from scoreflow.storage.locks.ownership import Waiting, attempt, let_go
from scoreflow.storage.regular_files import open_regular
from scoreflow.storage.sample_names import SHORT, hash_of
from scoreflow.storage.validation import InvalidError, open_to_read, parse_json, read_bytes

HASHED = "hashed"
"""In a heading: each of its rows has a hash of it and one of its own."""
OF, CHECK = "question", "check"
"""In a row: the hash of its heading, and that of all bytes before it."""
DIGITS = 16
"""Of either hash."""
TAIL = len(f', "{CHECK}": "{"0" * DIGITS}"}}\n')
"""Bytes of a row that its hash is not of."""
_SEAL = re.compile(
    rf'"{OF}": "([0-9a-f]{{{DIGITS}}})", "{CHECK}": "([0-9a-f]{{{DIGITS}}})"}}\n'.encode()
)
_SEALED = len(f'"{OF}": "{"0" * DIGITS}"') + TAIL
DAMAGED = "damaged"
"""In place of the text of a heading that says nothing, or something else than all of its rows."""

Number = int | str
Schema = Callable[[Json], object]
"""Raises an `InvalidError` for what is no such row."""
Agree = Callable[[str], str]
"""A value in any process -> that of the first; every process calls it once."""


def anything(row: Json) -> None:
    """The schema of rows that are not looked at."""


def itself(value: str) -> str:
    """`Agree` of a single process."""
    return value


class Rows:
    """Rows by their number, kept in a file as they come.

    Args:
        path: of the file.
        heading: all that a row depends on but its number.
        key: the field that holds a row's number.
        others: the files of other processes, whose rows count too; called when they are needed.
        schema: what a row must be.

    Attributes:
        done: the rows that are there; of two under one number the later, unless it alone is not
            done.
        damaged: how many are under this heading, but are not what was written.
        headless: whether the file had rows of this question under a damaged heading.

    Raises:
        RequestError: a file cannot be read.
    """

    def __init__(
        self,
        path: Path,
        heading: Json,
        key: str = "image",
        others: Callable[[], list[Path]] = list,
        schema: Schema = anything,
    ) -> None:
        self.path, self.key, self._others, self._schema = path, key, others, schema
        self._heading = _text(heading)
        self._question = _question(self._heading)
        marked = {**heading, HASHED: True}
        self._first = dumps(marked, path.name, RunError, indent=None, sort_keys=True)
        self.damaged, self.headless = 0, False
        self._lost = self._twice = False
        self._held, self._whole = self._read(path)
        self.done = self._better(self._held, self._theirs())

    @property
    def remark(self) -> str:
        """A line about damaged rows, or a damaged heading; "" where there are none."""
        told = []
        if self.headless:
            told.append("its first line was damaged, and is written anew: its rows are kept")
        if self._lost:
            told.append("its first line is damaged, no row is of this question: begun anew")
        if self.damaged:
            rows = "1 row is" if self.damaged == 1 else f"{self.damaged} rows are"
            told.append(f"{rows} damaged, or of another question, and made again")
        name = "".join(c if c.isprintable() else "?" for c in self.path.name)
        return f"{name}: {'; '.join(told)}" if told else ""

    def append(self, rows: Iterable[Json]) -> None:
        """Keep some more rows; they have reached the disk when this returns.

        Raises:
            RunError: they cannot be written, or the file is no longer under this heading.
        """
        rows = list(rows)
        lines = [self._sealed(row) for row in rows]
        try:
            self.begin()
            with self._opened() as file:
                file.write(b"".join(lines))
                file.flush()
                fsync_file(file.fileno())
        except OSError as error:
            raise RunError(f"cannot write {self.path} ({reason_of(error)})") from error
        self._twice |= any(row[self.key] in self._held for row in rows)
        for row in rows:
            self._put(row, self._held)
            self._put(row, self.done)

    def adopt(self) -> None:
        """Take in the rows of the other processes, all of which are done: their files go."""
        others = self._others()
        if not others:
            return
        held, _ = self._read(self.path)
        better = self._better(held, self._theirs())
        self.append([row for number, row in better.items() if held.get(number) != row])
        for other in others:
            with suppress(OSError):  # its rows are here as well
                other.unlink()

    def begin(self) -> None:
        """Give the file its heading and whole rows: what stood under another one goes.

        A file that has both already is left as it is.

        Raises:
            RunError: it cannot be written.
        """
        if self._whole and self.path.exists():
            return
        lines = [self._first, *map(self._sealed, self._held.values())]
        try:
            self.path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot write {self.path} ({error.strerror})") from error
        write_atomic(self.path, b"".join(lines))
        self._whole = True

    def forget(self) -> None:
        """Begin anew: no row is done any longer, those of other processes neither.

        Raises:
            RunError: a file cannot be written or removed.
        """
        for other in self._others():
            try:
                other.unlink()
            except OSError as error:
                raise RunError(f"cannot remove {other} ({error.strerror})") from error
        self._held, self.done, self._whole = {}, {}, False
        self.begin()

    def tidy(self) -> None:
        """Leave each row once, and no file with a heading alone."""
        if self._twice:
            self._whole = self._twice = False
            with suppress(RunError):  # a row twice is a row
                self.begin()
        with suppress(OSError):
            if not self._held and self.path.stat().st_size == len(self._first):
                self.path.unlink()

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        """The file, to write at its end: what is opened here is seen to have this heading."""
        with open(self.path, "r+b", opener=_at_the_end) as file:
            if file.read(len(self._first)) != self._first:
                raise RunError(
                    f"{self.path} was replaced while this command wrote to it: give the same "
                    "command again, it goes on after the rows that are there"
                )
            yield file

    def _theirs(self) -> dict[Number, Json]:
        found: dict[Number, Json] = {}
        for other in self._others():
            found |= self._read(other)[0]
        return found

    def _put(self, row: Json, found: dict[Number, Json]) -> None:
        """A later row among those found, unless it alone is not done."""
        number = row[self.key]
        if number not in found or _is_done(row) or not _is_done(found[number]):
            found[number] = row

    def _better(self, held: dict[Number, Json], others: dict[Number, Json]) -> dict[Number, Json]:
        """Both together; where both have a number, the others' only if it alone is done."""
        worse = [k for k in held.keys() & others.keys() if _is_done(held[k])]
        return held | {k: row for k, row in others.items() if k not in worse}

    def _read(self, path: Path) -> tuple[dict[Number, Json], bool]:
        """The rows of a file, and whether there is nothing to mend in it."""
        lines = lines_of(path)
        said = heading_in(lines[0]) if lines else ""
        whose = _whose(said, self._heading, lines[1:])
        if not lines or whose != self._heading:
            self._lost |= whose == DAMAGED
            return {}, False
        headless = said != self._heading
        marked, whole = headless or lines[0] == self._first, lines[-1].endswith(b"\n")
        self.headless |= headless
        found: dict[Number, Json] = {}
        for line in lines[1:] if whole else lines[1:-1]:
            try:
                row = self._parsed(line, marked)
            except InvalidError:
                self.damaged += 1
                whole = False
            else:
                whole &= row[self.key] not in found
                self._put(row, found)
        return found, whole and marked and not headless

    def _parsed(self, line: bytes, marked: bool) -> Json:
        """The row of a line.

        Raises:
            InvalidError: it is damaged, or of another question: it is made again.
        """
        row = parse_json(line)
        if not isinstance(row, dict) or type(row.get(self.key)) not in (int, str):
            raise InvalidError(f"it has no {self.key!r}")
        if marked or OF in row or CHECK in row:
            if row.pop(OF, None) != self._question:
                raise InvalidError("it is of another question")
            if row.pop(CHECK, None) != _hash(line[:-TAIL]):
                raise InvalidError("its bytes are not those that were written")
        self._schema(row)
        return row

    def _sealed(self, row: Json) -> bytes:
        """The line of a row, with the two hashes behind its values."""
        text = dumps({**row, OF: self._question}, self.path.name, RunError, indent=None)[:-2]
        return text + f', "{CHECK}": "{_hash(text)}"}}\n'.encode()


@contextmanager
def owned_rows(
    folder: Path,
    name: str,
    heading: Json,
    rank: int = 0,
    key: str = "image",
    schema: Schema = anything,
    agree: Agree = itself,
) -> Iterator[Rows]:
    """{name}.jsonl of a folder, which nobody else writes to meanwhile.

    Where rows of another question have that file, or another command is making some, these go to
    {name}-{hash}.jsonl. Who asks the question that another command is at waits for it, and finds
    what that has made. Of several processes the first holds the file for all; each but the first
    writes {name}.rank{rank}.jsonl.

    Args:
        folder: made if it is not there.
        name: of the file, without ending.
        heading: all that a row depends on but its number.
        rank: of this process.
        key: as of `Rows`.
        schema: as of `Rows`.
        agree: tells all processes what the first says.

    Raises:
        RequestError: a file cannot be read, or is none.
        RunError: a file cannot be written.
    """
    if rank:
        yield rows_in(folder, agree(name), heading, rank, key, schema)
        return
    name, lock = _taken(folder, name, heading)
    try:
        rows = rows_in(folder, name, heading, 0, key, schema)
        if rows.headless or not rows.path.exists():
            rows.begin()  # so that others see whose it is
        agree(name)
        if rows.remark:
            warn(rows.remark)
        try:
            yield rows
        finally:
            rows.tidy()
    finally:
        let_go(lock)


def _taken(folder: Path, name: str, heading: Json) -> tuple[str, Lock]:
    """The name that rows under a heading have, and its lock."""
    waiting: dict[str, Waiting] = {}
    while True:
        chosen = rows_name(folder, name, heading)
        path = folder / f".{chosen}.jsonl.lock"
        lock = attempt(path)
        if lock is not None and rows_name(folder, name, heading) == chosen:
            _tell_of_damage(folder, name, heading, chosen)
            return chosen, lock
        if lock is not None:
            let_go(lock)  # another question has got the name in between
        else:
            waiting.setdefault(chosen, Waiting(path, "measures the same")).pause()


def _tell_of_damage(folder: Path, name: str, heading: Json, chosen: str) -> None:
    """A line for each file that keeps a name from these rows, and does not say whose it is."""
    for path in (folder / f"{name}.jsonl", *_ranks(folder, name)):
        if chosen != name and heading_of(path, _text(heading)) == DAMAGED:
            warn(
                f"{path}: its first line is damaged, and its rows are none of this question, "
                f"which go to {chosen}.jsonl: remove it, unless the command that made it shall "
                "be given again, which takes them up"
            )


def rows_name(folder: Path, name: str, heading: Json) -> str:
    """The name for rows made under a heading: the plain one, unless others have it.

    Args:
        folder: of the rows' files.
        name: the plain one, without ending.
        heading: all that a row depends on but its number.
    """
    own, text = f"{name}-{hash_of(heading)[:SHORT]}", _text(heading)
    files = (folder / f"{name}.jsonl", *_ranks(folder, name))
    here, *ranks = [heading_of(path, text) for path in files]
    if any(each not in ("", text) for each in (here, *ranks)):
        return own
    there = here == text or text in ranks or heading_of(folder / f"{own}.jsonl", text) != text
    return name if there else own


def rows_in(
    folder: Path,
    name: str,
    heading: Json,
    rank: int,
    key: str,
    schema: Schema = anything,
) -> Rows:
    """{name}.jsonl of a folder: the rows made under this heading, and room for more.

    Of several processes, each but the first writes {name}.rank{rank}.jsonl.
    """
    own = folder / (f"{name}.rank{rank}.jsonl" if rank else f"{name}.jsonl")

    def others() -> list[Path]:
        found = [folder / f"{name}.jsonl", *_ranks(folder, name)]
        return [path for path in found if path != own and path.exists()]

    return Rows(own, heading, key, others, schema)


def _ranks(folder: Path, name: str) -> list[Path]:
    """The files of the other processes."""
    ranked = re.compile(rf"{re.escape(name)}\.rank\d+\.jsonl")
    return sorted(path for path in folder.glob("*.jsonl") if ranked.fullmatch(path.name))


def heading_in(line: bytes) -> str:
    """What a first line says, without the mark; `DAMAGED` where it says nothing."""
    try:
        heading = parse_json(line)
    except InvalidError:
        return DAMAGED
    if not isinstance(heading, dict) or not line.endswith(b"\n"):
        return DAMAGED
    return _text({key: value for key, value in heading.items() if key != HASHED})


def heading_of(path: Path, asked: str) -> str:
    """What a file's rows were made with; "" where it has no whole first line.

    Args:
        path: of the file.
        asked: the text of a heading, for which rows under a damaged one are held too.
    """
    try:
        with open_to_read(path) as file:
            line = file.readline(2**20)
            if not line.endswith(b"\n"):
                return ""
            return _whose(heading_in(line), asked, file)
    except FileNotFoundError:
        return ""
    except (OSError, InvalidError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else str(error)
        raise _unreadable(path, reason) from error


def _whose(said: str, asked: str, lines: Iterable[bytes]) -> str:
    """What rows were made with: what their heading says, unless all that have hashes deny it.

    Args:
        said: by the heading.
        asked: the text of another one, which may be theirs.
        lines: the rows.

    Returns:
        `said`; or, where no whole row is of that, `asked` if one is, and `DAMAGED` otherwise.
    """
    if said == asked:
        return said
    own, other, found = _question(said), _question(asked), said
    for line in lines:
        question = _question_of(line)
        if question == own:
            return said
        if question == other:
            found = asked
        elif question and found != asked:
            found = DAMAGED
    return found


def _question_of(line: bytes) -> str:
    """The question that a whole row says it is of; "" for a row without hashes, or damaged."""
    found = _SEAL.search(line[-_SEALED:])
    if found is None or found[2].decode() != _hash(line[:-TAIL]):
        return ""
    return found[1].decode()


def _question(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def lines_of(path: Path) -> list[bytes]:
    """The lines of a file, with their ends; the last one may lack its own."""
    try:
        return read_bytes(path).splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except (OSError, InvalidError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else str(error)
        raise _unreadable(path, reason) from error


def _unreadable(path: Path, reason: str) -> RequestError:
    return RequestError(
        f"{path} cannot be read ({reason}): move it away, and its rows are made again"
    )


def _at_the_end(path: str, flags: int) -> int:
    return open_regular(Path(path), flags | os.O_APPEND)


def _text(heading: Json) -> str:
    """A heading as it is compared: without the mark, in the order of its keys."""
    plain = dumps(heading, "a heading", RunError, indent=None, sort_keys=True)
    return json.dumps(json.loads(plain), sort_keys=True)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:DIGITS]


def _is_done(row: Json) -> bool:
    return bool(row.get("status", "done") == "done")
