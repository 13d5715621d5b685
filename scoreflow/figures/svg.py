"""Line plots and bars as SVG text for a web page, drawn by matplotlib.

Importing this module imports matplotlib (about a second), so import it where a plot is drawn.
Nothing of pyplot is used, and no global setting of matplotlib is left changed.
"""

import io
import math
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogFormatter, MaxNLocator

from scoreflow.figures.bars import Bar, Bars
from scoreflow.figures.fields import Cloud, HeatMap
from scoreflow.figures.fields_svg import figure_of_cloud, figure_of_map
from scoreflow.figures.plot import Plot, Series

STYLE = Path(__file__).with_name("scoreflow.mplstyle")
INK = "#010203"
"""The style's colour of text and axes, which becomes the page's own colour of text."""
WIDTH, HEIGHT, LEGEND_ROW = 3.7, 2.6, 0.16
"""Inches: of the figure, and what each row of the legend adds to its height."""
LEFT, RIGHT, TOP, BOTTOM = 0.72, 0.12, 0.1, 0.48
"""Inches around the axes."""
BAR, BAR_LETTER, BAR_NAMES = 0.19, 0.055, 2.0
"""Inches: from bar to bar, a letter of what stands around them, and names have at most."""
SMALL = 6.5
"""Points of the letters around bars."""
LETTERS = 52
"""Letters that a row of the legend holds, handles and gaps counted as `HANDLE` letters each."""
HANDLE = 8
MARKED = 16
"""Points of a line up to which each has a marker."""
LEAST_WIDTH = 1e-9
"""Relative to its values, below which an axis is as good as one value."""
LARGEST_EXPONENT = 307.0
"""Of ten, in float64."""
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))

Point = tuple[float, float, float, float]
"""x, y, and the lengths of the bar of y below and above."""


def svg(plot: Plot | Bars | HeatMap | Cloud, salt: str = "") -> str:
    """The plot, bars, heat map or cloud as an <svg> element, "" where nothing can be shown.

    Text and axes have the colour of the text around the element (currentColor); line k has the
    CSS colour --line-k where the page sets one. The same plot gives the same text.

    Args:
        plot: what to draw.
        salt: of the ids inside; they are unique in a page where every plot has another salt.
    """
    if not _shows(plot):
        return ""
    stream = io.StringIO()
    with mpl.rc_context(fname=STYLE), mpl.rc_context({"svg.hashsalt": salt or plot.title}):
        _drawn(plot).savefig(stream, format="svg", metadata=NO_METADATA)
        colours = [str(each["color"]) for each in mpl.rcParams["axes.prop_cycle"]]
    return _for_a_page(stream.getvalue(), list(dict.fromkeys(colours)))


def _shows(plot: Plot | Bars | HeatMap | Cloud) -> bool:
    """Whether there is anything to see."""
    match plot:
        case Plot():
            return any(_points(each, plot) for each in plot.series)
        case Bars():
            return bool(plot.bars)
        case HeatMap():
            return any(value is not None for row in plot.values for value in row)
        case Cloud():
            return len(plot.points) > 0


def _drawn(plot: Plot | Bars | HeatMap | Cloud) -> Figure:
    match plot:
        case Plot():
            return figure_of(plot)
        case Bars():
            return bars_of(plot)
        case HeatMap():
            return figure_of_map(plot)
        case Cloud():
            return figure_of_cloud(plot)


def figure_of(plot: Plot) -> Figure:
    """The plot as a matplotlib figure, in whatever style is in force."""
    names = [each.label for each in plot.series if each.label]
    columns = max(1, min(len(names), LETTERS // (max(map(len, names), default=0) + HANDLE)))
    rows = -(-len(names) // columns)
    height, bottom = HEIGHT + rows * LEGEND_ROW, BOTTOM + rows * LEGEND_ROW
    figure = Figure(figsize=(WIDTH, height))
    figure.subplots_adjust(LEFT / WIDTH, bottom / height, 1 - RIGHT / WIDTH, 1 - TOP / height)
    axes = figure.add_subplot()
    axes.set_xscale("log" if plot.log_x else "linear")
    axes.set_yscale("log" if plot.log_y else "linear")
    lines = [_draw(axes, each, _points(each, plot)) for each in plot.series]
    points = [point for each in plot.series for point in _points(each, plot)]
    if points:
        ends = [y + side for _, y, below, above in points for side in (-below, above)]
        axes.set_xlim(_limits([point[0] for point in points], plot.log_x, 0.03))
        axes.set_ylim(_limits(ends, plot.log_y, 0.06))
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)
    _tick(axes.xaxis, plot.log_x)
    if plot.places:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _tick(axes.yaxis, plot.log_y)
    if names:
        axes.legend(
            [line for line, each in zip(lines, plot.series, strict=True) if each.label],
            names,
            ncols=columns,
            loc="lower left",
            bbox_to_anchor=(LEFT / WIDTH, 0.04 / height),
            bbox_transform=figure.transFigure,
        )
    return figure


def bars_of(plot: Bars) -> Figure:
    """Bars as a matplotlib figure, in whatever style is in force."""
    height = BOTTOM + TOP + LEGEND_ROW + BAR * len(plot.bars)
    figure = Figure(figsize=(WIDTH, height))
    names, texts = (
        BAR_LETTER * max(len(text) for text in all_of) + 0.1
        for all_of in ([bar.label for bar in plot.bars], [bar.text for bar in plot.bars])
    )
    left, right = min(names, BAR_NAMES) / WIDTH, 1 - texts / WIDTH
    bottom, top = (BOTTOM + LEGEND_ROW) / height, 1 - TOP / height
    figure.subplots_adjust(left, bottom, right, top)
    axes = figure.add_subplot()
    colours = [str(each["color"]) for each in mpl.rcParams["axes.prop_cycle"]]
    there = [kind for kind in plot.kinds if any(bar.kind == kind for bar in plot.bars)]
    for kind in there:
        _draw_bars(axes, plot, kind, colours[plot.kinds.index(kind)])
    axes.set_ylim(len(plot.bars) - 0.5, -0.5)
    axes.set_yticks(range(len(plot.bars)), [bar.label for bar in plot.bars], fontsize=SMALL)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, max(bar.value for bar in plot.bars) or 1.0)
    axes.set_xlabel(plot.x_label)
    _tick(axes.xaxis, logarithmic=False)
    axes.legend(
        ncols=len(there),
        loc="lower left",
        bbox_to_anchor=(0.02, 0.04 / height),
        bbox_transform=figure.transFigure,
    )
    return figure


def _draw_bars(axes: Axes, plot: Bars, kind: str, colour: str) -> None:
    """The bars of a kind, each with its text at its end."""
    places = [k for k, bar in enumerate(plot.bars) if bar.kind == kind]
    bars: list[Bar] = [plot.bars[k] for k in places]
    axes.barh(places, [bar.value for bar in bars], height=0.7, color=colour, label=kind)
    for place, bar in zip(places, bars, strict=True):
        end, apart = (bar.value, place), (3, 0)
        axes.annotate(
            bar.text, end, apart, textcoords="offset points", va="center", fontsize=SMALL
        )


def _points(series: Series, plot: Plot) -> list[Point]:
    """The points that can be shown; on a logarithmic axis a bar ends at a tenth of its value."""
    errors = series.error if series.error is not None else [0.0] * len(series.x)
    return [
        (x, y, min(error, 0.9 * y) if plot.log_y else error, error)
        for x, y, error in zip(series.x, series.y, errors, strict=True)
        if math.isfinite(x + y + error)
        and not ((plot.log_x and x <= 0) or (plot.log_y and y <= 0))
    ]


def _limits(values: list[float], logarithmic: bool, margin: float) -> tuple[float, float]:
    """The ends of an axis, a margin outside of its values.

    matplotlib's own limits of a single value on a logarithmic axis may be a rounding apart.
    """
    if logarithmic:
        values = [math.log10(value) for value in values]
    low, high = min(values), max(values)
    width = high - low
    room = margin * width if width > LEAST_WIDTH * max(1.0, abs(low), abs(high)) else 0.2
    low, high = low - room, high + room
    if logarithmic:
        low, high = max(low, -LARGEST_EXPONENT), min(high, LARGEST_EXPONENT)
    return (10**low, 10**high) if logarithmic else (low, high)


def _draw(axes: Axes, series: Series, points: Sequence[Point]) -> Line2D:
    """A line with its bars; a line without points takes its colour, too."""
    x, y, below, above = ([point[k] for point in points] for k in range(4))
    bars = [below, above] if any(above) else None
    line: Line2D = axes.errorbar(x, y, bars, elinewidth=0.8).lines[0]
    if len(points) > MARKED:
        line.set_marker("None")
    return line


class _PlainLog(LogFormatter):
    """Labels the ticks that matplotlib would label, by plain numbers."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return short(x) if super().__call__(x, pos) else ""


def _tick(axis: Axis, logarithmic: bool) -> None:
    """Round ticks with plain numbers."""
    if logarithmic:
        axis.set_major_formatter(_PlainLog(minor_thresholds=(1.6, 0.5)))
        axis.set_minor_formatter(_PlainLog(minor_thresholds=(1.6, 0.5)))
    else:
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def short(value: float) -> str:
    """A tick's value in few characters."""
    return f"{value:.4g}".replace("e-0", "e-").replace("e+0", "e").replace("-", "\N{MINUS SIGN}")


def _for_a_page(text: str, colours: list[str]) -> str:
    """An SVG document as an element of an HTML page."""
    text = text[text.index("<svg") :]
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None, "matplotlib writes a viewBox"
    text = re.sub(
        r"<svg[^>]*>", f'<svg {box[0]} role="img" stroke-linejoin="round">', text, count=1
    )
    text = re.sub(r'<g id="([^"]*?)_?\d*">', r'<g class="\1">', text)  # ids would repeat
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.S)  # of any page
    text = re.sub(r"font-family: [^;]*; ", "", text)
    text = text.replace("xlink:href", "href").replace(INK, "currentColor")
    for number, colour in enumerate(colours, start=1):
        named = f"#{colour.lstrip('#')}".lower()
        text = text.replace(named, f"var(--line-{number}, {named})")
    return text.strip()
