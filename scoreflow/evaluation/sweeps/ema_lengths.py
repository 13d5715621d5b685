"""Averages of several lengths compared: likelihood in pairs, and samples from the same noise.

A row an average, and one of the raw weights for reference. The likelihood of each is of the same
images, dequantization and probes, so the difference of two is measured image by image and has an
error far below that of either. Samples begin with the same noise; their metric's errors are added
as if they did not, which is too cautious.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from scoreflow.evaluation.cached_cases import Evaluated, Metrics
from scoreflow.evaluation.columns import COLUMNS, DIFFERENCES, Column
from scoreflow.storage.atomic_files import Json
from scoreflow.storage.validation import Length, Range, conform
from scoreflow.uncertainty import standard_error

RAW = "raw"
"""The name of the raw weights' row."""
RANKED_BY = ("wasserstein", "fid", "feature_distance", "told_apart")
"""What says which average has the best samples, the first that was measured."""
APART = 2.0
"""Standard errors of a difference from which on two averages are told apart."""
Positive = Annotated[float, Range(0)]


@dataclass(frozen=True)
class SampleRow:
    """The schema of a row about the samples of some weights, besides their metrics.

    Attributes:
        case: the name of the weights.
        weights: their SHA-256.
        sampler: its name.
        budget: evaluations an image that it might take.
        nfe: evaluations an image.
        seconds: that drawing took.
        num_images: how many.
        network: how it was evaluated.
    """

    case: Annotated[str, Length(1)]
    weights: Annotated[str, Length(64)]
    sampler: Annotated[str, Length(1)]
    budget: Annotated[int, Range(1)]
    nfe: Positive
    seconds: Positive
    num_images: Annotated[int, Range(1)]
    network: Evaluated


def check_row(row: Json) -> None:
    """Refuse what is no row of some weights' samples.

    Raises:
        InvalidError: with the field that is wrong.
    """
    conform(row, SampleRow)
    conform(row, Metrics)


@dataclass(frozen=True)
class Scored:
    """What was measured of some weights.

    Attributes:
        name: their length as a text, or `RAW`.
        length: relative width of the average; None of raw weights.
        relative_error: of its profile; None of raw weights.
        weights: their SHA-256.
        nll: minus log-likelihood of each image, bits/dim or nats, (n,).
        samples: their row: metrics of samples.
    """

    name: str
    length: float | None
    relative_error: float | None
    weights: str
    nll: Tensor
    samples: Json


def summarised(found: Sequence[Scored]) -> list[Json]:
    """A row for each of some weights, with its difference from the best by either measure.

    "nll_verdict" and "sample_verdict" are "best", "not told apart" where the difference is less
    than `APART` of its standard errors, or "worse".

    Args:
        found: at least one, all of the same images.
    """
    column, best = metric_of(found[0].samples), min(found, key=lambda each: float(each.nll.mean()))
    first = min(found, key=lambda each: column.distance(each.samples[column.key])).samples
    return [_row(each, best, column, first) for each in found]


def metric_of(row: Json) -> Column:
    """By which metric samples are ranked: the first of `RANKED_BY` that a row has."""
    key = next(key for key in RANKED_BY if row.get(key) is not None)
    return next(column for column in COLUMNS if column.key == key)


def _row(of: Scored, best: Scored, column: Column, first: Json) -> Json:
    apart = of.nll - best.nll
    further = column.distance(of.samples[column.key]) - column.distance(first[column.key])
    key = f"{column.key}_error"
    error = math.hypot(of.samples.get(key) or 0.0, first.get(key) or 0.0)
    error = 0.0 if of.samples is first else error
    difference, its_error = float(apart.mean()), standard_error(apart) or 0.0
    return {
        **{k: v for k, v in of.samples.items() if k not in ("case", "network")},
        "name": of.name,
        "length": of.length,
        "relative_error": of.relative_error,
        "weights": of.weights,
        "nll": float(of.nll.mean()),
        "nll_error": standard_error(of.nll),
        "nll_difference": difference,
        "nll_difference_error": its_error,
        "nll_verdict": _verdict(of is best, difference, its_error),
        "sample_difference": further,
        "sample_difference_error": error,
        "sample_verdict": _verdict(of.samples is first, further, error),
    }


def _verdict(best: bool, difference: float, error: float) -> str:
    if best:
        return "best"
    return "worse" if difference > APART * error else "not told apart"


def table(rows: list[Json], unit: str) -> str:
    """The rows for the terminal."""
    column = metric_of(rows[0])
    lines = [
        ["average", "profile off", unit, "- best", "", f"samples: {column.short}", "- best", ""]
    ]
    for row in rows:
        off = "" if row["relative_error"] is None else f"{row['relative_error']:.1%}"
        nll, apart, further = (each.text(row) for each in DIFFERENCES)
        verdicts = row["nll_verdict"], row["sample_verdict"]
        lines.append(
            [row["name"], off, nll, apart, verdicts[0], column.text(row), further, verdicts[1]]
        )
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.rjust, line, widths)) for line in lines)
