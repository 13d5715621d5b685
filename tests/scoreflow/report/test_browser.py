"""The report in a browser, on a desktop and on a phone: nothing is wider than the page."""

import base64
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scoreflow.figures.image_grid import image_grid
from scoreflow.figures.plot import Plot, Series
from scoreflow.report.page import write_report
from scoreflow.storage.run_folder import RunDir

pytestmark = pytest.mark.slow
OLD_RUN = Path(__file__).parents[2] / "fixtures" / "run-0.1"
WIDTHS = (1280, 390)
TOO_WIDE = """
(() => {
  const page = document.documentElement.clientWidth;
  const inside = (each) => {
    for (let up = each.parentElement; up; up = up.parentElement)
      if (["auto", "scroll"].includes(getComputedStyle(up).overflowX)) return true;
    return false;
  };
  return [...document.body.querySelectorAll("*")]
    .filter((each) => !inside(each) && each.checkVisibility())
    .filter((each) => { const box = each.getBoundingClientRect();
                        return box.right > page + 0.5 || box.left < -0.5; })
    .map((each) => `${each.tagName} ${each.className} ${each.textContent.slice(0, 40)}`);
})()
"""
PICTURES = """
[...document.querySelectorAll("figure.picture img")].filter((each) => each.checkVisibility())
  .map((each) => [each.naturalWidth, each.naturalHeight, each.getBoundingClientRect().width,
                  each.getBoundingClientRect().height, getComputedStyle(each).imageRendering])
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of a run of 0.1 that has a failed certificate with plots, too, and long names."""
    folder = tmp_path_factory.mktemp("browser") / "a run with quite a long name, as runs have"
    run = RunDir.open(shutil.copytree(OLD_RUN, folder))
    result = run.read_result("equivalence")
    line = Series("worst of all pairs", list(range(1, 50)), [k % 7 + 1.0 for k in range(1, 50)])
    for k, row in enumerate(result["rows"]):
        plot = Plot(row["identity"], "t, steps", "error, roundings", (line,), log_y=k % 2 == 0)
        row["plots"] = [plot.as_json()]
    result["rows"][-1] |= {"passed": False, "residual": None}
    png = image_grid(torch.randint(0, 256, (80, 1, 8, 8), dtype=torch.uint8), 40, 6)
    picture = {"caption": "Rows: a; b", "png": base64.b64encode(png).decode()}
    result["rows"][-1]["picture"] = picture
    run.write_result("equivalence", result)
    damaged = {"error_budget": {}, "note": "x" * 300}
    (run.path / "results" / f"likelihood-data-{'y' * 80}.json").write_text(json.dumps(damaged))
    return write_report(run)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_page(width, dark, page, chromium, tmp_path):
    chromium.open(page, width, dark)
    for unfold in (False, True):
        if unfold:
            chromium.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert chromium.run(TOO_WIDE) == []
        assert chromium.run("document.documentElement.scrollWidth") <= width
    shot = tmp_path / "page.png"
    chromium.screenshot(shot)
    with Image.open(shot) as image:
        ground = np.asarray(image.convert("L"))[-5:, :5].mean()
        assert image.height > 2000
    assert (ground < 60) == dark


@pytest.mark.parametrize("width", WIDTHS)
def test_pictures_are_crisp(width, page, chromium):
    """Their size in CSS pixels is a whole multiple of theirs, also where the page is narrow."""
    chromium.open(page, width)
    found = chromium.run(PICTURES)
    assert len(found) > 10
    for own_width, own_height, shown_width, shown_height, rendering in found:
        assert shown_width % own_width == 0
        assert shown_height / own_height == shown_width / own_width
        assert rendering == "pixelated"


@pytest.mark.parametrize("width", WIDTHS)
def test_a_click_shows_a_figure_large(width, page, chromium):
    chromium.open(page, width)
    for kind in ("picture", "plot"):
        chromium.run(f"document.querySelector('.{kind} .zoom').click()")
        assert chromium.run("document.getElementById('viewer').open")
        large, small = (
            chromium.run(f"document.querySelector('{each}').getBoundingClientRect().width")
            for each in ("#viewer img, #viewer svg", f".{kind} img, .{kind} svg")
        )
        assert large >= small * (1 if width == 390 else 1.5)
        chromium.run("document.getElementById('viewer').click()")
        assert not chromium.run("document.getElementById('viewer').open")


def test_a_heading_sorts_its_table_by_number(page, chromium):
    chromium.open(page, 1280)
    rows = "[...document.querySelectorAll('#likelihood-bounds tbody tr')]"
    column = f"{rows}.map((row) => Number(row.cells[2].dataset.sort))"
    before = chromium.run(column)
    assert before != sorted(before)
    heading = "document.querySelectorAll('#likelihood-bounds th button')[2]"
    chromium.run(f"{heading}.click()")
    assert chromium.run(column) == sorted(before)
    assert chromium.run(f"{heading}.parentElement.ariaSort") == "ascending"
    chromium.run(f"{heading}.click()")
    assert chromium.run(column) == sorted(before, reverse=True)


@pytest.mark.parametrize("width", WIDTHS)
def test_without_scripts_it_is_the_same_page(width, page, chromium):
    chromium.open(page, width, scripts=False)
    assert chromium.run(TOO_WIDE) == []
    assert chromium.run("document.querySelectorAll('th button').length") == 0
    assert chromium.run("document.querySelectorAll('details[open]').length") > 0


def test_every_link_of_the_contents_leads_to_a_section(page, chromium):
    chromium.open(page, 390)
    found = chromium.run(
        "[...document.querySelectorAll('nav a')].map((each) => "
        "document.querySelector(each.hash)?.tagName)"
    )
    assert len(found) > 6
    assert set(found) == {"SECTION"}
