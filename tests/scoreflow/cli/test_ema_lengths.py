"""--mode compare with compare.ema_lengths: each average by likelihood and by samples."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import scoreflow as sf
from scoreflow.cli.main import main
from scoreflow.cli.modes import compare, likelihood
from scoreflow.comparison import rows_of_likelihood
from scoreflow.data.toy import distribution
from scoreflow.evaluation import comparison
from scoreflow.evaluation.sample_quality import SampleQuality
from scoreflow.report.page import write_report
from scoreflow.sde.noise import Noise
from scoreflow.storage.checkpoints.states import write_state
from scoreflow.storage.run_folder import RunDir
from scoreflow.uncertainty import standard_error

FIXTURES = Path(__file__).parents[2] / "fixtures"
SHORT = {
    "model.width": 8,
    "model.depth": 1,
    "training.num_steps": 16,
    "training.log_every": 2,
    "training.checkpoint_every": 4,
    "training.batch_size": 8,
    "training.learning_rate": 0.02,
    "training.warmup_steps": 1,
    "training.ema": "power",
    "likelihood.nodes": 8,
}
LENGTHS = "0,0.07,0.1"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on few points of the plane, whose judging takes no time."""
    folder = tmp_path_factory.mktemp("lengths")
    points = distribution().sample(Noise.of(3, 0, 240, torch.device("cpu")))
    np.save(folder / "points.npy", points.numpy())
    SHORT["data.path"] = str(folder / "points.npy")
    list(sf.train("vectors", folder / "run", SHORT, device="cpu"))
    return folder / "run"


@pytest.fixture(scope="module")
def swept(trained, tmp_path_factory):
    folder = Path(shutil.copytree(trained, tmp_path_factory.mktemp("swept") / "run"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "write_report", lambda folder: folder.path)
        assert ask(folder, LENGTHS) == 0
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Pages have tests of their own."""
    monkeypatch.setattr(compare, "write_report", lambda folder: folder.path)


def ask(run, lengths, *more):
    command = ["run.py", "--mode=compare", f"--workdir={run}", "--device=cpu"]
    cheap = ["--config.compare.num_images=16", "--config.compare.nfe=(5,)"]
    cheap += ["--config.compare.ema_images=4", f"--config.compare.ema_lengths={lengths}"]
    return main([*command, *cheap, *more])


def result(run, name="ema-lengths"):
    return json.loads((run / "results" / f"{name}.json").read_text())


def test_each_row_is_what_the_average_has_on_its_own(swept):
    """Likelihoods of the same images and noise, differences image by image, the same samples."""
    found = result(swept)
    assert [row["name"] for row in found["rows"]] == ["0.05", "0.07", "0.1", "raw"]
    values, judge = {}, SampleQuality(sf.load(swept, "cpu").data)
    for row in found["rows"]:
        if row["name"] == "raw":
            run = sf.load(swept, "cpu").with_raw_weights()
        else:
            run = sf.load(swept, "cpu", ema_length=row["length"])
        assert row["weights"] == run.fingerprint
        own = run.log_likelihood(run.data.test[:4])
        values[row["name"]] = own.values
        assert row["nll"] == pytest.approx(float(own.values.mean()), rel=1e-12)
        assert row["nll_error"] == pytest.approx(own.standard_error, rel=1e-12)
        x = run.sample(16, "dpm", seed=0, steps=5)
        assert row["told_apart"] == pytest.approx(judge.of_samples(x)["told_apart"], rel=1e-12)
    best = found["best"]["nll"]
    assert best == min(values, key=lambda name: float(values[name].mean()))
    for row in found["rows"]:
        apart = values[row["name"]] - values[best]
        assert row["nll_difference"] == pytest.approx(float(apart.mean()), abs=1e-12)
        assert row["nll_difference_error"] == pytest.approx(standard_error(apart), abs=1e-12)
    assert found["metric"] == "told_apart"
    assert (found["num_images"], found["num_samples"], found["step"]) == (4, 16, 16)
    assert (found["settings"]["sampler"], found["settings"]["budget"]) == ("dpm", 5)
    assert found["rows"][1]["relative_error"] > 0 == found["rows"][0]["relative_error"]


def test_the_report_shows_lines_and_a_table(swept):
    page = write_report(RunDir.open(swept)).read_text()
    assert "Averages compared" in page
    assert "nats above the best" in page
    assert "is damaged" not in page
    assert page.count("not told apart") + page.count("worse") >= 3


def counted(monkeypatch):
    """What is measured while a command runs: images by likelihood, draws."""
    seen = {"images": 0, "draws": 0}
    measure, draw = rows_of_likelihood.measure, comparison.measured

    def measured(model, of, few, question, truth, rows, *more):
        seen["images"] += max(0, few - len(rows.done))
        return measure(model, of, few, question, truth, rows, *more)

    def drawn(*asked):
        seen["draws"] += 1
        return draw(*asked)

    monkeypatch.setattr(rows_of_likelihood, "measure", measured)
    monkeypatch.setattr(comparison, "measured", drawn)
    return seen


def test_what_was_measured_is_kept(swept, tmp_path, monkeypatch):
    run = Path(shutil.copytree(swept, tmp_path / "run"))
    seen, before = counted(monkeypatch), result(run)
    assert ask(run, LENGTHS) == 0
    assert seen == {"images": 0, "draws": 0}
    assert result(run)["rows"] == before["rows"]
    assert ask(run, "0.05,0.07,0.08,0.1") == 0  # as trained is 0.05
    assert seen == {"images": 4, "draws": 1}
    assert [row["name"] for row in result(run)["rows"]] == ["0.05", "0.07", "0.08", "0.1", "raw"]
    assert ask(run, LENGTHS, "--config.compare.ema_images=6") == 0
    assert seen == {"images": 4 + 4 * 2, "draws": 1}
    row_file(run, 0.07).write_text("cut")
    assert ask(run, LENGTHS) == 0
    assert seen == {"images": 4 + 4 * 2 + 4, "draws": 1}


def row_file(run, length):
    """Where the likelihood rows of an average are."""
    weights = sf.load(run, "cpu", ema_length=length).fingerprint
    (found,) = (
        path
        for path in run.glob("results/likelihood*.jsonl")
        if json.loads(path.open().readline())["weights"] == weights
    )
    return found


def test_what_mode_likelihood_solved_is_not_solved_again(trained, tmp_path, monkeypatch):
    """As trained, under another average, and the raw weights; and the other way round."""
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    monkeypatch.setattr(likelihood, "write_report", lambda folder: folder.path)
    seen = counted(monkeypatch)

    def solve(*more):
        few = ["--config.likelihood.num_images=4", "--config.likelihood.checked=0"]
        return main(
            ["run.py", "--mode=likelihood", f"--workdir={run}", "--device=cpu", *few, *more]
        )

    assert solve("--config.likelihood.against=raw") == 0
    assert solve("--config.likelihood.ema_length=0.07") == 0
    assert seen["images"] == 12
    assert ask(run, LENGTHS) == 0
    assert seen["images"] == 12 + 4  # those of 0.1
    assert solve("--config.likelihood.ema_length=0.1") == 0
    assert seen["images"] == 16
    rows = {row["name"]: row["nll"] for row in result(run)["rows"]}
    assert rows["0.05"] == result(run, "likelihood")["value"]


def test_other_weights_of_the_same_length_are_measured_anew(swept, tmp_path, monkeypatch):
    """A run that was trained on: no row of a step before is taken for one of this."""
    run = Path(shutil.copytree(swept, tmp_path / "run"))
    list(sf.train("vectors", run, {**SHORT, "training.num_steps": 20}, device="cpu"))
    seen = counted(monkeypatch)
    assert ask(run, LENGTHS) == 0
    assert seen == {"images": 16, "draws": 4}
    assert result(run)["step"] == 20


def test_rows_are_of_the_weights_and_not_of_their_names(swept, tmp_path, monkeypatch):
    """The same config, step and lengths; averages that are others all the same."""
    run = Path(shutil.copytree(swept, tmp_path / "run"))
    snapshot, checkpoint = (run / name / "00000016.pt" for name in ("averages", "checkpoints"))
    held, state = (torch.load(path, weights_only=True) for path in (snapshot, checkpoint))
    held["averages"] = [{k: v + 1e-3 for k, v in each.items()} for each in held["averages"]]
    state["ema"], *state["averages"] = held["averages"]
    write_state(snapshot, held)
    write_state(checkpoint, state)
    seen = counted(monkeypatch)
    assert ask(run, LENGTHS) == 0
    assert seen == {"images": 12, "draws": 3}  # raw weights are what they were


def test_what_cannot_be_swept_is_refused_before_any_work(trained, tmp_path, capsys, monkeypatch):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    seen = counted(monkeypatch)
    old = Path(shutil.copytree(FIXTURES / "run-0.1", tmp_path / "old"))
    for folder, lengths, why in (
        (run, "0.05,0.004", "ema_length = 0.004 cannot be reconstructed from the 4 snapshots"),
        (run, "0.3", "compare.ema_lengths must lie in [0, 0.28]"),
        (old, "0.07", "training.ema = exponential"),
    ):
        capsys.readouterr()
        assert ask(folder, lengths) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1
        assert why in said[0]
    assert seen == {"images": 0, "draws": 0}


def test_samplers_are_compared_under_an_average(trained, tmp_path):
    """Rows of two averages stand in two files, and the heading is as of older runs."""
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    one = ["--samplers=ddim", "--config.compare.num_images=8"]
    assert ask(run, "0", *one) == 0
    heading = json.loads((run / "results" / "compare.jsonl").open().readline())
    assert "ema_length" not in heading["sampling"]
    plain = result(run, "compare")
    assert ask(run, "0", *one, "--config.sampling.ema_length=0.1") == 0
    assert result(run, "compare") == plain
    other = json.loads(next(run.glob("results/compare-*.json")).read_text())
    assert other["settings"]["ema"]["length"] == 0.1
    assert other["weights"] == sf.load(run, "cpu", ema_length=0.1).fingerprint
    assert len(list(run.glob("results/compare*.jsonl"))) == 2


def test_the_raw_weights_are_those_of_the_checkpoint(trained):
    raw = sf.load(trained, "cpu").with_raw_weights().model.network.state_dict()
    held = torch.load(trained / "checkpoints" / "00000016.pt", weights_only=True)["model"]
    assert all(torch.equal(raw[name], held[name]) for name in held)
