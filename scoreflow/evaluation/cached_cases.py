"""Resumable cases of a comparison: a row and a picture each, made once."""

from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from scoreflow.evaluation.columns import COLUMNS, GUIDANCE, Column
from scoreflow.runtime import distributed
from scoreflow.storage.atomic_files import Json, make_folder, write_atomic
from scoreflow.storage.result_rows import Rows
from scoreflow.storage.validation import InvalidError, Length, Range, conform

K = TypeVar("K")
Count = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0)]


def _fields(column: Column) -> list[tuple[str, Any, Any]]:
    """A metric that a row may have, and its standard error."""
    number = int if column.form == "d" else float
    return [(column.key, number | None, None), (f"{column.key}_error", float | None, None)]


METRICS = {
    name: (name, kind, default)
    for column in (*COLUMNS, *GUIDANCE)
    for name, kind, default in _fields(column)
}
Metrics: Any = make_dataclass(
    "Metrics",
    [
        *METRICS.values(),
        ("classes", list[Count] | None, None),
        ("accuracy_by_class", dict[str, float] | None, None),
    ],
    frozen=True,
)
"""The schema of a row about held-out data, or two sets of the truth: any metric."""


@dataclass(frozen=True)
class Evaluated:
    """How a network was evaluated, as a row keeps it.

    Attributes:
        precision: of its products, "float32" say.
        compiled: whether it was compiled.
    """

    precision: Annotated[str, Length(1)]
    compiled: bool


@dataclass(frozen=True)
class SamplerRow:
    """The schema of a row about samples, besides their metrics.

    Attributes:
        sampler: its name.
        nfe: evaluations an image.
        seconds: that drawing took.
        num_images: how many.
        budget: evaluations an image that it might take; a row of a guidance sweep has none.
        weight: of the guidance, in such a row.
        network: how it was evaluated; rows of older versions do not say.
    """

    sampler: Annotated[str, Length(1)]
    nfe: Positive
    seconds: Positive
    num_images: Annotated[int, Range(1)]
    budget: Annotated[int, Range(1)] | None = None
    weight: float | None = None
    network: Evaluated | None = None


@dataclass(frozen=True)
class OrderRow:
    """The schema of a row about an order; see `convergence_order.measured_order`."""

    sampler: Annotated[str, Length(1)]
    kind: Literal["flow", "law"]
    stated: float | None
    order: float | None
    order_error: float | None
    over: list[int]
    steps: list[int]
    errors: list[float]
    errors_error: list[float]
    seconds: Positive


REFERENCES = ("held-out data", "floors")
"""Cases that are about no sampler."""


def check_case(row: Json) -> None:
    """Refuse what is no row of its case.

    Raises:
        InvalidError: with the field that is wrong.
    """
    case = row["case"]
    if str(case).startswith("order-"):
        _refuse_other(case, f"order-{conform(row, OrderRow).sampler}")
        return
    conform(row, Metrics)
    if case not in REFERENCES:
        found = conform(row, SamplerRow)
        swept = found.weight is not None and str(case).startswith("guidance-")
        _refuse_other(case, case if swept else f"{found.sampler}-{found.budget}")


def _refuse_other(case: object, own: object) -> None:
    if case != own:
        raise InvalidError(f"the row of {own} is called {case}")


@dataclass(frozen=True)
class CachedCases(Generic[K]):
    """Cases by key.

    Attributes:
        rows: where their rows are kept.
        names: of the rows.
        paths: of the pictures.
    """

    rows: Rows
    names: dict[K, str]
    paths: dict[K, Path]

    def missing(self) -> list[K]:
        """The keys without a row or a picture, as the first process finds them."""
        own = [
            key
            for key, name in self.names.items()
            if name not in self.rows.done or not self.paths[key].exists()
        ]
        found: list[K] = distributed.shard().broadcast_from_rank_0(own)
        return found

    def keep(self, key: K, row: Json, png: bytes) -> None:
        """Write a case's picture, then its row."""
        path = self.paths[key]
        make_folder(path.parent)
        write_atomic(path, png)
        self.rows.append([{"case": self.names[key], **row}])


def kept(rows: Rows, case: str, make: Callable[[], Json]) -> Json:
    """The row of a case without its name: what is there, or what is made now."""
    if case not in rows.done:
        rows.append([{"case": case, **make()}])
    return {key: value for key, value in rows.done[case].items() if key != "case"}
