"""--mode compare: the same noise for all, counted evaluations, rows that are kept."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from scoreflow import compare, orders
from scoreflow.main import main
from scoreflow.metrics import precision_recall
from scoreflow.toy import distribution
from sde.noise import Noise

ROOT = Path(__file__).parents[2]
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
    "--config.likelihood.tolerance=0.5",
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
    monkeypatch.setattr(orders, "STEPS", (8, 16))
    monkeypatch.setattr(orders, "WEAK_STEPS", (4, 8, 16))
    monkeypatch.setattr(orders, "POINTS", 20)
    monkeypatch.setattr(orders, "WEAK_POINTS", 64)
    monkeypatch.setattr(orders, "TRUE_POINTS", 256)


def ask(run, samplers, *more):
    command = ["run.py", "--mode=compare", f"--workdir={run}", "--device=cpu"]
    command += [f"--samplers={samplers}", "--config.compare.num_images=64", *more]
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
    assert "class=bars" in page
    assert "http://" not in page
    assert "sampler" in capfd.readouterr().out


def test_cases_that_are_there_are_kept(run, monkeypatch):
    made = []
    measured = compare.measured
    monkeypatch.setattr(
        compare, "measured", lambda case, *rest: made.append(case.sampler) or measured(case, *rest)
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
