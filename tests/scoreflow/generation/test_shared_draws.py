"""Several processes share the samples by index, and have together what one has."""

import importlib
from pathlib import Path

import pytest
import torch

from scoreflow.cli.main import FILES, SHARED, main
from scoreflow.generation.generate import draw_samples
from scoreflow.generation.plan import SamplingPlan
from scoreflow.runtime import distributed
from scoreflow.samplers import Counted, grid
from scoreflow.samplers.ancestral import Ancestral
from scoreflow.sde.noise import Noise
from scoreflow.sde.processes.vp import VPSDE

SCRIPT = """
import sys, torch
from tests.scoreflow.generation import test_shared_draws as test
x, rows = test.drawn(5)
from scoreflow.runtime import distributed as parallel
total = parallel.shard().total(rows)
if parallel.is_main_process():
    torch.save((x, rows, total), sys.argv[1])
"""
"""It does not leave its processes' group itself, as a script of a user's might not."""


def drawn(count):
    """Samples of N(0.3, 0.25) pixels by arithmetic that no batch changes, and their calls."""
    from scoreflow.sde.prediction import predict

    sde = VPSDE.cosine(20)

    def denoise(x_t, t):
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        gain = alpha * 0.25 / (alpha * alpha * 0.25 + sigma * sigma)
        return predict(sde, x_t, t, "x_0", 0.3 + gain * (x_t - alpha * 0.3))

    counted = Counted(denoise)
    drawing = SamplingPlan(Ancestral("beta"), grid("uniform", sde, 5), counted)
    return draw_samples(drawing, sde, Noise.of(0, 0, count), (1, 2, 2), 2, "it"), counted.rows


@pytest.mark.parametrize("world", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_processes_together_draw_what_one_draws(world, forked, tmp_path):
    """Bit for bit, and counted once, also where there are more processes than samples."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = forked(world, script, str(tmp_path / "x.pt"))
    assert done.returncode == 0, done.stderr
    found, own, total = torch.load(tmp_path / "x.pt")
    expected, rows = drawn(5)
    assert torch.equal(found, expected)
    assert total == rows == 25
    assert own < rows


@pytest.mark.parametrize("mode", ["equivalence", "classifier"])
def test_what_is_not_shared_is_refused(mode, monkeypatch, capfd):
    places = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in places.items():
        monkeypatch.setenv(name, value)
    assert main(["run.py", f"--mode={mode}", "--workdir=nowhere"]) == 2
    assert f"--mode {mode} runs in one process" in capfd.readouterr().err
    assert not Path("nowhere").exists()


@pytest.mark.parametrize("mode", SHARED)
def test_processes_meet_before_any_work(mode, monkeypatch):
    order = []
    monkeypatch.setattr(distributed, "shard", lambda: order.append("met"))
    module = importlib.import_module(f"scoreflow.cli.modes.{FILES.get(mode, mode)}")
    monkeypatch.setattr(module, "run", lambda *_: order.append("work"))
    assert main(["run.py", f"--mode={mode}", "--workdir=nowhere"]) == 0
    assert order == ["met", "work"]
