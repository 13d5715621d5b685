"""Plots as JSON come back whole; a point, its bar and its axis are where the numbers say."""

import json
import math
import re
import subprocess
import sys
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from scoreflow.figures.plot import MOST_POINTS, Plot, Series
from scoreflow.figures.svg import STYLE, figure_of, short, svg

LINE = Series("a line", [1, 10], [0.2, 0.4], [0.0, 0.1])


def plot(*series, log_x=False, log_y=False):
    return Plot("a title", "steps & more", "error < 1", series, log_x, log_y)


def drawn(plot):
    """The data of each line and the segments of all bars."""
    with mpl.rc_context(fname=STYLE):
        (axes,) = figure_of(plot).axes
    bars = [segment for each in axes.collections for segment in each.get_segments()]
    lines = [line for line in axes.lines if line.get_linestyle() != "None"]
    return axes, [line.get_xydata().tolist() for line in lines], bars


@pytest.mark.parametrize("log_x", [False, True])
@pytest.mark.parametrize("log_y", [False, True])
def test_a_plot_comes_back_from_json(log_x, log_y):
    shown = plot(LINE, Series("", [1.0], [2.0]), log_x=log_x, log_y=log_y)
    back = Plot.from_json(json.loads(json.dumps(shown.as_json(), allow_nan=False)))
    assert back == Plot(
        "a title",
        "steps & more",
        "error < 1",
        (Series("a line", [1.0, 10.0], [0.2, 0.4], [0.0, 0.1]), Series("", [1.0], [2.0])),
        log_x,
        log_y,
    )
    assert svg(back) == svg(shown)


def test_json_has_no_points_that_are_no_numbers():
    kept = plot(Series("a", [1, 2, 3, 4], [1.0, math.nan, math.inf, 4.0])).as_json()
    assert kept["series"][0] == {"label": "a", "x": [1, 4], "y": [1, 4], "error": None}


def test_long_lines_keep_their_ends_and_extremes():
    y = [math.sin(k / 50) for k in range(5000)]
    y[1234], y[3210] = 7.0, -7.0
    (kept,) = plot(Series("", range(5000), y)).as_json()["series"]
    assert len(kept["x"]) <= MOST_POINTS
    assert kept["x"] == sorted(set(kept["x"]))
    assert kept["x"][0] == 0
    assert kept["x"][-1] == 4999
    assert (max(kept["y"]), min(kept["y"])) == (7, -7)
    for x, value in zip(kept["x"], kept["y"], strict=True):
        assert value == pytest.approx(y[int(x)], rel=1e-6)


@pytest.mark.parametrize(
    "damage",
    [
        {"series": 3},
        {"series": [{"label": "", "x": [1, 2], "y": [1], "error": None}]},
        {"series": [{"label": "", "x": ["one"], "y": [1], "error": None}]},
        {"series": [{"label": "", "x": [1], "y": [1], "error": [1, 2]}]},
        {"series": [{"label": ""}]},
        "title",
        "y_label",
    ],
    ids=str,
)
def test_a_damaged_plot_is_refused_before_it_is_drawn(damage):
    kept = plot(LINE).as_json()
    if isinstance(damage, str):
        del kept[damage]
    else:
        kept |= damage
    with pytest.raises((KeyError, TypeError, ValueError)):
        Plot.from_json(kept)


def test_points_and_bars_stand_where_the_numbers_say():
    axes, (line,), bars = drawn(plot(LINE, log_x=True))
    assert line == [[1, 0.2], [10, 0.4]]
    assert [[1, 0.2], [1, 0.2]] in [bar.tolist() for bar in bars]
    assert any(bar == pytest.approx([10, 0.3, 10, 0.5]) for bar in (b.ravel() for b in bars))
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("steps & more", "error < 1")


def test_a_bar_that_would_reach_zero_is_cut_on_a_logarithmic_axis():
    _, (line,), bars = drawn(plot(Series("", [1, 2], [0.1, 1.0], [0.2, 0.1]), log_y=True))
    assert line == [[1, 0.1], [2, 1.0]]
    assert sorted(bar[0][1] for bar in bars) == pytest.approx([0.01, 0.9])
    assert sorted(bar[1][1] for bar in bars) == pytest.approx([0.3, 1.1])


def test_what_an_axis_cannot_show_is_left_out():
    shown = Series("", [0, 1, 2, 3], [1.0, 0.0, math.nan, 2.0])
    assert drawn(plot(shown, log_x=True, log_y=True))[1] == [[[3, 2.0]]]
    assert drawn(plot(shown))[1] == [[[0, 1.0], [1, 0.0], [3, 2.0]]]
    assert svg(plot(Series("", [1], [0]), log_y=True)) == ""
    assert svg(plot()) == ""


def test_an_element_of_a_page():
    page = svg(plot(LINE))
    root = ElementTree.fromstring(page)  # well-formed
    assert root.tag == "svg"
    assert root.get("viewBox")
    assert root.get("width") is None
    text = " ".join(root.itertext())
    for expected in ("steps & more", "error < 1", "a line"):
        assert expected in text
    assert "http" not in page
    assert "currentColor" in page
    assert "#010203" not in page
    assert "var(--line-1, #0072b2)" in page
    assert not re.search("<style", page)  # it would be the whole page's


def test_the_same_plot_is_the_same_text_and_another_salt_shares_no_id():
    def ids(page):
        return set(re.findall(r'\bid="([^"]*)"', page))

    one, again, other = svg(plot(LINE), "1"), svg(plot(LINE), "1"), svg(plot(LINE), "2")
    assert one == again
    assert ids(one)
    assert not ids(one) & ids(other)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]*)', one))
    assert used <= ids(one)


def test_lines_are_told_apart_by_more_than_colour():
    lines = tuple(Series(f"sampler number {k}", [1, 2], [1, k + 1]) for k in range(11))
    with mpl.rc_context(fname=STYLE):
        figure = figure_of(plot(*lines))
        (axes,) = figure.axes
        figure.draw_without_rendering()
        styles = {
            (line.get_color(), line.get_linestyle(), line.get_marker())
            for line in axes.lines
            if line.get_linestyle() != "None"
        }
        assert len(styles) == 11
        box, frame = axes.get_legend().get_window_extent(), figure.bbox
        assert box.y0 >= 0
        assert box.x1 <= frame.x1
        assert box.y1 < axes.get_xaxis().label.get_window_extent().y0


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_a_legend_takes_no_room_from_the_plot(rows):
    lines = tuple(Series("x" * 60 if rows else "", [1, 2], [1, 2]) for _ in range(max(rows, 1)))
    figure = figure_of(plot(*lines))
    heights = figure.axes[0].get_position().height * figure.get_figheight()
    assert heights == pytest.approx(figure_of(plot(LINE)).axes[0].get_position().height
                                    * figure_of(plot(LINE)).get_figheight())  # fmt: skip


def test_ticks_are_short():
    assert [short(v) for v in (1e-5, 0.02, 100, 2e6, -3)] == [
        "1e\N{MINUS SIGN}5",
        "0.02",
        "100",
        "2e6",
        "\N{MINUS SIGN}3",
    ]


def test_matplotlib_is_imported_where_a_plot_is_drawn_alone():
    code = "import sys, scoreflow.report.page, scoreflow.cli.main, scoreflow.figures.plot; "
    code += "sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_setting_of_matplotlib_is_left_changed():
    before = dict(mpl.rcParams)
    svg(plot(LINE))
    assert dict(mpl.rcParams) == before
    code = "import sys; from scoreflow.figures.plot import Plot, Series; "
    code += "from scoreflow.figures.svg import svg; "
    code += "assert svg(Plot('', '', '', (Series('', [1], [1]),))); "
    code += "sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("log_x", [False, True])
@pytest.mark.parametrize("log_y", [False, True])
@pytest.mark.parametrize("x", [5.55308636391245, 0.0007608552663310558, 1e6])
@pytest.mark.parametrize("spread", [0.0, 1e-15, 1e-3])
def test_an_axis_of_one_value_is_wide_enough(log_x, log_y, x, spread):
    """Of such x matplotlib's own axes were 0 wide: bars are a rounding beside their points."""
    lines = (Series("a", [x], [0.5], [0.03]), Series("b", [x, x * (1 + spread)], [0.5, 0.5]))
    axes, *_ = drawn(plot(*lines, log_x=log_x, log_y=log_y))
    low, high = axes.get_xlim()
    assert low < x < high
    assert "nan" not in svg(plot(*lines, log_x=log_x, log_y=log_y))
