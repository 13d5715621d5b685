"""--mode likelihood as a user meets it: resumed, sharded, compared, and asked about other data."""

import io
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import scoreflow as sf
from scoreflow.cli.main import main
from scoreflow.cli.modes import bounds, likelihood
from scoreflow.data import dataset, loading
from scoreflow.data.dataset import Data
from scoreflow.data.loading import load_digits
from scoreflow.likelihood import dataset_likelihood
from scoreflow.likelihood.dataset_likelihood import Measured
from scoreflow.storage.result_rows import Rows

ROOT = Path(__file__).parents[3]
HASHES = ("question", "check")
TINY = [
    "--device=cpu",
    "--config.training.num_steps=4",
    "--config.training.batch_size=8",
    "--config.training.log_every=2",
    "--config.training.checkpoint_every=2",
    "--config.model.channels=8",
    "--config.model.num_groups=4",
    "--config.sampling.num_images=4",
    "--config.sampling.steps=2",
    "--config.sampling.tolerance=0.1",
    "--config.likelihood.num_images=12",
    "--config.likelihood.batch_size=5",
    "--config.likelihood.nodes=8",
    "--config.likelihood.checked=2",
]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A network of four steps, and the fresh measurement that its training ends with."""
    workdir = tmp_path_factory.mktemp("likelihoods") / "digits"
    assert main(["run.py", "--mode=train", f"--workdir={workdir}", *TINY]) == 0
    return workdir


@pytest.fixture
def run(digits, tmp_path):
    """A copy to write in."""
    return Path(shutil.copytree(digits, tmp_path / "run"))


def ask(run, *more):
    return main(
        ["run.py", "--mode=likelihood", f"--workdir={run}", "--device=cpu",
         *(f"--config.likelihood.{each}" for each in more)]
    )  # fmt: skip


def result(run, name="likelihood"):
    return json.loads((run / "results" / f"{name}.json").read_text())


def measured(run, **settings):
    """The measurement of the test set under these settings, headline or not."""
    (found,) = (
        each
        for each in map(json.loads, (p.read_text() for p in (run / "results").glob("*.json")))
        if each.get("kept", {}).get("as") == "likelihood"
        and all(each["settings"][key] == value for key, value in settings.items())
    )
    return found


def rows(run, name="likelihood"):
    lines = (run / "results" / f"{name}.jsonl").read_text().splitlines()[1:]
    found = {row["image"]: row for row in map(json.loads, lines)}
    return {k: {key: row[key] for key in row if key not in HASHES} for k, row in found.items()}


def refused(run, capfd, *more, says):
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    capfd.readouterr()
    assert ask(run, *more) == 2
    out, err = capfd.readouterr()
    assert err.count("\n") == 1, err
    assert out == ""
    for text in says:
        assert text in err, err
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def write_png(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    path.write_bytes(stream.getvalue())


# ---- rows


def test_every_image_has_a_row_and_the_result_is_their_mean(digits):
    kept, whole = rows(digits), result(digits)
    assert sorted(kept) == list(range(12))
    assert all(row["status"] == "done" and len(row["nats"]) == 1 for row in kept.values())
    bits = [row["bits_per_dim"] for row in kept.values()]
    assert whole["bits_per_dim"] == pytest.approx(np.mean(bits), abs=1e-12)
    assert whole["standard_error"] == pytest.approx(np.std(bits, ddof=1) / 12**0.5)
    assert whole["error_budget"]["solver"] > 0


def test_asked_again_it_asks_the_network_only_to_check(run, monkeypatch):
    solved = []
    solve = dataset_likelihood.DatasetLikelihood._solved
    monkeypatch.setattr(
        dataset_likelihood.DatasetLikelihood,
        "_solved",
        lambda *given: solved.append(given[1]) or solve(*given),
    )
    before = result(run)
    assert ask(run) == 0
    assert solved == [[], [0, 1], [0, 1, 2, 3]]
    (run / "results" / "likelihood.jsonl").unlink()
    solved.clear()
    assert ask(run) == 0
    assert solved == [list(range(12)), [0, 1], [0, 1, 2, 3]]
    after = result(run)
    assert after["value"] == before["value"]
    assert after["error_budget"] == before["error_budget"]


def test_more_images_keep_those_that_are_there(run):
    before = rows(run)
    assert ask(run, "num_images=15") == 0
    after = rows(run)
    assert sorted(after) == list(range(15))
    assert all(after[k] == before[k] for k in before)


def test_other_weights_do_not_take_these_rows(run):
    path, before = run / "results" / "likelihood.jsonl", rows(run)
    first, *kept = path.read_text().splitlines()
    heading = json.loads(first)
    assert len(heading["weights"]) == 64
    wrong = [json.dumps({**json.loads(row), "bits_per_dim": 99.0, "nats": [0, 0]}) for row in kept]
    other = json.dumps({**heading, "weights": "0" * 64}, sort_keys=True)
    path.write_text("\n".join([other, *wrong]) + "\n")
    theirs = path.read_bytes()
    assert ask(run) == 0
    assert path.read_bytes() == theirs  # what was measured before stays, under its own heading
    own = result(run)["rows"]
    assert json.loads((run / "results" / own).read_text().splitlines()[0]) == heading
    assert rows(run, Path(own).stem) == before


def moved_to_a_rank(run, images, rank=1, **changed):
    """Some rows of likelihood.jsonl as another process would have left them."""
    path = run / "results" / "likelihood.jsonl"
    first, *kept = path.read_text().splitlines()
    rest = [row for row in kept if json.loads(row)["image"] not in images]
    theirs = Rows(path, heading_of(path)).done
    path.write_text("\n".join([first, *rest]) + "\n")
    other = Rows(run / "results" / f"likelihood.rank{rank}.jsonl", heading_of(path))
    other.append({**theirs[k], **changed} for k in images)
    return other.path


def heading_of(path):
    heading = json.loads(path.read_text().splitlines()[0])
    return {key: value for key, value in heading.items() if key != "hashed"}


def test_one_process_takes_up_what_several_left(run):
    before = rows(run)
    other = moved_to_a_rank(run, {1, 3, 5})
    unrelated = run / "results" / "likelihood.v2.jsonl"
    unrelated.write_text("another data set's\n")
    assert ask(run, "num_images=4") == 0
    assert rows(run) == before
    assert not other.exists()
    assert unrelated.exists()


def test_a_row_that_is_done_wins_over_one_that_is_not(run):
    before = rows(run)
    stopped = moved_to_a_rank(run, {2}, status="max_evaluations")
    assert ask(run) == 0
    assert rows(run)[2]["status"] == "done"
    assert rows(run)[2]["bits_per_dim"] == pytest.approx(before[2]["bits_per_dim"], abs=1e-5)
    assert not stopped.exists()
    moved_to_a_rank(run, {4})
    path = run / "results" / "likelihood.jsonl"
    failed = {**before[4], "status": "max_evaluations"}
    Rows(path, heading_of(path)).append([failed])
    assert ask(run) == 0
    found = rows(run)[4]
    assert found["status"] == "done"
    assert found["bits_per_dim"] == pytest.approx(before[4]["bits_per_dim"], abs=1e-5)


def test_images_out_of_evaluations_are_named_and_solved_when_they_may(run, capfd):
    (run / "results" / "likelihood.jsonl").unlink()
    tight = ["trajectory_tolerance=1e-6", "checked=0"]
    assert ask(run, *tight, "max_evaluations=20") == 1
    assert "raise likelihood.max_evaluations" in capfd.readouterr().err.splitlines()[-1]
    stopped = [row for row in rows(run).values() if row["status"] != "done"]
    assert stopped
    assert all(row["status"] == "max_evaluations" for row in stopped)
    assert ask(run, *tight) == 0
    assert all(row["status"] == "done" for row in rows(run).values())


@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_processes_share_the_images_and_find_what_one_finds(world, forked, run):
    alone = result(run)
    (run / "results" / "likelihood.jsonl").unlink()
    command = (ROOT / "run.py", "--mode=likelihood", f"--workdir={run}", "--device=cpu")
    done = forked(world, *command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("bits/dim") == 1
    together = result(run)
    assert together["value"] == pytest.approx(alone["value"], abs=1e-5)
    assert together["num_images"] == 12
    assert sorted(rows(run)) == list(range(12))
    assert not list((run / "results").glob("likelihood.rank*.jsonl"))


# ---- dequantizations, and what cannot be asked


def test_the_last_step_is_a_bound_of_its_own(run):
    assert ask(run, "dequantization=last_step", "t_start=300.0") == 0
    found = result(run)
    assert found["dequantization"] == "last_step"
    assert found["t_min"] == 300.0
    assert found["error_budget"]["truncation_at_most"] is None


def test_several_points_of_an_image(run):
    assert ask(run, "samples=2", "probes=0", "num_images=2", "checked=0") == 0
    found = measured(run, samples=2)
    assert found["samples"] == 2
    assert all(len(row["nats"]) == 1 for row in rows(run, Path(found["rows"]).stem).values())
    assert result(run)["samples"] == 1  # of twelve images: the headline stays


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["t_start=0.5"], ["likelihood.t_start must lie in [1, 1000)", "below t = 1"]),
        (["t_start=1000.0"], ["likelihood.t_start"]),
        (["dequantization=truncated_normal"], ["training.dequantization = centre"]),
        (["dequantization=uniformly"], ["did you mean 'uniform'"]),
        (["samples=4"], ["likelihood.probes = 0"]),
        (["probes=65"], ["0..64"]),
        (["against=nowhere"], ["nowhere holds no run"]),
        (["data=no/such/folder/there"], ["no such dataset path"]),
    ],
)
def test_bad_questions_are_refused_before_any_work(asked, says, run, capfd):
    refused(run, capfd, *asked, says=says)


def test_a_network_trained_on_centres(tmp_path):
    run = tmp_path / "run"
    more = ["--config.training.dequantization=centre"]
    more += ["--config.likelihood.dequantization=truncated_normal"]
    assert main(["run.py", "--mode=train", f"--workdir={run}", *TINY, *more]) == 0
    assert result(run)["dequantization"] == "truncated_normal"
    assert ask(run, "dequantization=uniform", "num_images=2", "checked=0") == 0
    found = measured(run, dequantization="uniform")
    assert found["error_budget"]["truncation_at_most"] is None
    assert result(run)["dequantization"] == "truncated_normal"


# ---- in pairs


def test_weights_are_compared_on_the_same_everything(run, capfd):
    assert ask(run, "against=raw") == 0
    found = result(run, "likelihood-against-raw")
    this, raw = rows(run), rows(run, "likelihood-against-raw")
    apart = np.array([this[k]["bits_per_dim"] - raw[k]["bits_per_dim"] for k in range(12)])
    assert found["value"] == pytest.approx(apart.mean(), abs=1e-12)
    assert found["standard_error"] == pytest.approx(apart.std(ddof=1) / 12**0.5)
    assert found["standard_error"] < min(found["standard_error_of_each"]) / 2
    assert "this - raw" in capfd.readouterr().out


def test_a_run_of_centres_is_asked_as_it_was_trained(run, tmp_path, capfd):
    other = tmp_path / "centres"
    more = ["--config.training.dequantization=centre"]
    assert main(["run.py", "--mode=train", f"--workdir={other}", *TINY, *more]) == 0
    assert ask(run, f"against={other}", "dequantization=last_step", "t_start=300.0") == 0
    alone = json.loads((run / "results" / "likelihood-against-centres.json").read_text())
    asked = ["dequantization=last_step", "t_start=300.0"]
    assert ask(other, *asked) == 0
    assert alone["other"] == pytest.approx(result(other)["value"], abs=1e-9)


def test_a_run_is_equal_to_its_copy(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    assert ask(run, f"against={copy}") == 0
    found = result(run, "likelihood-against-copy")
    assert found["value"] == 0.0
    assert found["standard_error"] == 0.0


# ---- other data

EFFORT = "evaluations", "solver_error"


def test_noise_is_told_from_digits(run, tmp_path, capfd):
    generator = np.random.default_rng(0)
    for k in range(6):
        noise = generator.integers(0, 17, (8, 8), dtype=np.uint8)
        write_png(tmp_path / "noise" / f"{k}.png", noise)
    assert ask(run, f"data={tmp_path / 'noise'}") == 0
    found = result(run, "likelihood-data-noise")
    assert found["num_images"] == 6
    effort = "evaluations, then the trajectory's error"
    assert set(found["detection"]) == {"bits/dim", "bits/dim over a PNG's", effort}
    own, other = rows(run), rows(run, "likelihood-data-noise")

    def harder(one, than):
        return tuple(one[key] for key in EFFORT) > tuple(than[key] for key in EFFORT)

    pairs = [harder(other[i], own[k]) for i in other for k in own]
    assert found["detection"][effort]["auroc"] == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    assert "AUROC by evaluations, then" in capfd.readouterr().out
    for row in found["detection"].values():
        assert 0 <= row["auroc"] <= 1
        assert row["standard_error"] >= 0
    assert len(rows(run, "likelihood-data-noise")) == 6


def test_by_other_methods_the_evaluations_are_judged_alone():
    """As they were: their numbers vary, and what they leave does not tell."""
    data, values = load_digits(), torch.rand(4, 1, dtype=torch.float64)
    measured = Measured({}, "", values, values[:, 0], values[:, 0] - 0.5)
    scores = likelihood._scores(measured, data, by_nodes=False)
    assert list(scores) == ["bits/dim", "bits/dim over a PNG's", "evaluations"]
    assert torch.equal(scores["evaluations"], values[:, 0])


def test_one_image_has_a_likelihood_and_no_auroc(run, tmp_path, capfd):
    """A file, and a folder with one, are the same question: the test set is not measured."""
    write_png(tmp_path / "one" / "a.png", np.full((8, 8), 255, np.uint8))
    before, found = (run / "results" / "likelihood.json").read_bytes(), []
    for where in ("one/a.png", "one"):
        levels = np.full((8, 8), 255 if where.endswith("png") else 16, np.uint8)
        write_png(tmp_path / "one" / "a.png", levels)  # a pool has levels, a file brightness
        assert ask(run, f"data={tmp_path / where}") == 0
        out = capfd.readouterr().out
        assert "no AUROC: it takes two images of each side" in out
        found.append(result(run, f"likelihood-data-{Path(where).name}"))
        assert found[-1]["num_images"] == 1
        assert found[-1]["detection"] == {}
        (row,) = rows(run, Path(found[-1]["rows"]).stem).values()
        assert row["name"] == "a.png"
        assert row["bits_per_dim"] == pytest.approx(found[-1]["value"], abs=1e-12)
    assert found[0]["value"] == found[1]["value"]
    expected = sf.load(run, "cpu").log_likelihood(
        torch.full((1, 1, 8, 8), 16, dtype=torch.uint8), nodes=8
    )
    assert found[0]["value"] == pytest.approx(float(expected.bits_per_dim.mean()), abs=1e-6)
    assert (run / "results" / "likelihood.json").read_bytes() == before
    page = (run / "report.html").read_text()
    assert "no AUROC" in page


def test_rows_and_extremes_carry_names(run, tmp_path):
    rng = np.random.default_rng(0)
    for k in range(4):
        write_png(tmp_path / "pool" / f"p{k}.png", rng.integers(0, 17, (8, 8), dtype=np.uint8))
    assert ask(run, f"data={tmp_path / 'pool'}", "num_images=4") == 0
    found = result(run, "likelihood-data-pool")
    by_name = {
        row["name"]: row["bits_per_dim"] for row in rows(run, "likelihood-data-pool").values()
    }
    assert list(by_name) == [f"p{k}.png" for k in range(4)]
    rising = sorted(by_name, key=by_name.__getitem__)
    assert [each["name"] for each in found["lowest"]] == rising[:2]
    assert [each["name"] for each in found["highest"]] == rising[:1:-1]
    page = (run / "report.html").read_text()
    assert all(name in page for name in by_name)


def test_less_does_not_replace_more(run, capfd):
    """Eight images after twelve are a measurement of their own, and so is another seed."""
    whole = result(run)
    assert ask(run, "num_images=8") == 0
    out = capfd.readouterr().out
    assert result(run) == whole
    fewer = measured(run, num_images=8)
    assert fewer["num_images"] == 8
    assert f"kept as results/likelihood-{fewer['kept']['hash'][:8]}.json" in out
    assert ask(run, "seed=5") == 0  # as many images: the newer one is the headline
    assert result(run)["settings"]["seed"] == 5
    assert measured(run, seed=0, num_images=12) == whole
    page = (run / "report.html").read_text()
    assert "Other measurements" in page


def test_the_training_set_can_be_scored(run, capfd):
    assert ask(run, "data=train") == 0
    count, out = len(sf.load(run, "cpu").data.train), capfd.readouterr().out
    assert f"; 12 of {count} training images, " in out
    assert out.count("test images, ") == 1  # those that they are told from
    warning = result(run, "likelihood-data-train")["warning"]
    assert not warning or out.count(warning) == 1
    assert result(run, "likelihood-data-train")["num_images"] == 12


def test_other_data_that_do_not_fit_are_refused(run, tmp_path, capfd):
    write_png(tmp_path / "wide" / "a.png", np.zeros((8, 9), np.uint8))
    refused(
        run,
        capfd,
        f"data={tmp_path / 'wide'}",
        says=["8x9 pixels, where 8x8 are wanted", "likelihood.fit=crop"],
    )
    write_png(tmp_path / "colour" / "a.png", np.zeros((8, 8, 3), np.uint8))
    refused(
        run,
        capfd,
        f"data={tmp_path / 'colour'}",
        says=["RGB, where grey is wanted", "likelihood.mode=grey"],
    )
    write_png(tmp_path / "bright" / "a.png", np.full((8, 8), 17, np.uint8))
    refused(
        run,
        capfd,
        f"data={tmp_path / 'bright'}",
        says=["17 is none of the 17 levels", "likelihood.mode=auto"],
    )
    (tmp_path / "empty").mkdir()
    refused(run, capfd, f"data={tmp_path / 'empty'}", says=["no images"])
    floats = tmp_path / "floats" / "a.tif"
    floats.parent.mkdir()
    Image.fromarray(np.zeros((8, 8), np.float32)).save(floats)
    refused(run, capfd, f"data={floats.parent}", says=["mode F", "no levels"])


# ---- a test set that was trained on


def test_test_images_in_the_training_set_are_counted():
    images = torch.arange(40, dtype=torch.uint8).view(10, 1, 2, 2)
    assert dataset.overlap(Data("x", images[:6], images[6:], 256, None, None)) == 0
    assert dataset.overlap(Data("x", images[:6], images[4:], 256, None, None)) == 2


def test_an_overlap_is_said(run, capfd, monkeypatch):
    whole = load_digits()
    leaky = Data(whole.name, whole.train, whole.train[:20], 17, None, None)
    monkeypatch.setattr(loading, "load_digits", lambda *_: leaky)
    (run / "data.json").unlink()  # as if it had been trained on them
    assert ask(run, "num_images=2") == 0
    assert "20 of 20 test images are in the training set" in capfd.readouterr().out
    assert measured(run, num_images=2)["in_training_set"] == 20


# ---- the paths that end in noise alone, or in noise over the data


def path_run(sde, prediction, workdir, *more):
    given = [f"--sde={sde}", f"--config.model.prediction={prediction}", *TINY]
    given += ["--config.likelihood.num_images=4", "--config.likelihood.terms=2", *more]
    assert main(["run.py", "--mode=train", f"--workdir={workdir}", *given]) == 0
    return workdir


def finite_numbers(found):
    """Of a result, every number; a file with one that is no number is not JSON, and not read."""
    if isinstance(found, dict):
        return [each for value in found.values() for each in finite_numbers(value)]
    if isinstance(found, list):
        return [each for value in found for each in finite_numbers(value)]
    return [found] if isinstance(found, float) else []


def check_ledger(run, sde, prediction):
    """Finite, with nothing of the prior on the straight path; of eps it ends where the flow does.

    There L_T is what is left of the data: at a log-SNR of -5, 0.5 log2(1 + snr) at most.
    """
    found = result(run, "likelihood-ledger")
    assert all(map(math.isfinite, finite_numbers(found)))
    parts = {row["name"]: row["parts"] for row in found["rows"] if row["parts"]}
    assert len(parts) == 8
    ends = {each["L_T"] for each in parts.values()}
    whole = sde == "rectified" and prediction == "u"
    assert ends == {0.0} if whole else all(0 < each < 0.006 for each in ends)
    early = sde == "rectified" and prediction == "eps"
    last = 92 if early else 100
    assert found["rate_distortion"]["times"][-1] == last
    assert result(run).get("t_max") == (last if early else None)
    assert ("flow to t" in dataset_likelihood.line(result(run))) == early


@pytest.mark.slow
def test_a_run_on_the_straight_path_has_its_ledger(tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "TRAIN_IMAGES", 10)
    run = path_run("rectified", "u", tmp_path / "run", "--config.sde.num_steps=100")
    assert ask(run, "ledger=true") == 0
    check_ledger(run, "rectified", "u")
    path, cosine = sf.RectifiedSDE(100), sf.VPSDE.cosine(100)
    chains = [(path, "u", 100), (path, "eps", 92), (cosine, "eps", 100)]  # as it always was
    for sde, output, steps in chains:
        model = sf.ScoreModel(torch.nn.Identity(), sde, output)
        assert bounds._chain_of(model).num_steps == steps


@pytest.mark.slow
@pytest.mark.parametrize("prediction", ["u", "eps"])
@pytest.mark.parametrize("sde", ["rectified", "edm"])
def test_every_question_has_an_answer_on_the_two_paths(sde, prediction, tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "TRAIN_IMAGES", 10)
    run = path_run(sde, prediction, tmp_path / "run", "--config.sde.num_steps=100")
    assert ask(run, "ledger=true") == 0
    check_ledger(run, sde, prediction)
    for more in ("dequantization=last_step", "data=train", "against=raw"):
        assert ask(run, more) == 0
    assert ask(run, "samples=2", "probes=0", "num_images=2") == 0
    centred = path_run(
        sde, prediction, tmp_path / "centred", "--config.training.dequantization=centre",
        "--config.likelihood.dequantization=truncated_normal",
    )  # fmt: skip
    assert ask(centred, "ledger=true") == 0
    for path in (*run.glob("results/*.json"), *centred.glob("results/*.json")):
        assert all(map(math.isfinite, finite_numbers(json.loads(path.read_text())))), path
