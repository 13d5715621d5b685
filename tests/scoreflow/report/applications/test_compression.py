"""Compression in a report: what is smallest is marked, what is missing says so, bars are bytes."""

import matplotlib as mpl
import pytest

from scoreflow.figures.bars import Bar, Bars
from scoreflow.figures.svg import STYLE, bars_of, svg
from scoreflow.report.blocks import Figures, Table
from scoreflow.report.page import write_report
from scoreflow.report.results import Results
from scoreflow.report.sections.applications import compression, progressive
from scoreflow.storage.run_folder import RunDir

ROWS = [
    {"name": "PNG, stacked", "bytes": 1800, "bits_per_dim": 4.0, "kind": "baseline", "note": ""},
    {"name": "JXL", "bytes": None, "bits_per_dim": None, "kind": "baseline", "note": "<absent>"},
]
RESULT = {
    "value": 2.0,
    "standard_error": 0.1,
    "bytes": {"file": 900, "images": 801.0, "borrowed": 60, "header": 30, "names": 9},
    "predicted": 1.75,
    "predicted_standard_error": None,
    "predicted_bytes": 800.4,
    "net_minus_predicted": 0.001,
    "net_minus_predicted_error": None,
    "baselines": ROWS,
    "num_images": 2,
    "dims": 64,
    "steps": 40,
    "variance": "pixel",
    "settings": {"precision": 2, "batch_size": 1},
    "step": 8,
    "seconds_per_image": {"encode": 0.125, "decode": 0.25},
}


@pytest.fixture
def run(tmp_path):
    with RunDir.create(tmp_path / "run", {}, {}) as folder:
        folder.write_result("compression", RESULT)
        yield folder


def test_the_smallest_file_is_marked_and_a_prediction_is_none(run):
    (section,) = compression.sections(Results(run))
    _, table = (block for block in section.blocks if isinstance(block, Table))
    assert [row[1].mark for row in table.rows] == ["best", "", "", ""]
    assert [row[1].sort for row in table.rows] == [900, 800, 1800, None]
    assert table.rows[3][3].text == "<absent>"


def test_each_part_of_the_file_has_its_bytes_and_what_was_predicted_stands_below(run):
    (section,) = compression.sections(Results(run))
    table = next(block for block in section.blocks if isinstance(block, Table))
    assert [row[1].sort for row in table.rows] == [801, 60, 30, 9]
    assert sum(row[1].sort for row in table.rows) == table.foot[0][1].sort == 900
    assert table.foot[1][1].text == "800"
    assert "0.07 % more than predicted" in table.note


def test_bars_are_the_rows_that_have_bytes(run):
    (section,) = compression.sections(Results(run))
    (figures,) = (block for block in section.blocks if isinstance(block, Figures))
    (bars,) = figures.items
    assert [bar.value for bar in bars.bars] == [2.0, 1.75, 4.0]
    assert [bar.kind for bar in bars.bars] == list(bars.kinds)


def test_the_page_has_the_section_with_its_drawing(run):
    page = write_report(run).read_text()
    assert 'id="compression"' in page
    assert "1,800 B" in page
    assert "&lt;absent&gt;" in page


def test_without_other_codes_there_is_one_table_and_other_images_have_a_section(run):
    own = {name: RESULT[name] for name in RESULT if name != "baselines"}
    own |= {"bytes": {**RESULT["bytes"], "header": 39, "names": 0}}  # which has no row
    run.write_result("compression-data-letters", own)
    _, section = compression.sections(Results(run))
    assert section.title == "Compression: letters"
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    assert [row[1].sort for row in table.rows] == [801, 60, 39]


@pytest.mark.parametrize("key", ["bytes", "num_images", "step", "predicted"])
def test_a_result_that_lacks_something_is_a_line(run, key):
    run.write_result("compression", {name: RESULT[name] for name in RESULT if name != key})
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


# ---- progressive --------------------------------------------------------------------------------

STATES = [
    {"t": 900, "bytes": 50, "bits_per_dim": 0.5, "divergence": 0.1, "parts": 1.0, "rmse": 60.0,
     "psnr": 12.6},
    {"t": 400, "bytes": 100, "bits_per_dim": 1.0, "divergence": 0.6, "parts": 3.5, "rmse": 0.0,
     "psnr": None},
]  # fmt: skip
OTHERS = [
    {"code": "JPEG", "quality": 5, "bytes": 80, "bits_per_dim": 0.8, "rmse": 70.0, "psnr": 11.2},
    {"code": "JPEG", "quality": 50, "bytes": 99, "bits_per_dim": 0.99, "rmse": 20.0, "psnr": 22.1},
    {"code": "WebP", "quality": 5, "bytes": 90, "bits_per_dim": 0.9, "rmse": 30.0, "psnr": 18.6},
]
SENT = {"rows": STATES, "others": OTHERS, "num_images": 1, "header_bytes": 40, "step": 8}


def test_bytes_against_distortion_stand_beside_other_codes_and_the_ledger(run):
    run.write_result("compression-progressive", SENT)
    results = Results(run)
    curve = {"rate": [0.5, 9.0], "distortion": [50.0, 1.0]}
    results.by_name["likelihood-ledger"] = {"rate_distortion": curve}
    (section,) = progressive.sections(results)
    (figures,) = (block for block in section.blocks if isinstance(block, Figures))
    (plot,) = figures.items
    lines = {line.label: (line.x, line.y) for line in plot.series}
    assert lines == {
        "real bytes": ([0.5, 1.0], [60.0, 0.0]),
        "KL alone": ([0.1, 0.6], [60.0, 0.0]),
        "JPEG": ([0.8, 0.99], [70.0, 20.0]),
        "WebP": ([0.9], [30.0]),
        "ledger's curve": ([0.5], [50.0]),
    }
    results.by_name["likelihood-ledger"]["weights"] = "another network's"
    (section,) = progressive.sections(results)
    (figures,) = (block for block in section.blocks if isinstance(block, Figures))
    assert "ledger's curve" not in [line.label for line in figures.items[0].series]
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    assert [row[6].text for row in table.rows] == ["12.60", "none"]
    assert "100 bytes, 40 of them the header" in section.blocks[0].text


def test_the_page_has_both_sections(run):
    run.write_result("compression-progressive", SENT)
    page = write_report(run).read_text()
    assert 'id="progressive-compression"' in page
    assert 'id="compression"' in page
    for key in ("rows", "others", "header_bytes"):
        run.write_result("compression-progressive", {k: SENT[k] for k in SENT if k != key})
        damaged = write_report(run).read_text()
        assert 'id="progressive-compression"' not in damaged
        assert 'class="damaged"' in damaged
