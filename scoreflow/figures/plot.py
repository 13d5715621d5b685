"""Line plots as data: what results/*.json keep of a figure, and what `svg` draws."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

DIGITS = 7
"""Significant digits of a number in JSON: more than any screen shows."""
MOST_POINTS = 400
"""Points of a line in JSON; of more, the extremes of equal stretches are kept."""


@dataclass(frozen=True)
class Series:
    """A line of a plot. Points that an axis cannot show are left out when it is drawn.

    Attributes:
        label: its name in the legend, "" for none.
        x: abscissas, (n,).
        y: ordinates, (n,).
        error: standard error of each ordinate, drawn as a bar of one up and one down; or None.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] | None = None


@dataclass(frozen=True)
class Plot:
    """Lines over a common abscissa.

    Attributes:
        title: what it shows.
        x_label: quantity and unit of the abscissa.
        y_label: quantity and unit of the ordinate.
        series: the lines.
        log_x: logarithmic abscissa.
        log_y: logarithmic ordinate.
        places: whether abscissas are places in an order, and ticks whole numbers.
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    log_x: bool = False
    log_y: bool = True
    places: bool = False

    def as_json(self) -> dict[str, Any]:
        """The plot for a result file; points that are not finite are left out."""
        return {
            "title": self.title,
            "x_label": self.x_label,
            "y_label": self.y_label,
            "log_x": self.log_x,
            "log_y": self.log_y,
            "series": [_series_as_json(each) for each in self.series],
        }

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> "Plot":
        """The plot of a result file.

        Raises:
            KeyError, TypeError, ValueError: it lacks something, or has it of another kind.
        """
        lines = tuple(_series_from_json(each) for each in kept["series"])
        title, x_label, y_label = (str(kept[key]) for key in ("title", "x_label", "y_label"))
        return cls(title, x_label, y_label, lines, bool(kept["log_x"]), bool(kept["log_y"]))


def _series_as_json(series: Series) -> dict[str, Any]:
    columns = [series.x, series.y, *([] if series.error is None else [series.error])]
    points = [p for p in zip(*columns, strict=True) if all(map(math.isfinite, p))]
    kept = _thinned([tuple(float(f"{v:.{DIGITS}g}") for v in p) for p in points])
    x, y, *error = ([point[k] for point in kept] for k in range(len(columns)))
    return {"label": series.label, "x": x, "y": y, "error": error[0] if error else None}


def _series_from_json(kept: dict[str, Any]) -> Series:
    x, y = ([float(value) for value in kept[key]] for key in ("x", "y"))
    error = None if kept["error"] is None else [float(value) for value in kept["error"]]
    lengths = {len(x), len(y), *([] if error is None else [len(error)])}
    if len(lengths) > 1:
        raise ValueError(f"a line has {len(x)} abscissas and {len(y)} ordinates")
    return Series(str(kept["label"]), x, y, error)


def _thinned(points: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """At most `MOST_POINTS`: the ends, and the least and greatest ordinate of each stretch."""
    if len(points) <= MOST_POINTS:
        return points
    stretches, kept = MOST_POINTS // 2 - 1, {0, len(points) - 1}
    for k in range(stretches):
        stretch = range(k * len(points) // stretches, (k + 1) * len(points) // stretches)
        kept |= {
            min(stretch, key=lambda i: points[i][1]),
            max(stretch, key=lambda i: points[i][1]),
        }
    return [points[i] for i in sorted(kept)]
