"""Line plots as SVG text, for a report that opens from disk without a network."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

COLOURS = ("#1f5fa8", "#c8471f", "#2f8a4a", "#7d4fa3", "#8a6d1f", "#444444")
WIDTH, HEIGHT = 400, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 38


@dataclass(frozen=True)
class Series:
    """A line: its name and points; those that a logarithmic axis cannot show are left out."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Plot:
    """Lines over a common abscissa.

    Attributes:
        title: what it shows.
        x_label: name and unit of the abscissa.
        series: the lines.
        log_x: logarithmic abscissa.
        log_y: logarithmic ordinate.
    """

    title: str
    x_label: str
    series: tuple[Series, ...]
    log_x: bool = False
    log_y: bool = True


def svg(plot: Plot) -> str:
    """The plot with its axes, extreme values and legend."""
    lines = [(each.label, _shown(each, plot)) for each in plot.series]
    points = [point for _, line in lines for point in line]
    if not points:
        return f"<p class=small>{html.escape(plot.title)}: nothing to show</p>"
    (x_low, x_high), (y_low, y_high) = (_extent([p[axis] for p in points]) for axis in (0, 1))

    def place(point: tuple[float, float]) -> str:
        x = LEFT + (WIDTH - LEFT - RIGHT) * (point[0] - x_low) / (x_high - x_low)
        y = TOP + (HEIGHT - TOP - BOTTOM) * (y_high - point[1]) / (y_high - y_low)
        return f"{x:.1f},{y:.1f}"

    parts = [
        f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none" stroke="#999"/>'
    ]
    for number, (label, line) in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(place(point) for point in line)
        parts.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{path}"/>'
        )
        parts.append(
            _text(WIDTH - RIGHT, TOP + 12 + 14 * number, label, anchor="end", colour=colour)
        )
    x_text, y_text = (_inverse(flag) for flag in (plot.log_x, plot.log_y))
    parts += [
        _text(LEFT - 5, TOP + 9, y_text(y_high), anchor="end"),
        _text(LEFT - 5, HEIGHT - BOTTOM, y_text(y_low), anchor="end"),
        _text(LEFT, HEIGHT - BOTTOM + 14, x_text(x_low)),
        _text(WIDTH - RIGHT, HEIGHT - BOTTOM + 14, x_text(x_high), anchor="end"),
        _text((LEFT + WIDTH) / 2, HEIGHT - 6, plot.x_label, anchor="middle"),
    ]
    return (
        f'<figure class=plot><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'
        f"<figcaption>{html.escape(plot.title)}</figcaption></figure>"
    )


def _shown(series: Series, plot: Plot) -> list[tuple[float, float]]:
    """The points, in the logarithm where an axis has one."""
    shown = []
    for x, y in zip(series.x, series.y, strict=True):
        if (plot.log_x and x <= 0) or (plot.log_y and y <= 0) or not math.isfinite(x + y):
            continue
        shown.append((math.log10(x) if plot.log_x else x, math.log10(y) if plot.log_y else y))
    return shown


def _extent(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _inverse(logarithmic: bool):  # noqa: ANN202
    return lambda value: f"{10**value if logarithmic else value:.4g}"


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = "#555") -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" font-size="11" fill="{colour}" '
        f'text-anchor="{anchor}">{html.escape(text)}</text>'
    )
