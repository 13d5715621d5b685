"""Compression in a report: what is smallest is marked, what is missing says so, bars are bytes."""

import matplotlib as mpl
import pytest

from scoreflow.figures.bars import Bar, Bars
from scoreflow.figures.svg import STYLE, bars_of, svg
from scoreflow.report.blocks import Figures, Table, Text
from scoreflow.report.page import write_report
from scoreflow.report.results import Results
from scoreflow.report.sections.applications import compression
from scoreflow.storage.run_folder import RunDir

ROWS = [
    {"name": "file", "bytes": 900, "bits_per_dim": 2.0, "kind": "ours", "note": ""},
    {"name": "bound", "bytes": 890, "bits_per_dim": 1.9778, "kind": "predicted", "note": ""},
    {"name": "PNG, stacked", "bytes": 1800, "bits_per_dim": 4.0, "kind": "baseline", "note": ""},
    {"name": "JXL", "bytes": None, "bits_per_dim": None, "kind": "baseline", "note": "<absent>"},
]
RESULT = {"rows": ROWS, "num_images": 2, "step": 8}


@pytest.fixture
def run(tmp_path):
    with RunDir.create(tmp_path / "run", {}, {}) as folder:
        folder.write_result("compress", RESULT)
        yield folder


def test_the_smallest_file_is_marked_and_a_prediction_is_none(run):
    (section,) = compression.sections(Results(run))
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    assert [row[1].mark for row in table.rows] == ["best", "", "", ""]
    assert [row[1].sort for row in table.rows] == [900, 890, 1800, None]
    assert table.rows[3][3].text == "<absent>"
    assert Text("bytes, 2.0000 bits/dim: file", "900") in section.blocks


def test_bars_are_the_rows_that_have_bytes(run):
    (section,) = compression.sections(Results(run))
    (figures,) = (block for block in section.blocks if isinstance(block, Figures))
    (bars,) = figures.items
    assert [bar.value for bar in bars.bars] == [2.0, 1.9778, 4.0]
    assert [bar.kind for bar in bars.bars] == list(bars.kinds)


def test_the_page_has_the_section_with_its_drawing(run):
    page = write_report(run).read_text()
    assert 'id="compression"' in page
    assert "1,800 B" in page
    assert "&lt;absent&gt;" in page


@pytest.mark.parametrize("key", ["rows", "num_images", "step"])
def test_a_result_that_lacks_something_is_a_line(run, key):
    run.write_result("compress", {name: RESULT[name] for name in RESULT if name != key})
    results = Results(run)
    assert list(compression.sections(results)) == []
    assert len(results.damaged) == 1
    assert key in results.damaged[0]


def test_a_bar_is_as_long_as_its_value_and_has_the_colour_of_its_kind():
    bars = (Bar("a", 3.0, "one", "3 B"), Bar("b", 1.5, "two", "1 B"), Bar("c", 2.0, "one", "2 B"))
    shown = Bars("title", "bits", bars, ("one", "unseen", "two"))
    with mpl.rc_context(fname=STYLE):
        (axes,) = bars_of(shown).axes
        colours = [str(each["color"]) for each in mpl.rcParams["axes.prop_cycle"]]
    drawn = {round(bar.get_y() + bar.get_height() / 2): bar for bar in axes.patches}
    assert [drawn[k].get_width() for k in range(3)] == [3.0, 1.5, 2.0]
    seen = [mpl.colors.to_hex(drawn[k].get_facecolor()).upper() for k in range(3)]
    assert seen == [colours[0], colours[2], colours[0]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["one", "two"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first on top


def test_no_bars_are_no_drawing():
    assert svg(Bars("title", "bits", (), ())) == ""
