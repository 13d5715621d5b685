"""How well each score tells each set of other data from the test set."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from scoreflow.likelihood.detection.ood_detection import auroc
from scoreflow.likelihood.detection.operating_point import false_positives
from scoreflow.likelihood.detection.scores import Columns, Score

OWN_SETS = TEST, REFERENCE = "test set", "reference"
"""What a table calls the run's own images."""
HELD_APART = 2
"""Every second image of the reference learns, and the others are compared with the test set."""


def judged(
    score: Score, reference: Columns, test: Columns, others: Mapping[str, Columns]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A row of the table, and the scores of each image.

    Args:
        score: to judge.
        reference: columns of what is ordinary.
        test: columns of the test set.
        others: columns of each other set, by its name.

    Returns:
        The row: AUROC and false positives of each set, the AUROC of telling the test set from the
        reference, and the set that is told worst; and the scores by set, those of the test set
        under "".
    """
    judge = score.learned(reference)
    own = judge(test)
    found = {name: judge(columns) for name, columns in others.items()}
    sets = {name: _told(own, values) for name, values in found.items()}
    worst = min(sets, key=lambda name: sets[name]["auroc"])
    row = {
        "name": score.name,
        "by": score.by,
        "of": list(score.of),
        "sets": sets,
        "worst": {"set": worst, **sets[worst]},
        "shift": _shift(score, reference, test),
    }
    return row, {"": own, **found}


def _told(own: Tensor, other: Tensor) -> dict[str, float]:
    area, error = auroc(own, other)
    rate, rate_error = false_positives(own, other)
    return {"auroc": area, "standard_error": error, "fpr95": rate, "fpr95_error": rate_error}


def _shift(score: Score, reference: Columns, test: Columns) -> dict[str, float]:
    """The AUROC of telling the test set from images of the reference that did not teach it."""
    taught = {name: values[::HELD_APART] for name, values in reference.items()}
    apart = {name: values[1::HELD_APART] for name, values in reference.items()}
    judge = score.learned(taught)
    area, error = auroc(judge(apart), judge(test))
    return {"auroc": area, "standard_error": error}


def shifted(rows: list[dict[str, Any]], errors: float = 3.0) -> list[dict[str, Any]]:
    """Rows by which the test set differs from the reference by more than so many errors."""
    return [
        row
        for row in rows
        if abs(row["shift"]["auroc"] - 0.5) > max(errors * row["shift"]["standard_error"], 0.05)
    ]


def text(rows: list[dict[str, Any]]) -> str:
    """The table for a terminal: AUROC and, behind a stroke, false positives at 95 %."""
    names = list(rows[0]["sets"])
    head = ["AUROC / FPR at 95 % TPR", *names, "test against reference"]
    lines = [
        [row["name"], *(_cell(row["sets"][name]) for name in names), _area(row["shift"])]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    told = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in (head, *lines)]
    return "\n".join(told)


def _cell(told: dict[str, float]) -> str:
    return f"{_area(told)} / {told['fpr95']:.2f} +- {told['fpr95_error']:.2f}"


def _area(told: dict[str, float]) -> str:
    return f"{told['auroc']:.3f} +- {told['standard_error']:.3f}"


def histogram(scores: Mapping[str, Tensor], bins: int = 40) -> dict[str, Any]:
    """Shares of each set's images in bins that all sets share.

    They reach from the least score to the greatest, but no further from the test set's middle
    than ten times its own spread: what lies beyond counts in the outermost bin.

    Args:
        scores: (n,) by set, that of the test set under "".
        bins: how many.

    Returns:
        The middles of the bins, and the shares by set.
    """
    own = scores[""]
    quarters = own.quantile(own.new_tensor([0.25, 0.5, 0.75])).tolist()
    middle, reach = quarters[1], 10 * max(quarters[2] - quarters[0], 1e-12)
    low = max(min(float(each.min()) for each in scores.values()), middle - reach)
    high = min(max(float(each.max()) for each in scores.values()), middle + reach)
    width = (high - low) / bins or 1.0
    shares = {
        name: (
            ((each - low) / width).floor().clamp(0, bins - 1).long().bincount(minlength=bins)
            / len(each)
        ).tolist()
        for name, each in scores.items()
    }
    middles = [low + (k + 0.5) * width for k in range(bins)]
    assert all(map(math.isfinite, middles)), "scores are finite"
    return {"middles": middles, "shares": shares}
