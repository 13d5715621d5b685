"""Measurements kept under their settings: nothing is overwritten by less.

results/likelihood.json             the headline: of the newest weights the largest measurement
results/likelihood-3fa41c07.json    one with other settings, whose hash it is
results/likelihood-3fa41c07.jsonl   its rows, where likelihood.jsonl has those of other settings

What was asked is kept in the result, under "kept". The same question asked again replaces its own
answer alone. Whatever is replaced as headline lies under its hash before the new one appears, so a
kill at any point loses no measurement; it may leave one twice, and the copy is passed over. Of
two commands that are done at once, the second waits until the first has kept its own.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from scoreflow.errors import RequestError, RunError
from scoreflow.storage.atomic_files import Json, dumps, load_json, make_folder, write_atomic
from scoreflow.storage.locks.ownership import held
from scoreflow.storage.sample_names import SHORT, hash_of

Rank = Callable[[Json], Mapping[str, float]]
"""Of a result, what makes it the headline: the greatest in the first name that differs, and of
equal ones the newest. The names say why another one stays: it is "of more data", say."""
NEWEST: Rank = lambda _result: {}  # noqa: E731  (the rank of what does not compete)
Merge = Callable[[Json, Json], Json]
"""Of a result and the earlier answer to the same question, what is kept."""


@dataclass(frozen=True)
class Kept:
    """Where a measurement went.

    Attributes:
        path: its file.
        headline: the file of the headline.
        reason: why that one stays, "" where it is this one.
    """

    path: Path
    headline: Path
    reason: str = ""

    @property
    def remark(self) -> str:
        """A line, where it is not the headline; "" where it is."""
        if self.path == self.headline:
            return ""
        folder = self.path.parent.name
        return (
            f"kept as {folder}/{self.path.name}; {folder}/{self.headline.name} stays: it is "
            f"{self.reason}"
        )


def keep(
    folder: Path,
    name: str,
    result: Json,
    question: Json,
    rank: Rank = NEWEST,
    last: int | None = None,
    merge: Merge | None = None,
) -> Kept:
    """Write a result so that no other one is lost.

    A headline of weights that are gone stays beside: of the same step with another hash under
    "weights", or of a later step than there is.

    Args:
        folder: of the results.
        name: of the headline, without ending.
        result: of the measurement, complete; JSON values, tensors and arrays.
        question: all that it is a function of.
        rank: of results, this one and those that are there, which may lack what newer ones have.
        last: the last step of which there are weights; None for no training.
        merge: takes over what this answer lacks and the earlier one had.
    """
    with held(folder / f".{name}.lock", f"writes {name}.json"):
        return _kept(folder, name, result, question, rank, last, merge)


def _kept(
    folder: Path,
    name: str,
    result: Json,
    question: Json,
    rank: Rank,
    last: int | None,
    merge: Merge | None,
) -> Kept:
    """`keep`, while nobody else does."""
    own = hash_of(question)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    headline, beside = folder / f"{name}.json", folder / f"{name}-{own[:SHORT]}.json"
    there = _read(headline)
    again = there is not None and hash_in(there) == own
    earlier = there if again else _read(beside)
    if merge is not None and earlier is not None and hash_in(earlier) == own:
        result = merge(result, earlier)
    result = {**result, "kept": {"as": name, "hash": own, "date": now}}
    if there is None or again:
        _write(headline, result)
        return Kept(headline, headline)
    if not _gone(there, result, last) and (reason := _reason(rank, there, result)):
        _write(beside, result)
        return Kept(beside, headline, reason)
    other = hash_in(there)
    _write(
        folder / f"{name}-{other[:SHORT]}.json",
        {**there, "kept": {"as": name, "hash": other, **_record_in(there)}},
    )
    _write(headline, result)
    with suppress(OSError):  # its own earlier answer; twice, it is passed over
        beside.unlink()
    return Kept(headline, headline)


def hash_in(result: Json) -> str:
    """The hash of what a result answers; of one that records none, of its settings and step."""
    kept = _record_in(result)
    if isinstance(kept.get("hash"), str):
        return str(kept["hash"])
    return hash_of({key: result.get(key) for key in ("settings", "step")})


def headline_of(name: str, result: Json) -> str:
    """The name of the headline that a result stands beside; its own where it is one.

    Args:
        name: of its file, without ending.
        result: in it.
    """
    kept = _record_in(result)
    return str(kept["as"]) if kept.get("as") else name


def _record_in(result: Json) -> Json:
    """What a result says of how it was kept; {} where it says nothing."""
    kept = result.get("kept")
    return kept if isinstance(kept, dict) else {}


def _gone(there: Json, result: Json, last: int | None) -> bool:
    """Whether an earlier result is of weights that a training has replaced since."""
    step, weights = there.get("step"), there.get("weights")
    if isinstance(step, int) and last is not None and step > last:
        return True
    return (
        None not in (weights, step)
        and step == result.get("step")
        and weights != result.get("weights", weights)
        and average_of(there) == average_of(result)
    )


def average_of(result: Json) -> float:
    """The relative width of the reconstructed average that a result is of; 0 as trained."""
    settings = result.get("settings")
    ema = settings.get("ema") if isinstance(settings, dict) else None
    length = ema.get("length") if isinstance(ema, dict) else None
    return float(length) if isinstance(length, int | float) else 0.0


def _reason(rank: Rank, there: Json, result: Json) -> str:
    """Why an earlier result comes before this one, "" where it does not."""
    theirs, own = _ranked(rank, there), _ranked(rank, result)
    first = next((name for name in theirs if theirs[name] != own.get(name)), "")
    return first if first and theirs[first] > own.get(first, -math.inf) else ""


def _ranked(rank: Rank, result: Json) -> Mapping[str, float]:
    try:
        return rank(result)
    except (KeyError, TypeError, ValueError, AttributeError):  # it lacks what newer results have
        return {}


def _read(path: Path) -> Json | None:
    try:
        return load_json(path, "", "")
    except RequestError:  # missing, or damaged, which nothing can be lost of
        return None


def _write(path: Path, result: Json) -> None:
    data = dumps(result, f"results/{path.name}", RunError)
    make_folder(path.parent)
    write_atomic(path, data)
