"""Measurements kept under their settings: nothing is overwritten by less.

results/likelihood.json             the headline: of the newest weights the largest measurement
results/likelihood-3fa41c07.json    one with other settings, whose hash it is
results/likelihood-3fa41c07.jsonl   its rows, where likelihood.jsonl has those of other settings

What was asked is kept in the result, under "kept". The same question asked again replaces its own
answer alone. Whatever is replaced as headline lies under its hash before the new one appears, so a
kill at any point loses no measurement; it may leave one twice, and the copy is passed over.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from glob import escape
from pathlib import Path

from scoreflow.errors import RequestError, RunError
from scoreflow.storage.atomic_files import Json, dumps, load_json, write_atomic
from scoreflow.storage.sample_names import SHORT, hash_of

Rank = Callable[[Json], Sequence[float]]
"""Of a result, what makes it the headline: the greatest, and of equal ones the newest."""
NEWEST: Rank = lambda _result: ()  # noqa: E731  (the rank of what does not compete)


@dataclass(frozen=True)
class Kept:
    """Where a measurement went.

    Attributes:
        path: its file.
        headline: the file of the headline.
    """

    path: Path
    headline: Path

    @property
    def remark(self) -> str:
        """A line, where it is not the headline; "" where it is."""
        if self.path == self.headline:
            return ""
        folder = self.path.parent.name
        return (
            f"kept as {folder}/{self.path.name}; {folder}/{self.headline.name} stays: it is of "
            "newer weights, of more data or of all classes"
        )


def keep(folder: Path, name: str, result: Json, question: Json, rank: Rank = NEWEST) -> Kept:
    """Write a result so that no other one is lost.

    Args:
        folder: of the results.
        name: of the headline, without ending.
        result: of the measurement, complete; JSON values, tensors and arrays.
        question: all that it is a function of.
        rank: of results, this one and those that are there, which may lack what newer ones have.
    """
    own = hash_of(question)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    result = {**result, "kept": {"as": name, "hash": own, "date": now}}
    headline, beside = folder / f"{name}.json", folder / f"{name}-{own[:SHORT]}.json"
    there = _read(headline)
    if there is None or hash_in(there) == own:
        _write(headline, result)
        return Kept(headline, headline)
    if _rank(rank, result) < _rank(rank, there):
        _write(beside, result)
        return Kept(beside, headline)
    other = hash_in(there)
    _write(
        folder / f"{name}-{other[:SHORT]}.json",
        {**there, "kept": {"as": name, "hash": other, **there.get("kept", {})}},
    )
    _write(headline, result)
    beside.unlink(missing_ok=True)  # its own earlier answer
    return Kept(headline, headline)


def hash_in(result: Json) -> str:
    """The hash of what a result answers; of one that records none, of its settings and step."""
    kept = result.get("kept")
    if isinstance(kept, dict) and isinstance(kept.get("hash"), str):
        return str(kept["hash"])
    return hash_of({key: result.get(key) for key in ("settings", "step")})


def headline_of(name: str, result: Json) -> str:
    """The name of the headline that a result stands beside; its own where it is one.

    Args:
        name: of its file, without ending.
        result: in it.
    """
    kept = result.get("kept")
    return str(kept["as"]) if isinstance(kept, dict) and kept.get("as") else name


def rows_name(folder: Path, name: str, heading: Json) -> str:
    """The name for rows made under a heading: the plain one, unless others have it.

    Args:
        folder: of the rows' files.
        name: the plain one, without ending.
        heading: all that a row depends on but its number.
    """
    first = dumps(heading, name, RunError, indent=None, sort_keys=True)
    of_others = any(
        _first_line(path) not in (b"", first)
        for path in (folder / f"{name}.jsonl", *folder.glob(f"{escape(name)}.rank*.jsonl"))
    )
    return f"{name}-{hash_of(heading)[:SHORT]}" if of_others else name


def _rank(rank: Rank, result: Json) -> tuple[float, ...]:
    try:
        return tuple(rank(result))
    except (KeyError, TypeError, ValueError, AttributeError):  # it lacks what newer results have
        return ()


def _read(path: Path) -> Json | None:
    try:
        return load_json(path, "", "")
    except RequestError:  # missing, or damaged, which nothing can be lost of
        return None


def _write(path: Path, result: Json) -> None:
    data = dumps(result, f"results/{path.name}", RunError)
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, data)


def _first_line(path: Path) -> bytes:
    """The whole first line of a file; b"" where it has none."""
    try:
        with open(path, "rb") as file:
            line = file.readline()
    except FileNotFoundError:
        return b""
    return line if line.endswith(b"\n") else b""
