"""The report stands alone: one valid page, its pictures inside, links to files that are there."""

import base64
import io
import json
import math
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image

from scoreflow.figures.image_grid import image_grid
from scoreflow.figures.plot import Plot, Series
from scoreflow.figures.scatter import scatter
from scoreflow.report import html
from scoreflow.report.page import write_report
from scoreflow.storage.run_folder import RunDir

ROOT = Path(__file__).parents[3]
OLD_RUN = ROOT / "tests" / "fixtures" / "run-0.1"
VOID = {"meta", "img", "br"}
SAMPLES = {
    "value": 0.6123,
    "standard_error": 0.0217,
    "step": 8,
    "nfe": 100.0,
    "images_per_second": 12.34,
    "num_images": 512,
    "two_sample": {"samples_recognised": 0.71, "real_recognised": 0.52},
    "two_sample_of_test_data": {
        "samples_recognised": 0.48,
        "real_recognised": 0.5234,
        "told_apart": 0.0234,
        "told_apart_error": 0.0262,
        "num_each": 360,
    },
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
    """Collects tags, text and attributes; every tag that opens must close in order."""

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.links, self.text, self.ids = [], [], [], [], []
        self.cells, self.used, self.in_svg, self.damaged = [], [], 0, []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.in_svg += tag == "svg"
        self.sources += [found["src"]] if "src" in found else []
        assert tag != "link"
        assert "style" not in found or "http" not in found["style"]
        if "href" in found:
            (self.used if self.in_svg else self.links).append(found["href"])
        if "clip-path" in found:
            self.used.append(found["clip-path"].removeprefix("url(").removesuffix(")"))
        self.ids += [found["id"]] if "id" in found else []
        if tag == "td":
            self.cells.append("")
        if found.get("class") == "damaged":
            self.damaged.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.in_svg -= tag == "svg"

    def handle_data(self, data):
        self.text.append(data)
        if self.open[-1:] == ["p"] and "header" in self.open:
            self.damaged[-1] += data
        if "td" in self.open:
            self.cells[-1] += data


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
    assert len(checker.ids) == len(set(checker.ids))
    for link in checker.links:
        if link.startswith("#"):
            assert link[1:] in checker.ids
        else:
            assert (path.parent / unquote(link)).is_file(), link
    assert {each.removeprefix("#") for each in checker.used} <= set(checker.ids)
    for source in checker.sources:
        assert source.startswith(("data:image/png;base64,", "data:image/gif;base64,"))
    return page, checker


def shown(source, scale=1):
    """The pixels of a picture of the page, enlarged."""
    with Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1]))) as image:
        return np.asarray(image).repeat(scale, axis=0).repeat(scale, axis=1)


def pixels(png):
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)


def drawn(sampler, **more):
    return {**SAMPLES, **more, "settings": {**SETTINGS, "sampler": sampler}}


def keep(run, sampler, **more):
    """Samples of a sampler in the run's folder; the bytes of their picture."""
    levels = torch.arange(4 * 64, dtype=torch.uint8).view(4, 1, 8, 8)
    picture = image_grid(levels, 2, 2)
    run.write_image(run.sample_path(8, sampler), picture)
    run.write_result(f"samples-{sampler}", drawn(sampler, **more))
    return picture


def test_report_of_everything(run):
    for sampler in ("ancestral", "ode"):
        picture = keep(run, sampler)
    run.write_result("likelihood", LIKELIHOOD)
    page, checker = parse(write_report(run))
    assert page.startswith("<!doctype html>")
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert len(checker.sources) == 2
    for source in checker.sources:
        assert (shown(source) == pixels(picture)).all()
    text = " ".join(checker.text)
    for expected in ("1.9512", "bits/dim", "ancestral", "0.210", "0.023", "Training loss"):
        assert expected in text
    assert f"17 levels {math.log2(17):.4f}" in text
    assert page.count("<svg") == 2  # loss and norm of the gradient; no learning rate was logged


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
        real = {"told_apart": number / 1000, "told_apart_error": 0.1, "num_each": number}
        keep(run, sampler, two_sample_of_test_data=real)
    cells = parse(write_report(run))[1].cells
    for sampler, number in (("ancestral", 12), ("ode", 360)):
        k = cells.index(sampler)
        assert cells[k + 6 : k + 8] == [f"{number / 1000:.3f} ± 0.100", str(number)]


def test_too_few_images_have_no_accuracy(run):
    keep(run, "ode", value=None, standard_error=None, num_images=1)
    text = " ".join(parse(write_report(run))[1].text)
    assert "ode: too few images for a two-sample test" in text
    assert "0.023" not in text  # what held-out data get


def test_test_data_stand_beside_samples_once(run):
    data = image_grid(torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8), 2, 2)
    real = {"picture_of_test_data": base64.b64encode(data).decode(), "num_test": 360}
    real["classes"] = [7, 8]
    real |= {"histogram_bits_per_dim": 2.4242, "standard_error": 0.0103}
    keep(run, "ancestral", classes=[3, 4], data={**real, "num_shown": 2})
    keep(run, "ode", classes=[5, 6], data={**real, "num_shown": 64})
    run.write_result("likelihood", LIKELIHOOD)
    _, checker = parse(write_report(run))
    text = " ".join(checker.text)
    assert sum(bool((shown(each) == pixels(data)).all()) for each in checker.sources) == 1
    assert "64 of 360 held-out test data" in text
    assert "2 of 360 held-out test data" not in text
    assert "independent pixels 2.4242 ± 0.0103 on all 360 test images" in text
    k = checker.cells.index("test set, by its labels") - 6
    rows = [checker.cells[k + 3 * row : k + 3 * row + 3] for row in range(3)]
    assert rows[0] == ["ancestral", "3", "4"]
    assert rows[1] == ["ode", "5", "6"]
    assert rows[2] == ["test set, by its labels", "7", "8"]


def test_the_report_says_what_made_the_weights(run):
    run.write_env({"command": "run.py --mode train", "commit": "abc<123>", "device_name": ""})
    _, checker = parse(write_report(run))
    assert "run.py --mode train" in checker.cells
    assert "commit abc<123>" in checker.cells
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
        lines = checker.damaged
        assert len(lines) == 1
        assert lines[0].startswith(f"results/{name}.json is damaged (")
        assert 'alt="ancestral"' in page


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


# ---- runs of 0.1, and every result


@pytest.fixture
def old(tmp_path):
    """A run of 0.1 without the HTML that its modes wrote."""
    folder = shutil.copytree(OLD_RUN, tmp_path / "run-0.1")
    for page in (folder / "results").glob("*.html"):
        page.unlink()
    return RunDir.open(folder)


def numbers(row, *keys, form=".4f"):
    value, error = (row[key] for key in keys)
    return f"{value:{form}} ± {error:{form}}"


def test_a_run_of_0_1_is_shown_whole_from_its_json(old):
    _, checker = parse(write_report(old))
    assert checker.damaged == []
    found = {path.stem: old.read_result(path.stem) for path in old.path.glob("results/*.json")}
    text = " ".join(checker.text)
    assert numbers(found["likelihood"], "value", "standard_error") in text
    for row in found["likelihood-ledger"]["rows"]:
        assert row["name"] in checker.cells
        assert numbers(row, "value", "standard_error") in checker.cells
    for row in found["compare"]["rows"]:
        k = checker.cells.index(f"{row['sampler']}, {row['budget']}")
        assert checker.cells[k + 1] == f"{row['nfe']:.1f}"
        shown = numbers(row, "feature_distance", "feature_distance_error", form=".2f")
        assert shown in checker.cells
    for row in found["compare"]["guidance"]:
        assert numbers(row, "accuracy", "accuracy_error", form=".3f") in checker.cells
        assert f"guidance {row['weight']:g}" in text
    for row in found["equivalence"]["rows"]:
        assert row["identity"] in checker.cells
        assert f"{row['residual']:.2e}" in checker.cells
        assert row["basis"] in checker.cells
    for name in ("ancestral", "dpm", "ode", "pc"):
        row = found[f"samples-{name}"]
        rows = [checker.cells[k + 1] for k, cell in enumerate(checker.cells) if cell == name]
        assert f"{row['nfe']:.1f}" in rows
    assert numbers(found["inpaint"], "value", "standard_error") in checker.cells
    for row in found["classifier"]["times"]:
        assert numbers(row, "accuracy", "standard_error", form=".3f") in checker.cells
    pictures = list(old.path.glob("samples/*.png"))
    assert len(checker.sources) == len(pictures) + 2  # the animation, and the test data
    assert {f"samples/{path.name}" for path in pictures} <= set(checker.links)
    assert f"{len(found['equivalence']['rows'])} of 37" in text
    assert "{'" not in text
    assert "['" not in text
    assert "None" not in text


def test_html_among_the_results_is_not_read(old):
    path = write_report(old)
    before = path.read_bytes()
    (old.path / "results" / "equivalence.html").write_text("<h2>Equivalence of old</h2>")
    after = write_report(old).read_text()
    assert "Equivalence of old" not in after
    (old.path / "results" / "equivalence.html").unlink()
    assert write_report(old).read_bytes() == before  # the same files give the same page


RESULTS = sorted(path.stem for path in (OLD_RUN / "results").glob("*.json"))


@pytest.mark.parametrize("name", RESULTS)
def test_damage_to_one_result_is_one_line_and_all_others_stay(name, old):
    path = old.path / "results" / f"{name}.json"
    whole = json.loads(path.read_text())
    others = [each for each in RESULTS if each != name]
    damages = [{}, dict.fromkeys(whole), dict.fromkeys(whole, 3), "{", "[1]"]
    damages += [{**whole, "data": {"histogram_bits_per_dim": "low"}}] * ("data" in whole)
    for damage in damages:
        path.write_text(damage if isinstance(damage, str) else json.dumps(damage))
        page, checker = parse(write_report(old))
        lines = checker.damaged
        assert len(lines) == 1, damage
        assert f"results/{name}.json" in lines[0]
        assert "or remove the file" in lines[0]
        assert "Inpaint: test:0" in page or name == "inpaint"
        assert "Classifier of noised images" in page or name == "classifier"
        assert not any(f"results/{each}.json is damaged" in page for each in others)


@pytest.mark.parametrize(
    "where", ["samples/00000060-dpm.png", "samples/00000060-dpm-progress.gif"]
)
def test_a_damaged_picture_is_a_line(where, old):
    (old.path / where).write_bytes(b"\x89PNG and no more")
    _, checker = parse(write_report(old))
    lines = [text for text in checker.text if text.startswith(f"{where} is damaged (")]
    assert len(lines) == 1
    assert lines[0].endswith("draw it again, or remove the file")


def test_pictures_are_shown_at_whole_multiples_of_their_pixels(old):
    page, checker = parse(write_report(old))
    for source in checker.sources:
        height, width = shown(source).shape[:2]
        tag = page[page.index(source[:200]) + len(source) :].split(">", 1)[0]
        across, down = (
            int(tag.split(f'{side}="', 1)[1].split('"', 1)[0]) for side in ("width", "height")
        )
        assert across % width == down % height == 0
        assert across // width == down // height >= 1


def test_what_stands_on_top_is_what_the_results_say(old):
    page, checker = parse(write_report(old))
    top = page[: page.index("<main>")]
    likelihood, compared = old.read_result("likelihood"), old.read_result("compare")["rows"]
    assert numbers(likelihood, "value", "standard_error") in top
    best = min(compared, key=lambda row: row["feature_distance"])
    assert f"best of the samplers: {best['sampler']}, {best['nfe']:.0f} evaluations" in top
    assert "<b>37 of 37</b>" in top
    sections = [link[1:] for link in checker.links if link.startswith("#")]
    assert {"samples", "exact-log-likelihood", "likelihood-bounds", "about-this-run"} <= set(
        sections
    )


def test_the_run_is_described(old):
    data = {"name": "digits", "num_train": 1437, "num_test": 360, "shape": [1, 8, 8]}
    data |= {"num_levels": 17, "num_classes": 10}
    result = {"step": 60, "date": "2026-11-25 17:38 UTC", "parameters": 44969, "data": data}
    old.write_result("training", result)
    _, checker = parse(write_report(old))
    for expected in (
        "digits: 1437 training and 360 test images, 1 x 8 x 8 (channels, height, width), "
        "17 levels, 10 classes",
        "unet that predicts v, 44,969 parameters",
        "2026-11-25 17:38 UTC",
        "60 steps of 16 images, 0.9 s",
        "vp, log_linear schedule, 1000 steps",
    ):
        assert expected in checker.cells
    for key, value in (("training.batch_size", "16"), ("compare.nfe", "5, 10, 20, 50, 100")):
        assert checker.cells[checker.cells.index(key) + 1] == value
    for name in ("config.json", "env.json", "metrics.jsonl", "results/likelihood.jsonl"):
        assert name in checker.links
    assert "checkpoints/00000060.pt" in checker.links


def test_time_is_counted_over_all_parts_of_a_training(tmp_path):
    with RunDir.create(tmp_path / "run", {"training": {"batch_size": 4}}, {}) as run:
        for step, seconds in ((10, 30.0), (20, 70.0), (30, 20.0), (40, 60.0)):  # resumed at 20
            run.log(step, seconds, loss=0.5)
        assert "40 steps of 4 images, 2 min" in parse(write_report(run))[1].cells


# ---- the certificate


def certificate(*passed, **more):
    rows = [
        {
            "group": f"Group {k // 2}",
            "identity": f"identity {k}",
            "residual": 0.5 if good else None,
            "tolerance": 1.0,
            "passed": good,
            "basis": "why",
            "plots": [Plot("seen", "t", "error", (Series("", [1, 2], [3, 4]),)).as_json()],
            "picture": None,
        }
        for k, good in enumerate(passed)
    ]
    settings = {"sde": "vp", "precision": "float32", "trained": False}
    return {"rows": rows, "step": 0, "settings": settings, "environment": {}, **more}


def test_failed_groups_are_open_and_the_others_folded(run):
    run.write_result("equivalence", certificate(True, True, True, False, True))
    page, checker = parse(write_report(run))
    assert "4 of 5" in page[: page.index("<main>")]
    folds = [each.split(">", 2) for each in page.split("<details")[1:]]
    own = {fold[2].split("<")[0]: fold[0].strip() for fold in folds if "Group" in fold[2]}
    assert own == {
        "Group 0: 2 of 2 hold": "",
        "Group 1: 1 of 2 hold": "open",
        "Group 2: 1 of 1 hold": "",
    }
    assert checker.cells.count("FAILED") == 1
    assert checker.cells.count("not finite") == 1
    assert page.count("<svg") == 5 + 2


def test_a_plot_that_is_damaged_makes_the_certificate_so(run):
    result = certificate(True)
    result["rows"][0]["plots"][0]["series"][0]["x"] = ["one", "two"]
    run.write_result("equivalence", result)
    page, _ = parse(write_report(run))
    assert "results/equivalence.json is damaged (rows[0]: plots[0]: series[0]: x[0]" in page


def test_a_dollar_in_a_plot_is_a_dollar(run):
    result = certificate(True)
    result["rows"][0]["plots"][0] |= {"title": "a $ b", "x_label": "in $", "y_label": r"$\frac$"}
    result["rows"][0]["plots"][0]["series"][0]["label"] = "$x_"
    run.write_result("equivalence", result)
    _, checker = parse(write_report(run))
    assert checker.damaged == []
    text = [each.strip() for each in checker.text]
    assert {"a $ b", "in $", r"$\frac$", "$x_"} <= set(text)


@pytest.mark.parametrize("plots", [3, "plots", [3], {"title": "seen"}, [{"title": "seen"}]])
def test_a_malformed_plots_field_is_a_line(plots, run):
    result = certificate(True)
    result["rows"][0]["plots"] = plots
    run.write_result("equivalence", result)
    _, checker = parse(write_report(run))
    (line,) = checker.damaged
    assert line.startswith("results/equivalence.json is damaged (")


def test_a_plot_that_cannot_be_drawn_is_a_line_and_the_others_stay(run):
    result = certificate(True, True)
    whole, _ = parse(write_report(run))
    result["rows"][0]["plots"][0]["title"] = "wrong"
    result["rows"][0]["plots"][0]["series"][0]["error"] = [-1.0, 1.0]
    run.write_result("equivalence", result)
    page, checker = parse(write_report(run))
    (line,) = checker.damaged
    assert line.startswith("the plot 'wrong' cannot be drawn (")
    assert "wrong" not in page[page.index("<main>") :]
    assert page.count("<svg") == whole.count("<svg") + 1


def test_a_picture_of_the_certificate_is_shown(run):
    png = image_grid(torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8), 2, 2)
    result = certificate(True)
    result["rows"][0]["picture"] = {"caption": "Rows: a", "png": base64.b64encode(png).decode()}
    run.write_result("equivalence", result)
    _, checker = parse(write_report(run))
    (source,) = checker.sources
    assert (shown(source) == pixels(png)).all()


# ---- nothing from outside is markup


def test_names_and_texts_of_all_results_are_escaped(old):
    bad = "<img src=x onerror=alert(1)>'\"&"

    def spoil(value):
        if isinstance(value, dict):
            return {key: spoil(each) for key, each in value.items()}
        if isinstance(value, list):
            return [spoil(each) for each in value]
        kept = ("flow", "law", "exact", "bound", "estimate", "bits/dim")
        if isinstance(value, str) and value not in kept and len(value) < 200:
            return bad
        return value

    for path in (old.path / "results").glob("*.json"):
        path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    for name in ("config", "env"):
        path = old.path / f"{name}.json"
        path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    run = RunDir.open(old.path)
    page, checker = parse(write_report(run))
    assert "onerror=alert(1)&gt;" in page
    assert "<img src=x" not in page
    assert bad in checker.cells


def test_a_likelihood_is_warned_of_and_parts_that_are_one_stand_in_one_row(run):
    budget = {"images": None, "probes": 0.0524, "solver": None, "truncation_at_most": 1.75}
    budget |= {"total": 0.0524, "too_few": 8, "prior_at_most": 0.0049}
    beware = {"warning": "starting at t = 1 can cost up to 1.75 bits/dim", "error_budget": budget}
    run.write_result("likelihood", {**LIKELIHOOD, **beware})
    _, checker = parse(write_report(run))
    assert f"Beware: {beware['warning']}" in " ".join(checker.text)
    together = checker.cells.index("spread over images, probes among it")
    assert checker.cells[together + 1] == "0.05240"
    assert "divergence probes" not in checker.cells
    prior = checker.cells.index("the prior where the flow ends costs at most")
    assert checker.cells[prior + 1] == "0.00490"


def test_samples_out_of_range_are_a_line_and_a_column(run):
    keep(run, "ode", outside={"count": 128, "more_than": 0.5})
    keep(run, "ddim", outside={"count": 0, "more_than": 0.5})
    _, checker = parse(write_report(run))
    text = " ".join(checker.text)
    assert "ode: 25.0% of the samples leave [-1, 1] by more than 0.5" in text
    assert "ddim: 0.0%" not in text
    assert {"0.250", "0.000"} <= set(checker.cells)


def test_a_section_that_cannot_be_made_costs_a_line_and_never_the_page(run, monkeypatch):
    def broken(results):
        raise KeyError("a key that no schema asks for")

    broken.__module__ = "scoreflow.report.sections.samples"
    monkeypatch.setattr("scoreflow.report.page.SECTIONS", (broken,))
    _, checker = parse(write_report(run))
    (line,) = checker.damaged
    assert line.startswith("the section of samples cannot be shown (KeyError: 'a key that no")


def test_a_script_with_other_line_ends_has_the_hash_that_a_browser_takes(
    monkeypatch,
):
    loader = html._environment().loader
    script, *others = loader.get_source(html._environment(), "page.js")
    windows = script.replace("\r\n", "\n").replace("\n", "\r\n")
    monkeypatch.setattr(loader, "get_source", lambda *_: (windows, *others))
    assert html._source("page.js") == script.replace("\r\n", "\n")
