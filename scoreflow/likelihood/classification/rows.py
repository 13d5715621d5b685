"""log p(x | class) of a data set: a row an image, resumable, shared by processes.

Images are measured in blocks that their numbers fix, whatever is there already: a row is then the
same bits after an interruption, and under any number of processes.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import torch
from torch import Tensor

from scoreflow.errors import RunError
from scoreflow.likelihood.classification.bound_by_class import LogLikelihoods
from scoreflow.models.score_model import arithmetic
from scoreflow.runtime.distributed import Shard
from scoreflow.runtime.progress_bar import Progress
from scoreflow.storage.atomic_files import Json
from scoreflow.storage.result_rows import Rows
from scoreflow.storage.validation import Length, Range, conform


class Way(Protocol):
    """Of measuring log p(x | class)."""

    def of(self, data: Tensor, index: Tensor) -> LogLikelihoods:
        """Log-likelihoods of some data by every class."""


@dataclass(frozen=True)
class Row:
    """The schema of an image's row.

    Attributes:
        image: its number.
        nats: log p(x | class), of integers log P, of every class.
        evaluations: of the network, of every class.
        errors: standard errors of the differences to the most likely class; None where they are
            not estimated.
        status: always "done": what is not has no row.
        name: of its file.
    """

    image: Annotated[int, Range(0)]
    nats: Annotated[list[float], Length(2)]
    evaluations: Annotated[list[Annotated[int, Range(0)]], Length(2)]
    errors: Annotated[list[Annotated[float, Range(0)]], Length(2)] | None = None
    status: Literal["done"] = "done"
    name: str = ""


def check_row(row: Json) -> None:
    """Refuse what is no row of an image.

    Raises:
        InvalidError: with the field that is wrong.
    """
    conform(row, Row)


def measure(
    way: Way,
    data: Tensor,
    block: int,
    kept: Rows | None = None,
    shard: Shard | None = None,
    title: str = "classes",
    names: tuple[str, ...] = (),
) -> LogLikelihoods:
    """Log-likelihoods of data by every class.

    Args:
        way: how.
        data: levels or vectors, (n, ...).
        block: images at a time.
        kept: where rows of images that were measured before are found, and new ones are kept.
        shard: this process's share of the blocks.
        title: of the progress bar.
        names: of the data, which their rows carry; none where they have none.

    Raises:
        RunError: a value is not finite.
    """
    shard = shard or Shard()
    done = {k: r for k, r in ({} if kept is None else kept.done).items() if isinstance(k, int)}
    index = torch.arange(len(data), device=data.device)
    ours = [each for k, each in enumerate(index.split(block)) if shard.has(k)]
    left = [each for each in ours if any(int(k) not in done for k in each)]
    there = sum(map(len, ours)) - sum(map(len, left))
    with Progress(title, sum(map(len, ours)), "img", there) as progress, arithmetic("float32"):
        for each in left:
            rows = rows_of(way.of(data[each], each), each, names)
            if kept is not None:
                kept.append(rows)
            done |= {row["image"]: row for row in rows}
            progress.advance(len(each))
    own = {int(k): done[int(k)] for each in ours for k in each}
    found = shard.gathered(own)
    if kept is not None and shard.rank == 0:
        kept.adopt()
    return _joined([found[k] for k in range(len(data))])


def rows_of(found: LogLikelihoods, index: Tensor, names: tuple[str, ...] = ()) -> list[Json]:
    """Rows of what was found.

    Raises:
        RunError: a value is not finite.
    """
    bad = ~found.nats.isfinite().all(1)
    if bool(bad.any()):
        first = int(index[bad.nonzero()[0, 0]])
        raise RunError(
            f"log p(x | class) is not finite for {int(bad.sum())} images, the first being test "
            f"image {first}: the network's estimates overflow; train for more steps"
        )
    errors = [None] * len(index) if found.errors is None else found.errors.tolist()
    columns = (index.tolist(), found.nats.tolist(), found.evaluations.tolist(), errors)
    return [
        {
            "image": image,
            **({"name": names[image]} if image < len(names) else {}),
            "nats": nats,
            "evaluations": evaluations,
            "errors": error,
            "status": "done",
        }
        for image, nats, evaluations, error in zip(*columns, strict=True)
    ]


def _joined(rows: list[Json]) -> LogLikelihoods:
    def table(name: str, kind: torch.dtype) -> Tensor:
        return torch.tensor([row[name] for row in rows], dtype=kind)

    estimated = all(row["errors"] is not None for row in rows)
    errors = table("errors", torch.float64) if estimated else None
    return LogLikelihoods(table("nats", torch.float64), errors, table("evaluations", torch.int64))
