"""The picture: error against seconds of all procedures."""

import io

import matplotlib as mpl

from benchmarks.likelihood import settings
from benchmarks.likelihood.equal_error.front import PROCEDURES, front_of, points_of
from scoreflow.figures.plot import Plot, Series
from scoreflow.figures.svg import STYLE, figure_of
from scoreflow.storage.atomic_files import Json

DOTS = 220
"""An inch."""


def plot_of(rows: list[Json]) -> Plot:
    """The front of each procedure."""
    lines = []
    for name in PROCEDURES:
        front = front_of(points_of(rows, name))
        label = "nodes (ours)" if name == "nodes" else name
        if name == "dopri5":
            label = "dopri5 per sample, fixed probes"
        lines.append(Series(label, [p.seconds for p in front], [p.error for p in front]))
    return Plot(
        "Exact likelihood: error of an image against seconds",
        f"seconds for {settings.MEAN_OF} images",
        "RMS error of an image, bits/dim",
        tuple(lines),
        log_x=True,
    )


def png(rows: list[Json]) -> bytes:
    """The picture, on white."""
    stream = io.BytesIO()
    with mpl.rc_context(fname=STYLE):
        figure = figure_of(plot_of(rows))
        figure.savefig(stream, format="png", dpi=DOTS, facecolor="white", metadata={})
    return stream.getvalue()
