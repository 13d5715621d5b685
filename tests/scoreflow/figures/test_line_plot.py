"""Ticks are round, few and within; a point, its bar and its tick stand where the axis says."""

import math
import re

import pytest
from scoreflow.figures.line_plot import Plot, Series, svg
from scoreflow.figures.ticks import MOST, label, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (5, 100, [5, 7, 10, 20, 30, 50, 70, 100]),
        (1, 1000, [1, 10, 100, 1000]),
        (0.17, 80, [0.3, 1, 3, 10, 30]),
        (1e-12, 1, [1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2, 1]),
        (0.61, 0.66, [0.61, 0.62, 0.63, 0.64, 0.65, 0.66]),
    ],
)
def test_logarithmic_ticks(low, high, expected):
    found = ticks(math.log10(low), math.log10(high), True)
    if len(expected) > MOST:
        expected = [5, 10, 20, 50, 100]
    assert [value for value, _ in found] == pytest.approx(expected)
    assert [10**place for _, place in found] == pytest.approx(expected)


@pytest.mark.parametrize("low", [-3.7, 0.0, 1.234e5])
@pytest.mark.parametrize("width", [1e-3, 0.3, 1.0, 7.0, 4e4])
def test_linear_ticks_are_round_few_and_within(low, width):
    found = [value for value, _ in ticks(low, low + width, False)]
    assert 3 <= len(found) <= MOST + 1
    assert low - 1e-9 * width <= found[0] < found[-1] <= low + width * (1 + 1e-6)
    step = found[1] - found[0]
    mantissa = step / 10 ** math.floor(math.log10(step * (1 + 1e-9)))
    assert min(abs(mantissa - round_) for round_ in (1, 2, 5)) < 1e-6 * max(abs(low), 1) / width


def test_labels_are_short():
    assert [label(v) for v in (1e-5, 0.02, 100, 2e6)] == ["1e-5", "0.02", "100", "2e6"]


def places(page, pattern):
    return [float(found) for found in re.findall(pattern, page)]


def test_a_point_stands_at_its_tick_and_the_bar_around_it():
    """One decade from 1 to 10: the tick of 10 and the point of 10 share their x."""
    line = Series("a line", [1, 10], [0.2, 0.4], [0.0, 0.1])
    page = svg(Plot("what", "x", (line,), log_x=True, log_y=False))
    x_ticks = places(page, r'd="M([\d.]+) 10V216"')
    (x_first, x_last) = places(page, r'cx="([\d.]+)"')
    assert x_ticks[0] == pytest.approx(x_first, abs=0.11)
    assert x_ticks[-1] == pytest.approx(x_last, abs=0.11)
    y_first, y_last = places(page, r'cy="([\d.]+)"')
    (bottom,), (top,) = places(page, r"class=bars d=\"M[\d.]+ ([\d.]+)V"), places(
        page, r"class=bars d=\"M[\d.]+ [\d.]+V([\d.]+)"
    )  # fmt: skip
    assert bottom - y_last == pytest.approx(y_last - top, abs=0.11)
    assert bottom - top == pytest.approx(y_first - y_last, abs=0.21)  # 0.2 each
    assert page.count("a line") == 1


def test_a_bar_that_would_reach_zero_is_cut_on_a_logarithmic_axis():
    page = svg(Plot("what", "x", (Series("", [1, 2], [0.1, 1.0], [0.2, 0.1]),)))
    assert page.count("<svg") == 1
    assert "nan" not in page
    assert "inf" not in page


def test_more_lines_than_colours_are_told_apart_and_the_legend_has_room():
    lines = tuple(Series(f"sampler number {k}", [1, 2], [1, k + 1]) for k in range(11))
    page = svg(Plot("what", "x", lines))
    strokes = re.findall(r'<polyline fill="none" (stroke="[^"]*"[^p]*)', page)
    assert len(set(strokes)) == 11
    height = float(re.search(r'viewBox="0 0 400 (\d+)"', page)[1])
    assert max(places(page, r'<text x="\d+" y="(\d+)"')) < height


def test_nothing_to_show_is_said():
    assert "nothing to show" in svg(Plot("what", "x", (Series("", [1], [0]),)))
