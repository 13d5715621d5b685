"""The report stands alone: one valid page, its pictures inside."""

import base64
import io
import json
import math
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from scoreflow.figures.image_grid import image_grid
from scoreflow.figures.scatter import scatter
from scoreflow.report.page import write_report
from scoreflow.storage.run_folder import RunDir

VOID = {"meta", "img", "br"}
SAMPLES = {
    "value": 0.6123,
    "standard_error": 0.0217,
    "step": 8,
    "nfe": 100.0,
    "images_per_second": 12.34,
    "num_images": 512,
    "two_sample": {"samples_recognised": 0.71, "real_recognised": 0.52},
    "two_sample_of_test_data": {"accuracy": 0.5012, "standard_error": 0.022, "num_each": 360},
}
SETTINGS = {
    "steps": 50,
    "variance": "posterior",
    "clip": True,
    "corrector": "annealed",
    "corrections": 3,
    "snr": 0.16,
    "eta": 0.25,
    "order": 3,
    "churn": 0.5,
    "method": "scipy:RK45",
    "tolerance": 1e-4,
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
    "step": 8,
    "num_levels": 17,
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


def drawn(sampler, **more):
    return {**SAMPLES, **more, "settings": {**SETTINGS, "sampler": sampler}}


def keep(run, sampler, **more):
    """Samples of a sampler in the run's folder; the bytes of their picture."""
    picture = image_grid(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), 2, 2)
    run.write_image(run.sample_path(8, sampler), picture)
    run.write_result(f"samples-{sampler}", drawn(sampler, **more))
    return picture


def test_report_of_everything(run):
    for sampler in ("ancestral", "ode"):
        picture = keep(run, sampler)
    run.write_result("likelihood", LIKELIHOOD)
    page, checker = parse(write_report(run))
    assert page.startswith("<!doctype html>")
    assert len(checker.sources) == 2
    for source in checker.sources:
        kind, data = source.split(",", 1)
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data) == picture
    text = " ".join(checker.text)
    for expected in ("1.9512", "bits/dim", "ancestral", "0.612", "0.501", "Training loss"):
        assert expected in text
    assert f"17 levels {math.log2(17):.4f}" in text
    assert "<polyline" in page


def test_report_of_a_run_that_has_nothing_yet(tmp_path):
    with RunDir.create(tmp_path / "run", {}, {}) as run:
        page, _ = parse(write_report(run))
    assert "<svg" not in page


def test_a_picture_that_was_removed_is_left_out(run):
    run.write_result("samples-ode", drawn("ode"))
    _, checker = parse(write_report(run))
    assert checker.sources == []


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        ("ancestral", "50 steps, variance posterior, x_0 clipped"),
        ("pc", "variance posterior, corrector annealed, 3 a step, snr 0.16, x_0 clipped"),
        ("ddim", "50 steps, eta 0.25, x_0 clipped"),
        ("euler_maruyama", "50 steps, x_0 clipped"),
        ("dpm", "50 steps, order 3, x_0 clipped"),
        ("heun", "50 steps, churn 0.5, x_0 clipped"),
        ("ode", "scipy:RK45 at tolerance 0.0001"),
    ],
)
def test_a_caption_tells_how_samples_were_drawn(sampler, expected, run):
    keep(run, sampler)
    _, checker = parse(write_report(run))
    text = " ".join(checker.text)
    assert expected in text
    assert "512 images from the checkpoint of step 8" in text


def test_no_clipping_is_told_and_all_steps_are_counted(run):
    run.config = {"sde": {"num_steps": 1000}}
    settings = {**SETTINGS, "sampler": "ddim", "steps": 0}
    keep(run, "ddim")
    run.write_result("samples-ddim", {**drawn("ddim", clipped=False), "settings": settings})
    assert "1000 steps, eta 0.25, x_0 not clipped" in parse(write_report(run))[0]
    settings |= {"grid": "angle", "final": "none"}
    run.write_result("samples-ddim", {**drawn("ddim", steps=20), "settings": settings})
    text = parse(write_report(run))[0]
    assert "20 steps (angle grid), eta 0.25, last step none, x_0 clipped" in text


def test_each_sampler_has_its_own_baseline(run):
    for sampler, number in (("ancestral", 12), ("ode", 360)):
        real = {"accuracy": number / 1000, "standard_error": 0.1, "num_each": number}
        keep(run, sampler, two_sample_of_test_data=real)
    text = " ".join(parse(write_report(run))[1].text)
    assert "12 held-out real data get 0.012" in text
    assert "360 held-out real data get 0.360" in text


def test_too_few_images_have_no_accuracy(run):
    keep(run, "ode", value=None, standard_error=None, num_images=1)
    text = " ".join(parse(write_report(run))[1].text)
    assert "too few images for a two-sample test" in text
    assert "held-out" not in text


def test_test_data_stand_beside_samples_once(run):
    real = {"picture_of_test_data": "QUJD", "num_test": 360, "classes": [7, 8]}
    real |= {"histogram_bits_per_dim": 2.4242, "standard_error": 0.0103}
    keep(run, "ancestral", classes=[3, 4], data={**real, "num_shown": 2})
    keep(run, "ode", classes=[5, 6], data={**real, "num_shown": 64})
    run.write_result("likelihood", LIKELIHOOD)
    page, checker = parse(write_report(run))
    text = " ".join(checker.text)
    assert page.count("base64,QUJD") == 1
    assert "64 of 360 held-out test data" in text
    assert "independent pixels 2.4242 ± 0.0103 on all 360 test images" in text
    for cell in ("0: 3", "1: 4", "0: 5", "1: 6", "0: 7", "1: 8"):
        assert checker.text.count(cell) == 1


def test_the_report_says_what_made_the_weights(run):
    run.write_env({"command": "run.py --mode train", "commit": "abc<123>", "device_name": ""})
    text = "".join(parse(write_report(run))[1].text)
    assert "run.py --mode train at commit abc<123>" in text
    (run.path / "env.json").write_text("{")
    assert "env.json cannot be read" in parse(write_report(run))[0]


@pytest.mark.parametrize("name", ["likelihood", "samples-ode"])
def test_a_result_that_lacks_a_key_is_a_line_and_the_others_stay(name, run):
    keep(run, "ancestral")
    whole = {"likelihood": LIKELIHOOD, "samples-ode": drawn("ode")}[name]
    needed = whole.keys() - {"num_levels"}
    damages = [{key: value for key, value in whole.items() if key != gone} for gone in needed]
    damages += [{}, {**whole, "value": "high"}, {**whole, "settings": 3, "error_budget": 3}]
    for damage in damages:
        (run.path / "results" / f"{name}.json").write_text(json.dumps(damage))
        page, checker = parse(write_report(run))
        lines = [text for text in checker.text if "is damaged" in text]
        assert len(lines) == 1
        assert lines[0].startswith(f"results/{name}.json is damaged (")
        assert "samples by ancestral" in page


def test_one_row_of_metrics_is_a_curve(tmp_path):
    with RunDir.create(tmp_path / "run", {}, {}) as run:
        run.log(10, 0.1, loss=0.5)
        page, _ = parse(write_report(run))
    assert "nan" not in page
    assert "inf" not in page


def test_scatter_puts_points_where_they_are():
    png = scatter(torch.tensor([[1.0, 1.0], [1.0, 1.0]]))
    pixels = np.asarray(Image.open(io.BytesIO(png)))
    assert pixels.shape == (480, 480)
    rows, columns = np.nonzero(pixels < 128)
    assert abs(columns.mean() / 480 - 2.5 / 3) < 0.01  # x = 1: right
    assert abs(rows.mean() / 480 - 0.5 / 3) < 0.01  # y = 1: top
