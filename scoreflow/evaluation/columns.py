"""Columns of the comparison table: keys, titles and number formats."""

import math
from dataclasses import dataclass

from scoreflow.storage.atomic_files import Json


@dataclass(frozen=True)
class Column:
    """A number of a row, as both tables show it.

    Attributes:
        key: of the row; its error has `_error` behind it.
        title: in the page, "" for not there.
        short: in the terminal, "" for not there.
        form: of the number, and of its error; "" for two digits of the error.
        part: the table of the page that it stands in.
    """

    key: str
    title: str
    short: str
    form: str = ".3f"
    part: int = 0

    def text(self, row: Json, sign: str = "+-") -> str:
        """The number and its error, formatted; "" where the row has none."""
        value = row.get(self.key)
        if value is None:
            return ""
        error, form = row.get(f"{self.key}_error"), self.form
        if not form:
            form = f".{max(0, 1 - math.floor(math.log10(error)))}f" if error else ".3g"
        return f"{value:{form}}" + ("" if error is None else f" {sign} {error:{form}}")


COLUMNS = (
    Column("budget", "", "budget", "d"),
    Column("nfe", "evaluations an image", "evaluations", ".1f"),
    Column("seconds", "seconds", "", ".2f"),
    Column("images_per_second", "images/s", "images/s", ".1f"),
    Column("two_sample", "two-sample accuracy", "two-sample"),
    Column("samples_recognised", "samples recognised", ""),
    Column("real_recognised", "data recognised", ""),
    Column("told_apart", "", "worse rate from .5"),
    Column("precision", "precision", "precision"),
    Column("recall", "recall", "recall"),
    Column("feature_distance", "feature distance", "feature distance", ".2f", part=1),
    Column("class_distance", "classes, total variation", "", part=1),
    Column("nearest_train_distance", "distance to training data", "", "", part=1),
    Column("nearest_ratio", "over that of held-out data", "nearest/held-out", part=1),
    Column("copies", "copies", "copies", "d", part=1),
    Column("energy_distance", "energy distance", "energy distance", ".5f", part=1),
    Column("wasserstein", "Wasserstein-2", "Wasserstein-2", ".4f", part=1),
    Column("fid", "FID", "FID", ".2f", part=1),
    Column("kid", "KID", "KID", ".5f", part=1),
    Column("inception_score", "inception score", "IS", ".2f", part=1),
)


def columns_of(rows: list[Json]) -> list[Column]:
    """The columns that one of the rows has."""
    return [column for column in COLUMNS if any(column.key in row for row in rows)]


def reference_rows(test_data: Json, floors: Json) -> list[Json]:
    """The same metrics on held-out data, and on two sets of the true law where it is known."""
    rows = [{"sampler": "held-out data", **test_data}]
    return [*rows, {"sampler": "two sets of the truth", **floors}] if floors else rows


def table(rows: list[Json]) -> str:
    """The rows for the terminal."""
    columns = [column for column in columns_of(rows) if column.short]
    cells = [["", *(column.short for column in columns)]]
    cells += [[row["sampler"], *(column.text(row) for column in columns)] for row in rows]
    widths = [max(len(line[k]) for line in cells) for k in range(len(columns) + 1)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in cells
    )
