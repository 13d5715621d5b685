"""What a profile says of a step, and that it profiles the step that training makes."""

import gzip
import json
from pathlib import Path

import pytest
from torch import nn

from scoreflow.cli.main import main
from scoreflow.models.mlp import MLP
from scoreflow.training.trainer import PHASES

CONFIG = Path(__file__).parents[3] / "configs" / "toy.py"


def profile(*more):
    return main(
        ["run.py", "--mode=profile", f"--config={CONFIG}", "--device=cpu",
         "--config.profile.num_steps=4", "--config.profile.warmup=1",
         "--config.model.width=16", "--config.training.batch_size=8", *more]
    )  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def result():
    return json.loads(Path("runs/profile-toy-vp/results/profile.json").read_text())


def test_phases_operations_and_a_trace(capsys):
    assert profile() == 0
    found = result()
    assert tuple(row["name"] for row in found["phases"]) == PHASES
    assert [row["calls"] for row in found["phases"]] == [1.0] * len(PHASES)
    assert sum(row["share"] for row in found["phases"]) == pytest.approx(1)
    shares = [row["share"] for row in found["operations"]]
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 1
    operations = {row["name"]: row["calls"] for row in found["operations"]}
    layers = [module for module in MLP(2, 16).modules() if isinstance(module, nn.Linear)]
    assert operations["aten::addmm"] == len(layers)
    assert found["images_per_second"] == pytest.approx(8 / (found["value"] / 1e3))
    with gzip.open("runs/profile-toy-vp/results/profile-trace.json.gz") as file:
        named = [event.get("name") for event in json.load(file)["traceEvents"]]
    assert all(named.count(phase) >= 4 for phase in PHASES)
    out = capsys.readouterr().out
    assert all(word in out for word in (*PHASES, "ms a step", "profile-trace.json.gz"))


def test_parts_of_a_batch_are_counted():
    assert profile("--config.training.micro_batches=2") == 0
    calls = {row["name"]: row["calls"] for row in result()["phases"]}
    assert calls == dict.fromkeys(PHASES, 1.0) | dict.fromkeys(("batch", "forward", "backward"), 2)


def test_no_checkpoint_comes_of_it():
    assert profile() == 0
    assert not list(Path("runs").rglob("*.pt"))


def test_its_numbers_have_limits(capsys):
    assert profile("--config.profile.num_steps=0") == 2
    assert "profile.num_steps must lie in [1" in capsys.readouterr().err
