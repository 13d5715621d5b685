"""Columns of the comparison table: keys, titles and number formats."""

import math
from dataclasses import dataclass

from scoreflow.storage.atomic_files import Json
from scoreflow.uncertainty import rate_error


@dataclass(frozen=True)
class Column:
    """A metric of a row, as the terminal's table and the report's show it.

    Attributes:
        key: of the row; its standard error is under the key with `_error` behind it.
        title: in the report, "" for not there.
        short: in the terminal, "" for not there.
        form: format of the number and of its error; "" for two digits of the error.
        part: number of the report's table that it stands in.
        target: the ideal value: of two numbers the nearer is better, with -inf the smaller and
            with inf the greater; None where neither is.
    """

    key: str
    title: str
    short: str
    form: str = ".3f"
    part: int = 0
    target: float | None = None

    def text(self, row: Json, sign: str = "+-") -> str:
        """The number and its error, formatted; "" where the row has none."""
        value = row.get(self.key)
        if value is None:
            return ""
        error, form = row.get(f"{self.key}_error"), self.form
        if not form:
            form = f".{max(0, 1 - math.floor(math.log10(error)))}f" if error else ".3g"
        return f"{value:{form}}" + ("" if error is None else f" {sign} {error:{form}}")

    def best(self, rows: list[Json]) -> list[bool]:
        """Which rows have the best value, or one within a standard error of the difference.

        None is marked where fewer than two rows have a value, and where every row would be.
        """
        values = {k: row[self.key] for k, row in enumerate(rows) if row.get(self.key) is not None}
        if self.target is None or len(values) < 2:
            return [False] * len(rows)
        far = {k: self.distance(value) for k, value in values.items()}
        errors = {k: rows[k].get(f"{self.key}_error") or 0.0 for k in far}
        first = min(far, key=far.__getitem__)
        tied = {k for k in far if far[k] - far[first] <= math.hypot(errors[k], errors[first])}
        return [k in tied and len(tied) < len(rows) for k in range(len(rows))]

    def distance(self, value: float) -> float:
        """How far a value is from the target, up to a constant; less is better."""
        assert self.target is not None, "only a column with a target has a best value"
        if math.isinf(self.target):
            return -value if self.target > 0 else value
        return abs(value - self.target)


LEAST, MOST = -math.inf, math.inf

COLUMNS = (
    Column("budget", "", "budget", "d"),
    Column("nfe", "evaluations an image", "evaluations", ".1f"),
    Column("seconds", "seconds", "", ".2f"),
    Column("images_per_second", "images/s", "images/s", ".1f", target=MOST),
    Column("told_apart", "told apart (0 is best)", "told apart", target=LEAST),
    Column("samples_recognised", "samples recognised", "", target=0.5),
    Column("real_recognised", "data recognised", "", target=0.5),
    Column("two_sample", "two-sample accuracy", "two-sample"),
    Column("precision", "precision", "precision", target=MOST),
    Column("recall", "recall", "recall", target=MOST),
    Column("feature_distance", "feature distance", "feature distance", ".2f", 1, LEAST),
    Column("class_distance", "classes, total variation", "", part=1, target=LEAST),
    Column("outside", "share out of range", "out of range", ".3f", 1, LEAST),
    Column("nearest_train_distance", "distance to training data", "", "", part=1),
    Column("nearest_ratio", "over that of held-out data", "nearest/held-out", part=1, target=1.0),
    Column("copies", "copies", "copies", "d", part=1),
    Column("energy_distance", "energy distance", "energy distance", ".5f", 1, LEAST),
    Column("wasserstein", "Wasserstein-2", "Wasserstein-2", ".4f", 1, LEAST),
    Column("fid", "FID", "FID", ".2f", 1, LEAST),
    Column("kid", "KID", "KID", ".5f", 1, LEAST),
    Column("inception_score", "inception score", "IS", ".2f", 1, MOST),
)
"""Of --mode compare, a row a sampler and budget.

The two-sample accuracy marks none as the best: it is the mean of two rates, in which misses
cancel, and noise has 0.5.
"""

GUIDANCE = (
    Column("nfe", "evaluations an image", "evaluations", ".1f"),
    Column(
        "accuracy",
        "of the requested class, by the nearest training image",
        "of its class",
        target=MOST,
    ),
    Column(
        "by_classifier", "of the requested class, by the classifier", "by classifier", target=MOST
    ),
    Column("precision", "precision", "precision", target=MOST),
    Column("recall", "recall", "recall", target=MOST),
    Column("feature_distance", "feature distance", "feature distance", ".2f", target=LEAST),
    Column("told_apart", "told apart (0 is best)", "told apart", target=LEAST),
)
"""Of the guidance sweep, a row a weight."""

DIFFERENCES = tuple(
    Column(key, "", "", "") for key in ("nll", "nll_difference", "sample_difference")
)
"""Of the sweep over averages besides the metrics: likelihood, and how far from the best row."""


def told_apart(two_sample: Json) -> tuple[float, float | None]:
    """How far the worse of the two recognition rates is from 0.5, and its standard error.

    Args:
        two_sample: of a result of samples; one older than this number has the rates it follows
            from, and perhaps not of how many they are.
    """
    if "told_apart" in two_sample:
        return float(two_sample["told_apart"]), float(two_sample["told_apart_error"])
    sides = [float(two_sample[key]) for key in ("samples_recognised", "real_recognised")]
    worse = max(sides, key=lambda rate: abs(rate - 0.5))
    n = two_sample.get("num_each")
    return abs(worse - 0.5), None if n is None else rate_error(worse, int(n))


def columns_of(rows: list[Json]) -> list[Column]:
    """The columns of `COLUMNS` that at least one of the rows has."""
    return [column for column in COLUMNS if any(column.key in row for row in rows)]


def reference_rows(test_data: Json, floors: Json) -> list[Json]:
    """The same metrics on held-out data, and on two sets of the true law where it is known."""
    rows = [{"sampler": "held-out data", **test_data}] if test_data else []
    return [*rows, {"sampler": "two sets of the truth", **floors}] if floors else rows


def table(rows: list[Json]) -> str:
    """The rows as a table for the terminal."""
    columns = [column for column in columns_of(rows) if column.short]
    cells = [["", *(column.short for column in columns)]]
    cells += [[row["sampler"], *(column.text(row) for column in columns)] for row in rows]
    widths = [max(len(line[k]) for line in cells) for k in range(len(columns) + 1)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in cells
    )
