"""Tables that several sections have: metrics with the best ones marked, and counts of classes."""

from collections.abc import Callable, Sequence

from scoreflow.evaluation.columns import Column
from scoreflow.report.blocks import Cell, Table
from scoreflow.storage.atomic_files import Json

MARKED = "Marked: the best of a column, and what lies within one standard error of the difference."
MEASURES = (
    ("wasserstein", "Wasserstein-2 to the truth", "Wasserstein-2", True),
    ("feature_distance", "Feature distance to training data", "feature distance", True),
    ("fid", "FID", "FID", True),
    ("told_apart", "Worse recognition rate", "distance from 0.5", False),
)
"""What is plotted, of what there is: key, title, ordinate, and whether that is logarithmic."""
MOST_MEASURES = 2


def metrics_table(
    first: str,
    name: Callable[[Json], str],
    rows: list[Json],
    foot: list[Json],
    columns: Sequence[Column],
) -> Table:
    """A table of metrics whose best values are marked.

    Args:
        first: heading of the first column.
        name: row -> its text there.
        rows: that compete.
        foot: that do not.
        columns: the metrics.
    """
    best = [column.best(rows) for column in columns]

    def cells(row: Json, marks: list[bool]) -> tuple[Cell, ...]:
        numbers = (
            Cell(column.text(row, "±"), row.get(column.key), "best" if mark else "")
            for column, mark in zip(columns, marks, strict=True)
        )
        return (Cell(name(row)), *numbers)

    return Table(
        (first, *(column.title for column in columns)),
        tuple(cells(row, [each[k] for each in best]) for k, row in enumerate(rows)),
        tuple(cells(row, [False] * len(columns)) for row in foot),
        MARKED if any(map(any, best)) else "",
    )


def class_table(
    counted: list[tuple[str, list[int]]],
    foot: list[tuple[str, list[int]]],
    names: Sequence[str] = (),
) -> Table:
    """How many images have each class, a row a set of images.

    Args:
        counted: name and counts of each row.
        foot: the same of real data.
        names: of the classes; where they have none, their numbers.
    """
    most = max(len(counts) for _, counts in [*counted, *foot])

    def rows(named: list[tuple[str, list[int]]]) -> tuple[tuple[Cell, ...], ...]:
        return tuple((Cell(name), *(Cell(f"{n}", n) for n in counts)) for name, counts in named)

    heads = names if len(names) >= most else tuple(map(str, range(most)))
    return Table(("class", *heads), rows(counted), rows(foot))
