"""The report stands alone: one valid page, its pictures inside."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from scoreflow import report
from scoreflow.grid import image_grid
from scoreflow.run_dir import RunDir

VOID = {"meta", "img", "br"}
SAMPLES = {
    "value": 0.6123,
    "standard_error": 0.0217,
    "step": 8,
    "nfe": 100.0,
    "images_per_second": 12.34,
    "two_sample": {"samples_recognised": 0.71, "real_recognised": 0.52},
    "two_sample_of_test_data": {"accuracy": 0.5012, "standard_error": 0.022},
}
LIKELIHOOD = {
    "value": 1.9512,
    "standard_error": None,
    "unit": "bits/dim",
    "num_images": 1,
    "nfe": 140.0,
    "seconds": 3.0,
    "dequantization": "uniform",
    "t_min": 1.0,
    "error_budget": {"images": None, "probes": 0.0, "solver": None, "truncation_at_most": 0.01},
}


class Checker(HTMLParser):
    """Collects tags and attributes; every tag that opens must close in order."""

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.sources += [value for key, value in attrs if key in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def run(tmp_path):
    with RunDir.create(tmp_path / "a<b>&c", {"seed": 0}, {}) as run:
        for step in range(2, 10, 2):
            run.log(step, 0.1, loss=1 / step, grad_norm=1.0)
        yield run


def parse(path):
    page = path.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert "http://" not in page
    assert "https://" not in page
    assert "a<b>" not in page
    return page, checker


def test_report_of_everything(run):
    picture = image_grid(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), 2, 2)
    for sampler in ("ancestral", "ode"):
        run.write_image(run.sample_path(8, sampler), picture)
        run.write_result(f"samples-{sampler}", {**SAMPLES, "settings": {"sampler": sampler}})
    run.write_result("likelihood", LIKELIHOOD)
    page, checker = parse(report.write(run))
    assert page.startswith("<!doctype html>")
    assert len(checker.sources) == 2
    for source in checker.sources:
        kind, data = source.split(",", 1)
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data) == picture
    text = " ".join(checker.text)
    for expected in ("1.9512", "bits/dim", "ancestral", "0.612", "0.501", "step 2"):
        assert expected in text
    assert "<polyline" in page


def test_report_of_a_run_that_has_nothing_yet(tmp_path):
    with RunDir.create(tmp_path / "run", {}, {}) as run:
        page, _ = parse(report.write(run))
    assert "<svg" not in page


def test_a_picture_that_was_removed_is_left_out(run):
    run.write_result("samples-ode", {**SAMPLES, "settings": {"sampler": "ode"}})
    _, checker = parse(report.write(run))
    assert checker.sources == []


def test_one_row_of_metrics_is_a_curve(tmp_path):
    with RunDir.create(tmp_path / "run", {}, {}) as run:
        run.log(10, 0.1, loss=0.5)
        page, _ = parse(report.write(run))
    assert "nan" not in page
    assert "inf" not in page


def test_scatter_puts_points_where_they_are():
    png = report.scatter(torch.tensor([[1.0, 1.0], [1.0, 1.0]]))
    pixels = np.asarray(Image.open(io.BytesIO(png)))
    assert pixels.shape == (480, 480)
    rows, columns = np.nonzero(pixels < 128)
    assert abs(columns.mean() / 480 - 2.5 / 3) < 0.01  # x = 1: right
    assert abs(rows.mean() / 480 - 0.5 / 3) < 0.01  # y = 1: top
