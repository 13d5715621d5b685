"""--mode import as a user meets it: what it prints, every mode after it, and refusals."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

import scoreflow as sf
from scoreflow.cli.main import main

FIXTURES = Path(__file__).parents[2] / "fixtures"
TRAINED = FIXTURES / "improved_diffusion" / "digits_trained" / "ema_0.995_4000.pt"
FLAGS = [
    "--mode=import",
    "--device=cpu",
    f"--from={TRAINED}",
    "--as=improved_diffusion",
    "--set=size=8,heads=4,steps=4000",
    "--set=schedule=cosine,norm_groups=4",
    "--config.model.prediction=v",
    "--data=digits",
]


def run(*flags):
    return main(["run.py", *map(str, flags)])


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("imports") / "digits"
    assert run(*FLAGS, f"--workdir={workdir}") == 0
    return workdir


@pytest.fixture
def workdir(original, tmp_path):
    """A copy to write in."""
    return Path(shutil.copytree(original, tmp_path / "run"))


def ask(workdir, mode, *more):
    return run(f"--mode={mode}", f"--workdir={workdir}", "--device=cpu", *more)


def result(workdir, name):
    return json.loads((workdir / "results" / f"{name}.json").read_text())


def test_it_says_what_it_found(tmp_path, capsys):
    assert run(*FLAGS, f"--workdir={tmp_path / 'new'}") == 0
    said = capsys.readouterr().out
    for told in (
        "is of the format improved_diffusion",
        "U-Net, 16, 32 channels, 1 blocks a level, attention at 4 with 4 heads",
        "cosine, 4000 steps",
        "index x 1000/T",
        "averaged",
        "truncated_normal: it was trained on the levels themselves",
        "passed on 32 images of digits",
        "report.html",
    ):
        assert told in said
    page = (tmp_path / "new" / "report.html").read_text()
    for told in ("Imported network", "Noise error by log-SNR", "sha256 of ema_0.995_4000.pt"):
        assert told in page


def test_every_mode_works_on_it(workdir):
    few = ["--config.sampling.steps=4", "--config.sampling.num_images=12"]
    assert ask(workdir, "sample", "--sampler=ddim", *few) == 0
    assert result(workdir, "samples-ddim")["num_images"] == 12
    assert ask(workdir, "sample", "--config.sampling.task=vary", "--config.sampling.steps=4") == 0
    crude = ["--config.likelihood.nodes=8"]
    crude += ["--config.likelihood.num_images=3", "--config.likelihood.checked=0"]
    ledger = ["--config.likelihood.ledger=true", "--config.likelihood.terms=4"]
    assert ask(workdir, "likelihood", *crude, *ledger) == 0
    names = [row["name"] for row in result(workdir, "likelihood-ledger")["rows"]]
    assert names[:2] == ["exact flow, truncated_normal", "exact flow, last_step"]
    nfe = ["--samplers=ddim", "--config.compare.nfe=(4,)", "--config.compare.num_images=16"]
    assert ask(workdir, "compare", *nfe) == 0


def test_the_ledger_shows_what_score_sde_s_own_clock_gives(tmp_path):
    source = FIXTURES / "score_sde" / "vp_ddpm" / "checkpoint_24.pth"
    images = tmp_path / "images"
    images.mkdir()
    for k in range(12):
        Image.new("RGB", (8, 8), (20 * k, 10 * k, 255 - k)).save(images / f"{k:02d}.png")
    options = "--set=sde=vp,continuous=false,size=8,norm_groups=4"
    workdir = tmp_path / "run"
    told = [f"--from={source}", f"--workdir={workdir}", options, f"--data={images}", "--anyway"]
    assert run("--mode=import", "--device=cpu", *told) == 0
    crude = ["--config.likelihood.nodes=8", "--config.likelihood.trajectory_tolerance=1"]
    crude += ["--config.likelihood.num_images=2", "--config.likelihood.checked=0"]
    ledger = ["--config.likelihood.ledger=true", "--config.likelihood.terms=4"]
    assert ask(workdir, "likelihood", *crude, *ledger) == 0
    rows = {row["name"]: row for row in result(workdir, "likelihood-ledger")["rows"]}
    ours = next(iter(rows.values()))
    assert ours["name"] == "exact flow, last_step"
    alike = rows["exact flow, labels 999 t, all else alike"]
    assert alike["value"] != ours["value"]
    assert alike["minus_first"] == pytest.approx(alike["value"] - ours["value"])
    theirs = rows["exact flow, labels 999 t, from t = 1e-5 as published"]
    assert theirs["value"] not in (ours["value"], alike["value"])


@pytest.mark.slow
def test_the_certificate_holds_for_it(workdir, capsys):
    tiny = [f"--config.equivalence.{key}" for key in ("num_images=4", "steps=4", "train_steps=2")]
    assert ask(workdir, "equivalence", *tiny) == 0
    assert "identities hold" in capsys.readouterr().out


def test_training_goes_on_from_it_with_a_fresh_optimiser(workdir, capsys):
    brief = [
        "--config.training.num_steps=4004",
        "--config.training.batch_size=8",
        "--config.training.log_every=2",
        "--config.training.checkpoint_every=2",
        "--config.sampling.num_images=2",
        "--config.sampling.steps=2",
        "--config.sampling.tolerance=0.1",
        "--config.likelihood.num_images=2",
        "--config.likelihood.checked=0",
    ]
    assert ask(workdir, "train", *brief) == 0
    assert "resuming" in capsys.readouterr().out
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4002, 4004]
    assert max(row["loss"] for row in rows) < 0.4  # a fresh network has about 1
    config = json.loads((workdir / "config.json").read_text())
    assert config["training"]["num_steps"] == 4004
    # from here on it is a run like any other
    assert ask(workdir, "train", "--config.training.objective=p2") == 2
    assert "holds a run with another config" in capsys.readouterr().err


def test_its_network_is_not_another(workdir, capsys):
    assert ask(workdir, "train", "--config.model.channels=8") == 2
    assert "model.channels (16 there, 8 asked)" in capsys.readouterr().err
    assert ask(workdir, "sample", "--config.model.label_offset=0.5") == 2
    assert "belongs to the trained weights" in capsys.readouterr().err


@pytest.fixture
def without(tmp_path):
    """A run that was imported without images, and a folder of some that fit."""
    workdir, images = tmp_path / "run", tmp_path / "images"
    flags = [flag for flag in FLAGS if not flag.startswith("--data")]
    assert run(*flags, f"--workdir={workdir}") == 0
    images.mkdir()
    for k in range(20):
        Image.new("L", (8, 8), 10 * k).save(images / f"{k:02d}.png")
    return workdir, images


def test_images_may_be_named_later(without, capsys):
    workdir, images = without
    for mode in ("likelihood", "compare", "equivalence", "train"):
        assert ask(workdir, mode) == 2
        assert "add --data PATH" in capsys.readouterr().err
    crude = ["--config.likelihood.nodes=8"]
    crude += ["--config.likelihood.num_images=2", "--config.likelihood.checked=0"]
    assert ask(workdir, "likelihood", f"--data={images}", *crude) == 0
    assert result(workdir, "likelihood")["num_images"] == 2
    few = ["--config.sampling.steps=2", "--config.sampling.num_images=2"]
    assert ask(workdir, "sample", *few) == 0
    assert ask(workdir, "sample", f"--data={images}", *few) == 0
    assert ask(workdir, "sample", "--data=digits", *few) == 2
    assert "256 levels, and digits has 17" in capsys.readouterr().err


def test_images_that_measure_it_are_not_split(without, capsys):
    workdir, images = without
    few = ["--config.sampling.steps=2", "--config.sampling.num_images=20", "--sampler=ddim"]
    capsys.readouterr()
    assert ask(workdir, "sample", f"--data={images}", *few) == 0
    said = "images: all 20 images are measured on, and stand in for training images too"
    assert said in capsys.readouterr().out
    found = result(workdir, "samples-ddim")
    assert found["data"]["num_test"] == 20
    assert found["two_sample"]["num_each"] == 20
    assert found["two_sample_of_test_data"] is None  # nothing is held out
    nfe = ["--samplers=ddim", "--config.compare.nfe=(2,)", "--config.compare.num_images=20"]
    assert ask(workdir, "compare", f"--data={images}", *nfe) == 0
    assert result(workdir, "compare")["rows"][0]["num_images"] == 20
    assert result(workdir, "compare")["test_data"] == {}
    assert "held-out data" not in capsys.readouterr().out
    crude = ["--config.likelihood.nodes=8", "--config.likelihood.trajectory_tolerance=1"]
    crude += ["--config.likelihood.checked=0"]
    assert ask(workdir, "likelihood", f"--data={images}", *crude) == 0
    assert result(workdir, "likelihood")["num_images"] == 20
    assert result(workdir, "likelihood")["in_training_set"] == 0
    assert "in the training set" not in capsys.readouterr().out


@pytest.fixture
def others(without):
    """The run, and two folders of images that fit it."""
    workdir, images = without
    lighter = images.parent / "lighter"
    lighter.mkdir()
    for k in range(20):
        Image.new("L", (8, 8), 255 - 5 * k).save(lighter / f"{k:02d}.png")
    return workdir, images, lighter


def digest_of(images):
    levels = b"".join(Image.open(each).tobytes() for each in sorted(images.iterdir()))
    return hashlib.sha256(levels).hexdigest()


def test_a_result_of_images_that_can_change_says_whose_it_is(others):
    workdir, images, _ = others
    crude = ["--config.likelihood.nodes=8"]
    crude += ["--config.likelihood.num_images=2", "--config.likelihood.checked=0"]
    ledger = ["--config.likelihood.ledger=true", "--config.likelihood.terms=4"]
    assert ask(workdir, "likelihood", f"--data={images}", *crude, *ledger) == 0
    few = ["--config.sampling.steps=2", "--config.sampling.num_images=12", "--sampler=ddim"]
    assert ask(workdir, "sample", f"--data={images}", *few) == 0
    nfe = ["--samplers=ddim", "--config.compare.nfe=(2,)", "--config.compare.num_images=12"]
    assert ask(workdir, "compare", f"--data={images}", *nfe) == 0
    digest = digest_of(images)
    for name in ("likelihood", "likelihood-ledger", "samples-ddim", "compare"):
        sha256 = {"test": digest, "train": digest}
        whose = {"name": "images", "path": str(images), "sha256": sha256}
        assert result(workdir, name)["measured_on"] == whose, name
    page = (workdir / "report.html").read_text()
    assert "of 2 test data of images" in page
    assert f"measured on images ({images}, SHA-256 of the images {digest[:12]}" in page


def test_compare_measures_anew_on_other_images(others, capsys):
    workdir, images, lighter = others
    nfe = ["--samplers=ddim", "--config.compare.nfe=(2,)", "--config.compare.num_images=12"]
    distances = []
    for data in (images, lighter, lighter):
        assert ask(workdir, "compare", f"--data={data}", *nfe) == 0
        distances.append(result(workdir, "compare")["rows"][0]["nearest_train_distance"])
        told = capsys.readouterr().out
        assert ("of other settings" in told) == (data is lighter)
    assert distances[0] != distances[1] == distances[2]


def test_moments_and_samples_by_them_are_of_the_images_named(others, capsys):
    workdir, images, lighter = others
    few = ["--config.sampling.steps=3", "--config.sampling.num_images=4", "--sampler=ancestral"]
    few += ["--config.sampling.variance=optimal"]
    kept = []
    for data in (images, lighter):
        assert ask(workdir, "sample", f"--data={data}", *few) == 0
        kept.append(result(workdir, "moments"))
    assert kept[0]["settings"] != kept[1]["settings"]
    assert kept[0] | {"settings": {}} != kept[1] | {"settings": {}}
    assert "data" in capsys.readouterr().out.splitlines()[-1]  # drawn beside the others


def test_an_edited_test_image_is_of_the_images_named(others):
    workdir, images, lighter = others
    vary = ["--config.sampling.task=vary", "--config.sampling.steps=3"]
    names = set()
    for data in (images, lighter):
        assert ask(workdir, "sample", f"--data={data}", *vary) == 0
        names.add(result(workdir, "vary")["picture"])
    assert len(names) == 2


def test_a_classifier_guides_and_judges_on_its_own_images_alone(tmp_path, capsys):
    brief = ["--config.classifier.num_steps=2", "--config.classifier.batch_size=4"]
    for name in ("one", "two"):
        for k in range(20):
            folder = tmp_path / name / "ab"[k % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 5 * k + (100 if name == "two" else 0)).save(folder / f"{k}.png")
    fresh = tmp_path / "fresh"
    flags = [flag for flag in FLAGS if not flag.startswith("--data")]
    assert run(*flags, f"--workdir={fresh}") == 0
    one, two = f"--data={tmp_path / 'one'}", f"--data={tmp_path / 'two'}"
    assert ask(fresh, "classifier", one, *brief) == 0
    few = ["--config.sampling.steps=2", "--config.sampling.num_images=2", "--sampler=ddim"]
    few += ["--config.sampling.label=1"]
    assert ask(fresh, "sample", one, *few) == 0
    assert ask(fresh, "sample", two, *few) == 2
    assert "was trained on other data than these" in capsys.readouterr().err
    nfe = ["--samplers=ddim", "--config.compare.nfe=(2,)", "--config.compare.num_images=12"]
    assert ask(fresh, "compare", two, "--config.compare.guidance=()", *nfe) == 0
    assert "no feature distance" in capsys.readouterr().out
    assert "feature_distance" not in result(fresh, "compare")["rows"][0]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--mode=import", "--from=a.pt"], "needs --workdir DIR, a new folder"),
        (["--mode=import", "--workdir=new"], "needs --from PATH"),
        (["--mode=sample", "--workdir=new", "--recipe=x"], "--recipe is of --mode import"),
        (["--mode=sample", "--workdir=new", "--anyway"], "--anyway is of --mode import"),
        (["--mode=import", "--workdir=new", "--from=no/such/file.pt"], "there is no no/such/file"),
        (["--mode=import", "--workdir=new", f"--from={TRAINED}"], "add --as improved_diffusion"),
        (
            ["--mode=import", "--workdir=new", f"--from={TRAINED}", "--as=openai"],
            "unknown format 'openai'",
        ),
        (
            ["--mode=import", "--workdir=new", f"--from={TRAINED}", "--recipe=cifar"],
            "unknown recipe 'cifar'",
        ),
        (["--mode=import", "--workdir=new", f"--from={TRAINED}", "--set=heads"], "NAME=VALUE"),
        (
            ["--mode=import", "--workdir=new", f"--from={TRAINED}", "--config=digits"],
            "--config names an experiment",
        ),
        (["--mode=import", "--workdir=new", f"--from={__file__}"], "of no format that is read"),
        (
            ["--mode=sample", "--workdir=new", "--data=digits"],
            "holds no run",
        ),
    ],
)
def test_a_wrong_request_is_one_line(flags, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("--device=cpu", *flags) == 2
    line = capsys.readouterr().err
    assert told in line
    assert line.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_results_of_a_run_of_our_own_name_no_data_for_they_cannot_change():
    own = sf.load(FIXTURES / "run-0.1", "cpu")
    assert own.measured_on == own.data_digests == {}
    assert not {"data", "num_levels"} & own.draw_settings("ddim").keys()


def test_a_run_of_our_own_keeps_its_data(tmp_path, capsys):
    shutil.copytree(FIXTURES / "run-0.1", tmp_path / "run")
    assert ask(tmp_path / "run", "sample", "--data=toy") == 2
    assert "data.name belongs to the trained weights" in capsys.readouterr().err
