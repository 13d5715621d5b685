"""Training as a function of (config, step): resumed it goes on bit for bit, broken it says where."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from scoreflow import build
from scoreflow.ema import EMA
from scoreflow.errors import RunError
from scoreflow.run_dir import RunDir
from scoreflow.train import Trainer

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "model.channels": 8,
    "model.num_groups": 4,
    "model.dropout": 0.2,
    "training.num_steps": 40,
    "training.batch_size": 16,
    "training.log_every": 5,
    "training.checkpoint_every": 10,
    "sampling.num_images": 4,
    "sampling.steps": 2,
    "sampling.tolerance": 0.1,
    "likelihood.num_images": 3,
    "likelihood.tolerance": 0.1,
    "likelihood.tolerance_bits": 1.0,
    "likelihood.probes": 1,
}


def digits_config(**changes):
    from configs import digits

    config = digits.get_config()
    config.update_from_flattened_dict({**TINY, **changes})
    return config


def trainer_of(config) -> Trainer:
    made = build.experiment(config, torch.device("cpu"))
    ema = EMA(made.network, made.settings.ema_decay)
    return Trainer(made.model, made.network, ema, made.data, made.settings, config.seed)


def command(workdir: Path, **changes) -> list[str]:
    flags = [f"--config.{key}={value}" for key, value in {**TINY, **changes}.items()]
    return [
        sys.executable,
        str(ROOT / "run.py"),
        "--mode=train",
        f"--workdir={workdir}",
        "--device=cpu",
        *flags,
    ]


def launch(arguments: list[str]) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        arguments, capture_output=True, text=True, env=env, timeout=300, cwd=ROOT, check=False
    )


def scalars(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def assert_same_state(one: object, other: object) -> None:
    """Equal to the bit, through dictionaries and lists."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same_state(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        for a, b in zip(one, other, strict=True):
            assert_same_state(a, b)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nobody disturbed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    done = launch(command(run))
    assert done.returncode == 0, done.stderr
    return run


def test_the_whole_job_leaves_what_the_contract_names(whole):
    for name in ("config.json", "env.json", "metrics.jsonl", "report.html"):
        assert (whole / name).stat().st_size > 0
    for sampler in ("ancestral", "pc", "ode"):
        assert (whole / "samples" / f"00000040-{sampler}.png").read_bytes()[:4] == b"\x89PNG"
    result = json.loads((whole / "results" / "likelihood.json").read_text())
    needed = {"bits_per_dim", "standard_error", "num_images", "nfe", "seconds", "dequantization"}
    assert needed | {"t_min", "error_budget", "value", "unit", "settings"} <= result.keys()
    assert result["num_images"] == 3
    assert any((whole / "tensorboard").iterdir())


def test_killed_and_resumed_is_the_same_run(whole, tmp_path):
    """kill -9 after a checkpoint and in the middle of an interval: weights, EMA, Adam, metrics."""
    run = tmp_path / "run"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command(run), env=env, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (run / "checkpoints" / "00000010.pt").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (run / "checkpoints" / "00000040.pt").exists(), "killed too late to show anything"
    resumed = launch(command(run))
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming" in resumed.stdout
    same_end(run, whole)


def test_a_torn_checkpoint_is_named_and_the_one_before_it_used(whole, tmp_path):
    run = tmp_path / "run"
    subprocess.run(["cp", "-r", str(whole), str(run)], check=True)
    torn = run / "checkpoints" / "00000040.pt"
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    resumed = launch(command(run))
    assert resumed.returncode == 0, resumed.stderr
    assert "00000040.pt" in resumed.stdout
    assert "at step 30" in resumed.stdout
    same_end(run, whole)


def same_end(run: Path, whole: Path) -> None:
    states = [RunDir.open(path).load_checkpoint(step=40)[1] for path in (run, whole)]
    assert_same_state(*states)
    assert scalars(run) == scalars(whole)


def test_checkpoints_load_as_weights_only(whole):
    state = torch.load(whole / "checkpoints" / "00000040.pt", weights_only=True)
    assert set(state) == {"step", "model", "ema", "optimizer"}


def test_the_batch_of_a_step_does_not_depend_on_the_past():
    """A trainer put at step 7 sees there what one that walked to it sees."""
    walked, put = trainer_of(digits_config()), trainer_of(digits_config())
    for _ in range(7):
        walked._advance()
    put.load_state(walked.state())
    a, b = walked._advance(), put._advance()
    assert torch.equal(a, b)


def test_a_non_finite_loss_names_its_step_and_stops():
    trainer = trainer_of(digits_config())
    honest = trainer._loss
    trainer._loss = lambda: honest() * (float("nan") if trainer.step == 12 else 1.0)
    with pytest.raises(RunError, match="step 13: loss nan"):
        list(trainer.run())
    assert trainer.step == 15


def test_a_diverging_run_ends_with_status_1_and_keeps_its_last_checkpoint(tmp_path):
    done = launch(command(tmp_path / "run", **{"training.learning_rate": 1e18}))
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert "not finite" in line
    assert "step" in line
    assert "Traceback" not in done.stderr
    run = RunDir.open(tmp_path / "run")
    for step in run.checkpoint_steps():
        _, state = run.load_checkpoint(step=step)
        assert all(value.isfinite().all() for value in state["model"].values())


def test_learning_rate_warms_up_from_more_than_zero_and_decays_to_zero():
    settings = build.build_training(
        digits_config(**{"training.warmup_steps": 4, "training.num_steps": 100})
    )
    peak = settings.learning_rate
    assert 0 < settings.rate(0) <= peak / 4
    assert settings.rate(3) == pytest.approx(peak, rel=0.01)
    assert settings.rate(100) == pytest.approx(0, abs=1e-12)


def test_no_step_waits_for_the_device():
    """Nothing inside a step turns a tensor into a number (`.item()`, `bool`, `nonzero`)."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Forbid(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = func.__name__
            assert "_local_scalar_dense" not in name, name
            assert "nonzero" not in name, name
            return func(*args, **(kwargs or {}))

    trainer = trainer_of(digits_config())
    trainer._advance()
    trainer.model._check = lambda t: None  # on a GPU it is not called
    with Forbid():
        trainer._advance()


def test_it_learns():
    """Loss after 100 tiny steps is well below that of a network that answers nothing."""
    trainer = trainer_of(digits_config(**{"training.num_steps": 100}))
    losses = [interval.loss for interval in trainer.run()]
    assert losses[-1] < 0.8 * losses[0]
