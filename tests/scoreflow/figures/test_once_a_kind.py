"""Tests draw plots of pages once a kind (`tests/plots.py`): what a kind is."""

import math
from dataclasses import replace

import pytest

from scoreflow.figures.plot import Plot, Series
from tests.plots import once_a_kind

LINE = Series("it", [1.0, 2.0, 3.0], [0.1, 0.2, 0.4], [0.0, 0.01, 0.02])
PLOT = Plot("what", "x", "y", (LINE,))


def changed(**changes):
    return replace(PLOT, series=(replace(LINE, **changes),))


OTHERS = {
    "label": changed(label="other"),
    "no bars": changed(error=None),
    "one point less": changed(x=[1.0, 2.0], y=[0.1, 0.2], error=[0.0, 0.0]),
    "a point that a logarithm lacks": changed(y=[0.1, 0.2, -0.4]),
    "of one value": changed(y=[0.1, 0.1, 0.1]),
    "two lines": replace(PLOT, series=(LINE, LINE)),
    "title": replace(PLOT, title="other"),
    "axis": replace(PLOT, log_x=True),
}
ALWAYS = {
    "large": changed(y=[0.1, 0.2, 1e300]),
    "small": changed(y=[0.1, 0.2, 1e-300]),
    "no number": changed(y=[0.1, 0.2, math.nan]),
    "infinite bar": changed(error=[0.0, math.inf, 0.0]),
}


@pytest.fixture
def drawing():
    """The drawer, and what it was given to draw."""
    given = []
    return once_a_kind(lambda plot, salt="": given.append((plot, salt)) or f"{len(given)}"), given


def test_other_numbers_are_not_drawn_again(drawing):
    draw, given = drawing
    assert draw(PLOT, "a") == draw(changed(y=[0.3, 0.5, 0.2]), "a") == "1"
    assert draw(PLOT, "b") == "2"  # whose ids differ
    assert given == [(PLOT, "a"), (PLOT, "b")]


@pytest.mark.parametrize("name", OTHERS)
def test_another_kind_is_drawn(name, drawing):
    draw, given = drawing
    for plot in (PLOT, OTHERS[name], PLOT, OTHERS[name]):
        draw(plot)
    assert [plot for plot, _ in given] == [PLOT, OTHERS[name]]


@pytest.mark.parametrize("name", ALWAYS)
def test_what_is_extreme_is_always_drawn(name, drawing):
    draw, given = drawing
    for _ in range(2):
        draw(ALWAYS[name])
    assert len(given) == 2
