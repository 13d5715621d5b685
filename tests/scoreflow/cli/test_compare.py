"""--mode compare: the same noise for all, counted evaluations, rows that are kept."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from scoreflow.cli.main import main
from scoreflow.data.loading import load_digits
from scoreflow.data.toy import distribution
from scoreflow.evaluation import comparison, convergence_order, guidance_sweep
from scoreflow.evaluation.nearest_neighbours import precision_recall
from scoreflow.sde.noise import Noise

ROOT = Path(__file__).parents[3]
TINY = [
    "--device=cpu",
    "--config.training.num_steps=4",
    "--config.training.batch_size=8",
    "--config.training.log_every=2",
    "--config.training.checkpoint_every=2",
    "--config.model.width=8",
    "--config.model.depth=1",
    "--config.sampling.num_images=4",
    "--config.sampling.steps=2",
    "--config.sampling.tolerance=0.5",
    "--config.likelihood.num_images=2",
    "--config.likelihood.nodes=8",
]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("compare") / "toy"
    config = str(ROOT / "configs" / "toy.py")
    command = ["run.py", "--mode=train", "--config", config, f"--workdir={workdir}", *TINY]
    assert main(command) == 0
    return workdir


@pytest.fixture
def run(toy, tmp_path):
    return Path(shutil.copytree(toy, tmp_path / "run"))


@pytest.fixture(autouse=True)
def quick_orders(monkeypatch):
    """Orders are measured in test_orders; here they are only to be shown."""
    monkeypatch.setattr(convergence_order, "STEPS", (8, 16))
    monkeypatch.setattr(convergence_order, "WEAK_STEPS", (4, 8, 16))
    monkeypatch.setattr(convergence_order, "POINTS", 20)
    monkeypatch.setattr(convergence_order, "WEAK_POINTS", 64)
    monkeypatch.setattr(convergence_order, "TRUE_POINTS", 256)


def ask(run, samplers, *more):
    command = ["run.py", "--mode=compare", f"--workdir={run}", "--device=cpu"]
    command += [f"--samplers={samplers}", *more]
    if not any(flag.startswith("--config.compare.num_images=") for flag in more):
        command.append("--config.compare.num_images=64")
    return main(command)


def rows(run):
    return json.loads((run / "results" / "compare.json").read_text())["rows"]


def test_every_sampler_has_a_row_a_budget(run, capfd):
    names = "ancestral,pc,ddim,heun,dpm,dpm_sde,deis,unipc,ode,reverse_diffusion,euler_maruyama"
    assert ask(run, names, "--config.compare.nfe=4,9") == 0
    found = {(row["sampler"], row["budget"]): row for row in rows(run)}
    assert len(found) == 22
    for (sampler, budget), row in found.items():
        expected = {"heun": 2 * ((budget + 1) // 2) - 1, "pc": budget // 2 * 2}.get(
            sampler, budget
        )
        if sampler != "ode":
            assert row["nfe"] == expected, sampler
        assert row["num_images"] == 64
        assert row["energy_distance"] > -0.1
        assert 0 <= row["precision"] <= 1
        for name in ("two_sample", "precision", "recall", "nearest_train_distance", "wasserstein"):
            assert row[f"{name}_error"] > 0
    told = json.loads((run / "results" / "compare.json").read_text())
    assert {row["sampler"] for row in told["orders"]} == set(names.split(",")) - {"ode"}
    assert told["test_data"]["two_sample_error"] > 0
    assert told["floors"]["wasserstein_error"] > 0
    page = (run / "report.html").read_text()
    assert page.count("data:image/png") >= 22
    assert "Order of convergence" in page
    assert 'class="LineCollection"' in page  # error bars
    assert not list((run / "results").glob("*.html"))
    assert "http://" not in page
    assert "sampler" in capfd.readouterr().out


def test_cases_that_are_there_are_kept(run, monkeypatch):
    made = []
    measured = comparison.measured
    monkeypatch.setattr(
        comparison,
        "measured",
        lambda case, *rest: made.append(case.sampler) or measured(case, *rest),
    )
    assert ask(run, "ddim", "--config.compare.nfe=4,8") == 0
    before = rows(run)
    assert ask(run, "ddim,dpm", "--config.compare.nfe=4,8") == 0
    assert made == ["ddim", "ddim", "dpm", "dpm"]
    assert rows(run)[:2] == before
    assert ask(run, "ddim", "--config.compare.nfe=4", "--config.sampling.eta=0.5") == 0
    assert made[4:] == ["ddim"]


@pytest.mark.parametrize(
    ("samplers", "more", "says"),
    [
        ("ddim,dmp", [], "did you mean 'dpm'"),
        ("ddim", ["--config.compare.nfe=0,4"], "compare.nfe"),
        ("ddim", ["--config.compare.nfe=four"], "compare.nfe"),
        ("ddim", ["--config.compare.num_images=4"], "compare needs 8 images"),
    ],
)
def test_what_cannot_be_compared_is_refused(run, samplers, more, says, capfd):
    capfd.readouterr()
    assert ask(run, samplers, *more) == 2
    _, err = capfd.readouterr()
    assert says in err
    assert err.count("\n") == 1
    assert not (run / "results" / "compare.json").exists()


def test_precision_and_recall_see_fidelity_and_diversity():
    data, again = (distribution().sample(Noise.of(k, 0, 400)) for k in (0, 1))
    both = precision_recall(again, data)
    assert both["precision"] > 0.8
    assert both["recall"] > 0.8
    one_mode = again[(again - torch.tensor([0.8, 0.0])).norm(dim=1) < 0.4]
    narrow = precision_recall(one_mode, data)
    assert narrow["precision"] > 0.8
    assert narrow["recall"] < 0.3
    wide = precision_recall(again * 3, data)
    assert wide["precision"] < 0.2
    with pytest.raises(ValueError, match="more than 3"):
        precision_recall(data[:3], data)


# ---- images with classes

DIGITS = [
    "--config.model.channels=8",
    "--config.model.num_groups=4",
    "--config.model.blocks=1",
    "--config.model.multipliers=(1,1)",
    "--config.classifier.num_steps=4",
    "--config.classifier.width=8",
]
GUIDED = ["--config.compare.nfe=2,3,4", "--config.compare.guidance=2.0,0.0"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("compare") / "digits"
    tiny = [each for each in TINY if ".width" not in each and ".depth" not in each]
    assert main(["run.py", "--mode=train", f"--workdir={workdir}", *tiny, *DIGITS]) == 0
    return workdir


def test_without_a_classifier_there_is_a_line_and_no_column(digits, tmp_path, capfd):
    run = Path(shutil.copytree(digits, tmp_path / "run"))
    capfd.readouterr()
    assert ask(run, "ddim", "--config.compare.nfe=2") == 0
    out, _ = capfd.readouterr()
    assert out.count("no feature distance: make a classifier with --mode classifier") == 1
    found = json.loads((run / "results" / "compare.json").read_text())
    assert "feature_distance" not in found["rows"][0]
    assert len(found["rows"][0]["classes"]) == 10
    assert found["guidance"] == []
    assert "by the nearest training image" in (run / "report.html").read_text()


def test_a_classifier_gives_feature_distance_and_a_sweep_that_is_kept(
    digits, tmp_path, monkeypatch, capfd
):
    run = Path(shutil.copytree(digits, tmp_path / "run"))
    command = ["run.py", "--mode=classifier", f"--workdir={run}", "--device=cpu"]
    assert main(command) == 0
    made, measured = [], guidance_sweep.measured
    monkeypatch.setattr(
        guidance_sweep,
        "measured",
        lambda weight, *rest: made.append(weight) or measured(weight, *rest),
    )
    assert ask(run, "ddim", *GUIDED) == 0
    found = json.loads((run / "results" / "compare.json").read_text())
    assert found["rows"][0]["feature_distance_error"] > 0
    assert found["test_data"]["feature_distance"] > 0
    assert [row["weight"] for row in found["guidance"]] == [0, 2]
    assert {row["nfe"] for row in found["guidance"]} == {3}
    assert all(0 <= row["by_classifier"] <= 1 for row in found["guidance"])
    page = (run / "report.html").read_text()
    assert "fidelity against diversity" in page
    assert ask(run, "ddim", *GUIDED[:1], "--config.compare.guidance=0.0,1.0,2.0") == 0
    assert made == [0, 2, 1]
    assert "guidance" in capfd.readouterr().out
    assert main([*command, "--config.classifier.num_steps=2"]) == 0
    assert ask(run, "ddim", *GUIDED) == 0
    assert made[3:] == [0, 2]  # another judge


@pytest.mark.slow
def test_two_processes_compare_what_one_does_with_a_classifier_too(digits, torchrun, tmp_path):
    """A metric that waited for its mates, who draw the next case, would wait for ever."""
    alone = Path(shutil.copytree(digits, tmp_path / "alone"))
    assert main(["run.py", "--mode=classifier", f"--workdir={alone}", "--device=cpu"]) == 0
    together = Path(shutil.copytree(alone, tmp_path / "together"))
    assert ask(alone, "ddim,dpm", *GUIDED) == 0
    command = (ROOT / "run.py", "--mode=compare", f"--workdir={together}", "--device=cpu")
    done = torchrun(2, *command, "--samplers=ddim,dpm", "--config.compare.num_images=64", *GUIDED)
    assert done.returncode == 0, done.stderr
    clock = ("seconds", "images_per_second", "processes", "threads")
    one, two = (
        [{key: value for key, value in row.items() if key not in clock} for row in rows(run)]
        for run in (alone, together)
    )
    assert one == two


@pytest.mark.parametrize(
    "key", ["sampler=ddim", "seed=1", "num_images=9", "steps=4", "progressive=true"]
)
def test_what_a_comparison_does_not_listen_to_is_refused(run, key, capfd):
    capfd.readouterr()
    assert ask(run, "ddim", f"--config.sampling.{key}") == 2
    assert "has no effect on --mode compare" in capfd.readouterr().err


def test_samplers_are_named_in_the_plural(run, capfd):
    assert main(["run.py", "--mode=compare", f"--workdir={run}", "--sampler=dpm"]) == 2
    assert "name samplers by --samplers" in capfd.readouterr().err


def test_rows_of_other_settings_do_not_go_in_silence(run, capfd):
    assert ask(run, "ddim,ddim", "--config.compare.nfe=2,3") == 0
    assert len(rows(run)) == 2
    capfd.readouterr()
    assert ask(run, "ddim", "--config.compare.nfe=2", "--config.sampling.eta=0.5") == 0
    (own,) = (run / "results").glob("compare-*.jsonl")
    assert f"are of other settings, weights or classifier, and stay: these go to {own.name}" in (
        capfd.readouterr().out
    )
    assert len(rows(run)) == 2
    headline = json.loads((run / "results" / "compare.json").read_text())
    assert len(headline["rows"]) == 2  # two cases are not replaced by one
    before = own.read_bytes()
    assert ask(run, "ddim", "--config.compare.nfe=2", "--config.sampling.eta=0.5") == 0
    assert own.read_bytes() == before
    assert f"{own.stem}-ddim-2" in "".join(p.name for p in (run / "samples").iterdir())


def test_weights_may_be_whole_numbers(run, capfd):
    assert ask(run, "ddim", "--config.compare.nfe=2", "--config.compare.guidance=1,2") == 0
    assert ask(run, "ddim", "--config.compare.nfe=2", "--config.compare.guidance=1,-2") == 2
    assert "compare.guidance must lie in [0, inf)" in capfd.readouterr().err
    assert ask(run, "ddim", "--config.compare.nfe=2", "--config.compare.guidance=a") == 2
    assert "compare.guidance must be numbers, as (0,1.5,3)" in capfd.readouterr().err


def test_a_guide_that_is_not_there_is_refused_before_any_work(digits, tmp_path, capfd):
    run = Path(shutil.copytree(digits, tmp_path / "run"))
    assert main(["run.py", "--mode=classifier", f"--workdir={run}", "--device=cpu"]) == 0
    capfd.readouterr()
    assert ask(run, "ddim", *GUIDED, "--config.sampling.guide=network") == 2
    assert "sampling.guide = network needs a network" in capfd.readouterr().err
    assert not (run / "results" / "compare.jsonl").exists()


def test_the_weights_of_inception_are_asked_for_before_any_work(digits, tmp_path, capfd):
    run = Path(shutil.copytree(digits, tmp_path / "run"))
    capfd.readouterr()
    assert ask(run, "ddim", "--config.compare.inception=no/such.pth") == 2
    _, err = capfd.readouterr()
    assert "no such file no/such.pth" in err
    assert not (run / "results" / "compare.jsonl").exists()


@pytest.mark.parametrize("sampler", ["ddim", "ode"])
def test_progress_is_in_the_report_of_the_draw_that_made_it(digits, tmp_path, sampler):
    run = Path(shutil.copytree(digits, tmp_path / "run"))
    command = ["run.py", "--mode=sample", f"--sampler={sampler}", f"--workdir={run}"]
    assert main([*command, "--device=cpu", "--config.sampling.progressive=true"]) == 0
    for ending in ("png", "gif"):
        assert (run / "samples" / f"00000004-{sampler}-progress.{ending}").exists()
    assert "data:image/gif" in (run / "report.html").read_text()
    assert main([*command, "--device=cpu"]) == 0
    assert "data:image/gif" not in (run / "report.html").read_text()


def test_samples_of_a_class_are_held_against_data_of_it(digits, tmp_path):
    run = Path(shutil.copytree(digits, tmp_path / "run"))
    one = ["--config.sampling.label=3", "--config.sampling.guidance=0.0"]
    assert ask(run, "ddim", "--config.compare.nfe=2", *one) == 0
    found = json.loads((run / "results" / "compare.json").read_text())
    threes = int((load_digits().test_labels == 3).sum())
    assert found["rows"][0]["num_images"] == threes < 64
    others = 1 - found["rows"][0]["classes"][3] / threes
    assert found["rows"][0]["class_distance"] == pytest.approx(others)
    assert sum(found["test_data"]["classes"]) == threes
    assert found["guidance"] == []
