"""--mode compare --runs: pairs on the same data and noise, rows that are kept, what is refused."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import scoreflow as sf
from scoreflow.cli.main import main
from scoreflow.comparison import runs as of_runs
from scoreflow.comparison.summary import table
from scoreflow.errors import RunError
from scoreflow.evaluation import comparison, sample_quality
from scoreflow.likelihood import dataset_likelihood
from scoreflow.report.page import write_comparison
from scoreflow.report.summary import _runs
from scoreflow.storage.run_folder import RunDir

ROOT = Path(__file__).parents[3]
OLD = ROOT / "tests" / "fixtures" / "run-0.1"
"""A run of other data."""
COUNT = 24
TINY = [
    "--device=cpu",
    "--config.training.num_steps=20",
    "--config.training.batch_size=64",
    "--config.training.learning_rate=0.01",
    "--config.training.ema_decay=0.5",
    "--config.training.log_every=20",
    "--config.training.checkpoint_every=20",
    "--config.model.width=8",
    "--config.model.depth=1",
    "--config.sampling.num_images=4",
    "--config.sampling.steps=2",
    "--config.sampling.tolerance=0.5",
    "--config.likelihood.num_images=2",
    "--config.likelihood.nodes=8",
]
ASKED = [
    f"--config.likelihood.num_images={COUNT}",
    "--config.likelihood.nodes=10",
    "--config.likelihood.checked=2",
]


def train(workdir, *more):
    config = str(ROOT / "configs" / "toy.py")
    command = ["run.py", "--mode=train", "--config", config, f"--workdir={workdir}", *TINY]
    assert main([*command, *more]) == 0


@pytest.fixture(autouse=True)
def few_references(monkeypatch):
    """Held-out data that samples are measured by, of which the toy has thousands."""
    monkeypatch.setattr(sample_quality, "REFERENCE", 64)
    monkeypatch.setattr(sample_quality, "FLOOR_PAIRS", 2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for sde in ("vp", "subvp", "ve"):
        more = ["--config.sde.schedule=linear"] if sde == "vp" else []
        train(folder / sde, f"--sde={sde}", *more)
    return folder


@pytest.fixture(scope="module")
def compared(trained, tmp_path_factory):
    """A comparison of copies, and of one of them with itself; its folder and the runs."""
    folder = Path(shutil.copytree(trained, tmp_path_factory.mktemp("compared") / "runs"))
    shutil.copytree(trained / "vp", folder / "elsewhere" / "vp")
    runs = [folder / name for name in ("vp", "subvp", "ve", "elsewhere/vp")]
    with pytest.MonkeyPatch.context() as patch:
        few_references.__wrapped__(patch)
        assert ask(runs, folder / "out") == 0
    return folder / "out", runs


@pytest.fixture
def folders(trained, tmp_path):
    """Copies to write in."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return [tmp_path / sde for sde in ("vp", "subvp", "ve")]


def ask(folders, out=None, *more):
    command = ["run.py", "--mode=compare", f"--runs={','.join(map(str, folders))}"]
    command += [] if out is None else [f"--workdir={out}"]
    command += ["--device=cpu", "--samplers=ddim,dpm", "--config.compare.nfe=2"]
    command += ["--config.compare.num_images=16", *ASKED, *more]
    return main(command)


def result(out):
    return json.loads((out / "results" / "runs.json").read_text())


def untimed(of):
    """A result without what a clock says."""
    if isinstance(of, dict):
        clocks = ("seconds", "images_per_second", "likelihood_seconds", "kept")
        return {key: untimed(value) for key, value in of.items() if key not in clocks}
    return [untimed(each) for each in of] if isinstance(of, list) else of


def of_each(folder):
    """What --mode likelihood finds for each datum."""
    asked = [f"--workdir={folder}", "--device=cpu", *ASKED]
    assert main(["run.py", "--mode=likelihood", *asked]) == 0
    found = {}
    for path in (folder / "results").glob("likelihood*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        rows = {row["image"]: row["nats_per_datum"] for row in lines[1:]}
        found = rows if len(rows) == COUNT else found
    return np.array([found[k] for k in range(COUNT)])


def test_a_difference_is_that_of_two_likelihoods_datum_by_datum(folders, compared):
    one, two = (of_each(each) for each in folders[:2])  # copies without the rows of `compared`
    found = result(compared[0])
    assert [each["values"] for each in found["runs"][:2]] == [list(one), list(two)]
    pair = found["pairs"][0]
    assert (pair["first"], pair["second"]) == (found["runs"][0]["name"], "subvp")
    assert pair["value"] == pytest.approx((one - two).mean(), rel=1e-9)
    assert pair["standard_error"] == pytest.approx(np.std(one - two, ddof=1) / COUNT**0.5)
    assert abs(pair["value"]) > 1e-3
    assert found["unit"] == "nats"
    assert found["num_images"] == COUNT
    means = {each["name"]: np.mean(each["values"]) for each in found["runs"]}
    assert found["best"] == min(means, key=means.get)
    solver = {e["name"]: e["likelihood"]["error_budget"]["solver"] for e in found["runs"]}
    for pair in found["pairs"]:
        allowed = 2 * pair["standard_error"] + solver[pair["first"]] + solver[pair["second"]]
        assert pair["larger"] == (abs(pair["value"]) > allowed)


def test_rows_are_those_of_the_runs_own_likelihoods(compared, monkeypatch):
    solved = []
    solve = dataset_likelihood.DatasetLikelihood._solved
    monkeypatch.setattr(
        dataset_likelihood.DatasetLikelihood,
        "_solved",
        lambda *given: solved.append(given[1]) or solve(*given),
    )
    out, runs = compared
    for each in runs[:2]:
        of_each(each)
    assert solved == [[], [0, 1], [0, 1, 2, 3]] * 2  # nothing but the checks
    assert min(each["likelihood_seconds"] for each in result(out)["runs"]) > 0


def test_a_run_and_its_copy_differ_in_nothing(compared):
    out, _ = compared
    one, *_, two = untimed(result(out)["runs"])
    assert one["name"] != two["name"]  # two folders of one name
    assert one["samples"] == two["samples"]
    pair = next(
        p for p in result(out)["pairs"] if {p["first"], p["second"]} == {one["name"], two["name"]}
    )
    assert (pair["value"], pair["standard_error"], pair["larger"]) == (0, 0, False)
    for case in ("ddim-2", "dpm-2"):
        pictures = [out / "samples" / f"{run['pictures']}-{case}.png" for run in (one, two)]
        assert pictures[0].read_bytes() == pictures[1].read_bytes()  # from the same noise


def test_all_begin_with_one_noise(folders, tmp_path, monkeypatch):
    noises = []
    draw = comparison.draw_samples
    monkeypatch.setattr(
        comparison,
        "draw_samples",
        lambda plan, sde, noise, *rest: noises.append(noise) or draw(plan, sde, noise, *rest),
    )
    assert ask(folders[:2], tmp_path / "out", "--config.compare.seed=3") == 0
    assert len(noises) == 4
    assert {(noise.seed, tuple(noise.index.tolist())) for noise in noises} == {
        (3, tuple(range(16)))
    }


def test_a_stopped_comparison_goes_on(folders, tmp_path, monkeypatch, capfd, compared):
    out, made = tmp_path / "out", []
    measured = comparison.measured

    def stop(case, *rest):
        made.append(case.sampler)
        if len(made) == 4:  # the second run's second case
            raise KeyboardInterrupt
        return measured(case, *rest)

    monkeypatch.setattr(comparison, "measured", stop)
    assert ask(folders, out) == 130
    assert not (out / "results" / "runs.json").exists()
    assert "goes on after them" in capfd.readouterr().err
    made.clear()
    monkeypatch.setattr(comparison, "measured", lambda c, *r: made.append(c) or measured(c, *r))
    assert ask(folders, out) == 0
    assert len(made) == 3
    unlike = ("name", "path", "pictures")
    both = ([untimed(run) for run in result(each)["runs"][:3]] for each in (out, compared[0]))
    for one, two in zip(*both, strict=True):
        assert [one[key] for key in one if key not in unlike] == [
            two[key] for key in two if key not in unlike
        ]


def test_a_run_without_a_likelihood_leaves_the_others(folders, tmp_path, monkeypatch, capfd):
    kept = of_runs.kept_likelihood

    def fail(folder, *rest):
        if folder.path.name == "subvp":
            raise RunError("24 of 24 images were not solved")
        return kept(folder, *rest)

    monkeypatch.setattr(of_runs, "kept_likelihood", fail)
    out = tmp_path / "out"
    assert ask(folders, out) == 1
    err = capfd.readouterr().err.splitlines()[-1]
    assert "subvp: not all could be measured" in err
    found = result(out)
    assert [(pair["first"], pair["second"]) for pair in found["pairs"]] == [("vp", "ve")]
    assert found["runs"][1]["failed"] == ["no likelihood: 24 of 24 images were not solved"]
    assert len(found["runs"][1]["samples"]) == 2
    assert "subvp: no likelihood: 24 of 24" in (out / "report.html").read_text()


def test_the_report_and_the_table_have_all_of_it(compared):
    out, _ = compared
    shown, page = table(result(out)), (out / "report.html").read_text()
    for text in ("vp", "subvp", "ve", "nats", "- best, in pairs", "probes", "training, s"):
        assert text in shown
    for text in (
        "Likelihoods in pairs",
        "larger than its error",
        "Every pair",
        "Samples of the runs",
        "sde.name",
        "what another training seed would change",
        "Error budget of each number",
    ):
        assert text in page, text
    assert page.count("data:image/png") == 8
    assert page.count('class="LineCollection"') >= 5  # error bars
    assert "damaged" not in page.replace(".damaged", "")
    assert "nan" not in shown
    assert "http://" not in page

    def numbers(value):
        if isinstance(value, dict | list):
            inside = value.values() if isinstance(value, dict) else value
            return [number for each in inside for number in numbers(each)]
        return [value] if isinstance(value, float) else []

    assert all(map(math.isfinite, numbers(result(out))))


def test_a_key_without_effect_has_an_empty_cell(compared):
    out, runs = compared
    stored = [RunDir.open(each).config["sde"]["schedule"] for each in runs[:3]]
    assert stored[0] == "linear" != stored[1] == stored[2]
    found = [each["differs"] for each in result(out)["runs"][:3]]
    assert [each.get("sde.schedule") for each in found] == [*stored[:2], None]  # VE has none


def test_an_error_of_the_solver_that_is_a_guess_is_called_one(folders, tmp_path, capfd, compared):
    assert ask(folders[:2], tmp_path / "out", "--config.likelihood.checked=0") == 0
    found, page = result(tmp_path / "out"), (tmp_path / "out" / "report.html").read_text()
    assert found["pairs"][0]["guessed"]
    assert "its own guess for vp, subvp, not measured" in found["note"]
    assert capfd.readouterr().out.count(" guessed") == 2
    for text in (", guessed", "s part guessed", "not measured"):
        assert text in page, text
    measured = result(compared[0])
    assert not any(pair["guessed"] for pair in measured["pairs"])
    assert "guess" not in table(measured)
    assert "guess" not in (compared[0] / "report.html").read_text()


@pytest.mark.slow
def test_averages_of_another_length_are_said(tmp_path, capfd):
    left_out = ("ema_decay", "checkpoint_every", "log_every")
    kept = [flag for flag in TINY if not any(key in flag for key in left_out)]
    kept += [f"--config.training.{key}" for key in ("ema=power", "checkpoint_every=4")]
    kept += ["--config.training.log_every=4"]
    runs = [tmp_path / "one", tmp_path / "two"]
    for seed, folder in enumerate(runs):
        command = ["run.py", "--mode=train", f"--config={ROOT / 'configs' / 'toy.py'}", *kept]
        assert main([*command, f"--workdir={folder}", f"--config.seed={seed}"]) == 0
    assert ask(runs, tmp_path / "out", "--config.sampling.ema_length=0.07") == 0
    found, page = result(tmp_path / "out"), (tmp_path / "out" / "report.html").read_text()
    assert [each["ema"]["length"] for each in found["runs"]] == [0.07, 0.07]
    assert found["settings"]["ema"]["length"] == 0.07
    assert "average of length 0.07" in found["note"]
    assert "average of length 0.07" in capfd.readouterr().out
    assert page.count(", average of length 0.07") == 2  # likelihoods and samples
    assert ask(runs, tmp_path / "plain") == 0
    plain = result(tmp_path / "plain")
    assert not any("ema" in each for each in [*plain["runs"], plain["settings"]])
    assert plain["runs"][0]["weights"] != found["runs"][0]["weights"]


def test_the_headline_counts_other_runs_and_not_other_seeds():
    def run(name, value, **differs):
        likelihood = {"value": value, "standard_error": 0.1}
        return {"name": name, "step": 5, "likelihood": likelihood, "differs": differs}

    edm = {"sde.name": "edm"}
    found = {
        "unit": "nats",
        "runs": [run("edm-1", 1.0, seed=1, **edm), run("edm-0", 2.0, seed=0, **edm)],
        "pairs": [{"first": "edm-0", "second": "edm-1", "larger_of_all": True}],
    }
    assert len(list(_runs(found))) == 1  # the best, and no word of other runs
    found["runs"].append(run("vp-1", 3.0, seed=1, **{"sde.name": "vp"}))
    found["pairs"].append({"first": "edm-1", "second": "vp-1", "larger_of_all": True})
    found["pairs"].append({"first": "edm-0", "second": "vp-1", "larger_of_all": True})
    _, other = _runs(found)
    assert other.number == "1 of 1"
    assert "not counting those of another seed alone, are worse than edm-1" in other.label
    assert "what another training seed would change is not in it" in other.label


def test_a_damaged_result_is_a_line_of_the_report(compared, tmp_path):
    out = Path(shutil.copytree(compared[0], tmp_path / "out"))
    path = out / "results" / "runs.json"
    path.write_text(path.read_text().replace('"pairs"', '"pears"'))
    page = write_comparison(RunDir(out, {}, None)).read_text()
    assert "results/runs.json is damaged" in page
    assert "Likelihoods in pairs" not in page


def test_other_training_data_are_said(folders):
    sides = [of_runs.Side(f.name, sf.load(f, device="cpu")) for f in folders[:2]]
    assert of_runs._remarks(sides) == []
    data = sides[1].trained.data
    sides[1].trained.data = replace(data, train=data.train[:50])
    assert "and subvp had others" in of_runs._remarks(sides)[0]


def test_python_gives_the_same(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ask(folders[:2]) == 0
    (out,) = Path("runs").iterdir()
    asked = result(out)
    likelihood = {"num_images": COUNT, "nodes": 10, "checked": 2}
    settings = {"samplers": ("ddim", "dpm"), "nfe": (2,), "num_images": 16}
    found = sf.compare(folders[:2], device="cpu", likelihood=likelihood, compare=settings)
    assert found.folder == out
    assert untimed(result(out)) == untimed(asked)
    assert found.result["pairs"] == asked["pairs"]
    assert "- best, in pairs" in str(found)
    assert found.report.exists()
    with pytest.raises(sf.RequestError, match="two runs or more"):
        sf.compare(folders[:1])
    with pytest.raises(sf.RequestError, match="a list of runs' folders"):
        sf.compare("a,b")
    with pytest.raises(sf.RequestError, match=r"likelihood\.ledger has no effect on compare"):
        sf.compare(folders, likelihood={"ledger": True})


REFUSED = {
    "one": (lambda f: f[:1], [], "two runs or more"),
    "none": (lambda _: [], [], "two runs or more"),
    "twice": (lambda f: [f[0], f[1], f[0].parent / "ve" / ".." / "vp"], [], "one folder twice"),
    "missing": (lambda f: [f[0], f[0].parent / "gone"], [], "gone holds no run"),
    "data": (lambda f: [f[0], f[0].parent / "digits"], [], "other shape"),
    "split": (lambda f: [f[0], f[0].parent / "split"], [], "other test data"),
    "nothing": (lambda f: f, ["--config.likelihood.ledger=true"], "no effect on --mode compare"),
    "against": (lambda f: f, ["--config.likelihood.against=raw"], "those of --runs"),
    "sweep": (lambda f: f, ["--config.compare.guidance=1.0,2.0"], "no effect"),
    "weights": (lambda f: f, ["--config.sde.num_steps=7"], "belongs to the trained weights"),
    "start": (lambda f: f, ["--config.likelihood.t_start=5000.0"], "likelihood.t_start"),
    "few": (lambda f: f, ["--config.compare.num_images=4"], "needs 8 images"),
    "sort": (lambda f: f, ["--sort=steps"], "--sort is of --mode table"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_compared_is_refused_in_a_line(trained, tmp_path, name, capfd):
    if name == "split":
        train(tmp_path / "split", "--sde=vp", "--config.data.split_seed=1")
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    shutil.copytree(OLD, tmp_path / "digits")
    folders, more, says = REFUSED[name]
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    capfd.readouterr()
    folders = folders([tmp_path / sde for sde in ("vp", "subvp", "ve")])
    assert ask(folders, tmp_path / "out", *more) == 2
    out, err = capfd.readouterr()
    assert err.count("\n") == 1, err
    assert says in err
    assert out == ""
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_the_folder_of_a_run_is_none_for_a_comparison(folders, capfd):
    assert ask(folders, folders[0]) == 2
    assert (
        "holds a run, and a comparison of runs has a folder of its own" in capfd.readouterr().err
    )


@pytest.mark.slow
def test_other_settings_leave_the_earlier_result(folders, tmp_path):
    out = tmp_path / "out"
    assert ask(folders[:2], out) == 0
    first = result(out)
    assert ask(folders[:2], out, "--config.compare.seed=5") == 0
    assert result(out)["runs"][0]["values"] == first["runs"][0]["values"]
    assert result(out)["runs"][0]["samples"] != first["runs"][0]["samples"]
    (other,) = (out / "results").glob("runs-*.json")
    assert untimed(json.loads(other.read_text())) == untimed(first)
    assert "Other measurements" in (out / "report.html").read_text()


@pytest.mark.slow
def test_two_processes_find_what_one_does(folders, tmp_path, torchrun):
    assert ask(folders[:2], tmp_path / "one") == 0
    for each in folders:
        shutil.rmtree(each / "results")
    flags = [f"--runs={folders[0]},{folders[1]}", f"--workdir={tmp_path / 'two'}", "--device=cpu"]
    flags += ["--samplers=ddim,dpm", "--config.compare.nfe=2", "--config.compare.num_images=16"]
    done = torchrun(2, ROOT / "run.py", "--mode=compare", *flags, *ASKED)
    assert done.returncode == 0, done.stderr
    one, two = (result(tmp_path / name) for name in ("one", "two"))
    (own,), (shared,) = one["pairs"], two["pairs"]
    numbers = {key: each for key, each in shared.items() if type(each) is float}
    # in other batches a network rounds otherwise
    near = {key: pytest.approx(each, rel=1e-3) for key, each in numbers.items()}
    assert own == {**shared, **near}
    for here, there in zip(one["runs"], two["runs"], strict=True):
        assert here["values"] == pytest.approx(there["values"], abs=1e-5)
        assert [row["nfe"] for row in here["samples"]] == [row["nfe"] for row in there["samples"]]
    pictures = {path.name: path.read_bytes() for path in (tmp_path / "one/samples").iterdir()}
    assert len(pictures) == 4
    for name, picture in pictures.items():
        assert (tmp_path / "two/samples" / name).read_bytes() == picture
