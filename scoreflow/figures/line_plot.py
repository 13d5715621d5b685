"""Line plots as SVG text, for a report that opens from disk without a network."""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scoreflow.figures.ticks import label, ticks

COLOURS = ("#1f5fa8", "#c8471f", "#2f8a4a", "#7d4fa3", "#8a6d1f", "#444444")
DASHES = ("", "5 3", "2 2")
"""Once through the colours, and the next line is dashed."""
WIDTH, HEIGHT = 400, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 38
MARKED = 16
"""Points of a line up to which each is drawn as a dot; of more, a curve."""
LINE_HEIGHT, SWATCH, LETTER = 15, 22, 6.0
"""Of the legend, and the mean width of a letter in it."""


@dataclass(frozen=True)
class Series:
    """A line: its name and points; those that a logarithmic axis cannot show are left out.

    Attributes:
        label: its name in the legend, "" for none.
        x: abscissas.
        y: ordinates.
        error: standard error of each ordinate, drawn as a bar of one up and one down.
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


Point = tuple[float, float, float, float]
"""x, y, and the lower and upper end of the bar of y, each as its axis counts."""


def svg(plot: Plot) -> str:
    """The plot with its axes, ticks, error bars and legend."""
    lines = [_points(each, plot) for each in plot.series]
    points = [point for line in lines for point in line]
    if not points:
        return f"<p class=small>{html.escape(plot.title)}: nothing to show</p>"
    x_range = _extent([p[0] for p in points], 0.02)
    y_range = _extent([y for p in points for y in p[1:]], 0.04)

    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (x - x_range[0]) / (x_range[1] - x_range[0])

    def down(y: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (y_range[1] - y) / (y_range[1] - y_range[0])

    parts = _axes(plot, x_range, y_range, across, down)
    for number, line in enumerate(lines):
        parts.append(_line(line, number, across, down))
    names = [(k, each.label) for k, each in enumerate(plot.series) if each.label]
    legend, rows = _legend(names)
    height = HEIGHT + LINE_HEIGHT * rows
    return (
        f'<figure class=plot><svg viewBox="0 0 {WIDTH} {height}" role="img">'
        f"{''.join(parts)}{legend}</svg>"
        f"<figcaption>{html.escape(plot.title)}</figcaption></figure>"
    )


def _points(series: Series, plot: Plot) -> list[Point]:
    """The points that can be shown, in the logarithm where an axis has one."""
    errors = series.error if series.error is not None else [0.0] * len(series.x)
    shown = []
    for x, y, error in zip(series.x, series.y, errors, strict=True):
        if (plot.log_x and x <= 0) or (plot.log_y and y <= 0) or not math.isfinite(x + y + error):
            continue
        low, high = y - error, y + error
        if plot.log_y:  # a bar that reaches 0 would have no end: it is cut at a tenth of its value
            y, low, high = math.log10(y), math.log10(max(low, y / 10)), math.log10(high)
        shown.append((math.log10(x) if plot.log_x else x, y, low, high))
    return shown


def _extent(values: list[float], margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    if high == low:
        return low - 0.5, high + 0.5
    return low - margin * (high - low), high + margin * (high - low)


def _axes(
    plot: Plot,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    across: Callable[[float], float],
    down: Callable[[float], float],
) -> list[str]:
    """Lines at the ticks, their values, the frame and the name of the abscissa."""
    floor, parts = HEIGHT - BOTTOM, []
    for value, place in ticks(*x_range, plot.log_x):
        x = across(place)
        parts.append(f'<path d="M{x:.1f} {TOP}V{floor + 4}" stroke="#e4e4e4"/>')
        parts.append(_text(x, floor + 15, label(value), anchor="middle"))
    for value, place in ticks(*y_range, plot.log_y):
        y = down(place)
        parts.append(f'<path d="M{LEFT - 4} {y:.1f}H{WIDTH - RIGHT}" stroke="#e4e4e4"/>')
        parts.append(_text(LEFT - 6, y + 4, label(value), anchor="end"))
    frame = f"M{LEFT} {TOP}V{floor}H{WIDTH - RIGHT}"
    parts.append(f'<path d="{frame}" fill="none" stroke="#999"/>')
    return [*parts, _text((LEFT + WIDTH) / 2, HEIGHT - 6, plot.x_label, anchor="middle")]


def _stroke(number: int) -> tuple[str, str]:
    """Colour and dashes of a line."""
    dash = DASHES[number // len(COLOURS) % len(DASHES)]
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return COLOURS[number % len(COLOURS)], dashed


def _line(
    line: list[Point],
    number: int,
    across: Callable[[float], float],
    down: Callable[[float], float],
) -> str:
    """A line with its bars and dots."""
    colour, dashed = _stroke(number)
    path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y, _, _ in line)
    bars = "".join(
        f"M{across(x):.1f} {down(low):.1f}V{down(high):.1f}"
        f"M{across(x) - 3:.1f} {down(low):.1f}h6M{across(x) - 3:.1f} {down(high):.1f}h6"
        for x, _, low, high in line
        if high > low
    )
    dots = "".join(
        f'<circle cx="{across(x):.1f}" cy="{down(y):.1f}" r="2.2" fill="{colour}"/>'
        for x, y, _, _ in (line if len(line) <= MARKED else [])
    )
    drawn = f'<path class=bars d="{bars}" stroke="{colour}" fill="none"/>' if bars else ""
    return (
        f'{drawn}<polyline fill="none" stroke="{colour}" stroke-width="1.6"{dashed} '
        f'points="{path}"/>{dots}'
    )


def _legend(names: list[tuple[int, str]]) -> tuple[str, int]:
    """The lines' names below the plot, and how many rows they take."""
    if not names:
        return "", 0
    parts, x, row = [], float(LEFT), 0
    for number, name in names:
        width = SWATCH + LETTER * len(name) + 14
        if x + width > WIDTH and x > LEFT:
            x, row = float(LEFT), row + 1
        y = HEIGHT + LINE_HEIGHT * row + 6
        colour, dashed = _stroke(number)
        parts.append(
            f'<path d="M{x:.0f} {y}h{SWATCH - 5}" stroke="{colour}" stroke-width="2.4"{dashed}/>'
        )
        parts.append(_text(x + SWATCH, y + 4, name, colour=colour))
        x += width
    return "".join(parts), row + 1


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = "#555") -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" font-size="11" fill="{colour}" '
        f'text-anchor="{anchor}">{html.escape(text)}</text>'
    )
