"""Heat maps and clouds of points by matplotlib, in the style that is in force."""

import math

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from scoreflow.figures.fields import Cloud, HeatMap

WIDTH = 3.7
"""Inches."""
ROW = 0.17
"""Inches of a row of a heat map."""
LETTER = 0.062
"""Inches of a letter of a row's tick."""
LOW, HIGH = "#f2f6fa", "#0b4a86"
"""Colours of the least and the greatest number."""
DARK, LIGHT, MARK = "#1d2125", "#ffffff", "#d55e00"
CLASSES = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"),
    *("#56b4e9", "#8b5a2b", "#7a7a7a", "#5b3fa0", "#9bb300"),
)
"""Colours of classes 0, 1, ...; more of them take these again."""
SIDE = 3.4


def figure_of_map(heat: HeatMap) -> Figure:
    """A heat map as a figure: each cell with its number, the best one framed."""
    left = 0.15 + LETTER * max(map(len, heat.rows), default=0)
    height = ROW * len(heat.rows) + 0.62
    figure = Figure(figsize=(WIDTH, height))
    figure.subplots_adjust(left / WIDTH, 0.52 / height, 1 - 0.06 / WIDTH, 1 - 0.1 / height)
    axes = figure.add_subplot()
    axes.grid(False)
    known = [v for row in heat.values for v in row if v is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    colours = LinearSegmentedColormap.from_list("numbers", (LOW, HIGH))
    for i, row in enumerate(heat.values):
        for k, value in enumerate(row):
            if value is None:
                continue
            share = (value - low) / (high - low) if high > low else 1.0
            axes.fill([k, k + 1, k + 1, k], [i, i, i + 1, i + 1], color=colours(share))
            ink = LIGHT if share > 0.5 else DARK
            text = f"{value:.2f}".removeprefix("0") if value < 1 else f"{value:.1f}"
            middle = (k + 0.5, i + 0.54)
            axes.text(*middle, text, ha="center", va="center", color=ink, fontsize=6.5)
    if heat.best is not None:
        i, k = heat.best
        axes.plot([k, k + 1, k + 1, k, k], [i, i, i + 1, i + 1, i], "-", marker="", color=MARK)
    axes.set_xlim(0, max(1, len(heat.columns)))
    axes.set_ylim(max(1, len(heat.rows)), 0)
    axes.set_xticks([k + 0.5 for k in range(len(heat.columns))], heat.columns)
    axes.set_yticks([i + 0.5 for i in range(len(heat.rows))], heat.rows)
    axes.tick_params(length=0, labelsize=7)
    axes.set_xlabel(heat.x_label)
    return figure


def figure_of_cloud(cloud: Cloud) -> Figure:
    """Points as a figure: the number of its class at each, or a dot."""
    figure = Figure(figsize=(WIDTH, SIDE))
    figure.subplots_adjust(0.55 / WIDTH, 0.48 / SIDE, 1 - 0.1 / WIDTH, 1 - 0.08 / SIDE)
    axes = figure.add_subplot()
    finite = [(x, y) for x, y in cloud.points if math.isfinite(x + y)]
    if cloud.classes:
        for (x, y), number in zip(cloud.points, cloud.classes, strict=True):
            colour = CLASSES[number % len(CLASSES)]
            axes.text(x, y, str(number), color=colour, fontsize=6, ha="center", va="center")
    else:
        axes.plot([x for x, _ in finite], [y for _, y in finite], ".", markersize=2)
    for axis, values in (("x", [x for x, _ in finite]), ("y", [y for _, y in finite])):
        low, high = min(values, default=0.0), max(values, default=1.0)
        room = 0.05 * (high - low) or 0.5
        getattr(axes, f"set_{axis}lim")(low - room, high + room)
    axes.set_xlabel(cloud.x_label)
    axes.set_ylabel(cloud.y_label)
    return figure
