"""Numbers over two axes, and points of several classes, as data: what `fields_svg` draws."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class HeatMap:
    """A number for each row and column, as a colour with the number in it.

    Attributes:
        title: what it shows.
        x_label: quantity and unit of the columns.
        columns: a tick each, from left to right.
        rows: a tick each, from top to bottom.
        values: a number a row and column; None where there is none.
        best: row and column of the cell that is marked; None for none.
    """

    title: str
    x_label: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    best: tuple[int, int] | None = None


@dataclass(frozen=True)
class Cloud:
    """Points in the plane, each with the number of its class, which is also its colour.

    Attributes:
        title: what it shows.
        x_label: quantity of the abscissa.
        y_label: quantity of the ordinate.
        points: x and y of each.
        classes: a number from 0 on each; none of a cloud of one kind.
    """

    title: str
    x_label: str
    y_label: str
    points: Sequence[Sequence[float]]
    classes: Sequence[int] = ()
