"""Training can be killed at any moment, never waits for the device, and stops when it breaks."""

import io
import json
import math
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from scoreflow.cli import command_line
from scoreflow.cli.main import main
from scoreflow.configs import default
from scoreflow.errors import RunError
from scoreflow.factory.assembly import experiment
from scoreflow.factory.training import build_training
from scoreflow.losses import denoising, objective
from scoreflow.models.score_model import ScoreModel
from scoreflow.schema import resolve
from scoreflow.storage.run_folder import RunDir
from scoreflow.training.ema import EMA
from scoreflow.training.trainer import Trainer

ROOT = Path(__file__).parents[3]
STEPS = 60
"""So many that a run cannot end between the sight of its 12th row and its kill."""
TINY = {
    "model.channels": 8,
    "model.num_groups": 4,
    "model.dropout": 0.2,
    "training.num_steps": STEPS,
    "training.batch_size": 48,
    "training.log_every": 2,
    "training.checkpoint_every": 10,
    "training.warmup_steps": 5,
    "sampling.num_images": 2,
    "sampling.steps": 2,
    "sampling.tolerance": 0.5,
    "likelihood.num_images": 1,
    "likelihood.nodes": 8,
}


def command(workdir, **overrides):
    flags = {**TINY, **{key.replace("__", "."): value for key, value in overrides.items()}}
    start = ["run.py", "--mode=train", "--device=cpu", f"--workdir={workdir}"]
    return [*start, *(f"--config.{key}={value}" for key, value in flags.items())]


KILLED = """
import os, pathlib, runpy, signal, sys, threading, time

def watch(metrics):
    while not (metrics.exists() and metrics.read_text().count("\\n") >= 12):
        time.sleep(0.002)
    os.kill(os.getpid(), signal.SIGKILL)

threading.Thread(target=watch, args=[pathlib.Path(sys.argv.pop())], daemon=True).start()
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Kills itself while it trains, at a moment that depends on nothing that is trained."""


def again(workdir, forked):
    """Resume to the end in a process of its own; what it printed."""
    flags = ("--mode=train", "--device=cpu", f"--workdir={workdir}")
    done = forked(1, ROOT / "run.py", *flags)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    kept = [json.loads(line) for line in lines]
    for row in kept:
        del row["seconds"]
    return kept


def state(workdir, step):
    path = workdir / "checkpoints" / f"{step:08d}.pt"
    return torch.load(path, weights_only=True)


def same_bits(left, right):
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            same_bits(left[key], right[key])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            same_bits(one, other)
    elif isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype
        assert torch.equal(left, right)
    else:
        assert left == right


# ---- kill -9


@pytest.fixture(scope="module")
def whole(tmp_path_factory, forked):
    """A run that nothing disturbed, in a process of its own: here, others may change its bits."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    done = forked(1, ROOT / "run.py", *command(workdir)[1:])
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture(scope="module")
def killed(tmp_path_factory, forked):
    """The same run, killed between two checkpoints, from the third on."""
    folder = tmp_path_factory.mktemp("killed")
    workdir, script = folder / "run", folder / "killed.py"
    script.write_text(KILLED)
    flags = (*command(workdir)[1:], str(workdir / "metrics.jsonl"))
    done = forked(1, script, str(ROOT / "run.py"), *flags)
    assert done.returncode == -signal.SIGKILL, done.stderr
    steps = RunDir.open(workdir).checkpoint_steps()
    assert len(steps) == 2
    assert steps[-1] < STEPS
    return workdir


def finished_like(workdir, whole):
    same_bits(state(workdir, STEPS), state(whole, STEPS))
    assert rows(workdir) == rows(whole)


def test_killed_and_resumed_is_bitwise_the_same(killed, whole, forked, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(killed, workdir)
    last = RunDir.open(workdir).checkpoint_steps()[-1]
    assert f"resuming {workdir} at step {last}" in again(workdir, forked)
    finished_like(workdir, whole)
    names = {"model", "ema", "optimizer", "step", "trained_with"}
    assert names == state(workdir, STEPS).keys()
    name = f"checkpoints/{STEPS:08d}.pt"
    assert (workdir / name).read_bytes() == (whole / name).read_bytes()


def test_a_torn_checkpoint_is_named_and_the_one_before_it_used(killed, whole, forked, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(killed, workdir)
    before, last = RunDir.open(workdir).checkpoint_steps()
    torn = workdir / "checkpoints" / f"{last:08d}.pt"
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    with open(workdir / "metrics.jsonl", "a") as file:
        file.write('{"step": 2')  # cut off in the middle of a row
    out = again(workdir, forked)
    assert str(torn) in out
    assert f"at step {before}" in out
    finished_like(workdir, whole)


@pytest.mark.slow
def test_killed_before_the_first_checkpoint(killed, whole, forked, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(killed, workdir)
    shutil.rmtree(workdir / "checkpoints")
    with open(workdir / "metrics.jsonl", "a") as file:
        file.write('{"step": 2')  # cut off in the middle of a row
    assert "resuming" not in again(workdir, forked)
    finished_like(workdir, whole)


# ---- the loop


def trainer_of(device="cpu", **overrides):
    flags = {**TINY, "training.num_steps": 8, "training.batch_size": 4, "training.log_every": 2}
    flags["training.checkpoint_every"] = 2
    flags |= {key.replace("__", "."): value for key, value in overrides.items()}
    config = resolve.training_config(
        command_line.parse(
            ["run.py", "--mode=train", *(f"--config.{k}={v}" for k, v in flags.items())]
        )
    )
    made = experiment(config, torch.device(device))
    ema = EMA(made.network, made.settings.ema_decay)
    return Trainer(
        made.model, made.network, ema, made.data, made.objective, made.settings, config.seed
    )


@pytest.mark.parametrize(
    "overrides",
    [
        {"model__dropout": 0.0},
        {"model__dropout": 0.5},
        {"training__times": "real", "training__t_min": 0.05, "training__decay": "constant"},
        {"training__precision": "bfloat16", "training__channels_last": True},
        {"model__conditional": True, "training__label_dropout": 0.3},
    ],
    ids=["plain", "dropout", "real", "bfloat16", "conditional"],
)
def test_a_state_that_went_through_bytes_goes_on_bitwise(overrides):
    through = trainer_of(**overrides)
    expected = list(through.run())
    half = trainer_of(**overrides)
    first = [next(loop) for loop in [half.run()] for _ in range(2)]
    stream = io.BytesIO()
    torch.save(half.state(), stream)
    stream.seek(0)
    rest = trainer_of(seed=5, **overrides)  # other weights, soon overwritten
    rest.seed, rest.batches = half.seed, half.batches
    rest.load_state(torch.load(stream, weights_only=True))
    torch.rand(17)  # what other code draws does not matter
    assert first + list(rest.run()) == expected
    same_bits(rest.state(), through.state())


def test_a_state_of_another_network_is_refused():
    state = trainer_of().state()
    with pytest.raises(RuntimeError, match="size mismatch"):
        trainer_of(model__channels=12).load_state(state)
    del state["model"]["stem.weight"]
    with pytest.raises(RuntimeError, match=r"stem\.weight"):
        trainer_of().load_state(state)


def test_training_learns():
    """A fresh network predicts zero, whose loss is the mean square of v; from there it falls."""
    trainer = trainer_of(
        model__dropout=0.0,
        training__num_steps=150,
        training__batch_size=64,
        training__log_every=25,
        training__checkpoint_every=25,
    )
    losses = [interval.loss for interval in trainer.run()]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]
    assert trainer.step == 150


def test_dropout_is_on_in_training_and_off_in_the_average():
    trainer = trainer_of()
    next(trainer.run())
    assert trainer.network.training
    assert not trainer.ema.module.training


def told(trainer, steps):
    """The labels that the network was told, and those of the data, (steps, B) each."""
    seen = []
    hook = trainer.network.register_forward_pre_hook(
        lambda _module, given: seen.append(given[2])  # x, index, classes
    )
    rows = [trainer.batches.indices(trainer.step + k) for k in range(steps)]
    for _ in range(steps):
        trainer._advance()
    hook.remove()
    return torch.stack(seen), trainer.data.train_labels[torch.stack(rows)]


def test_the_network_is_told_the_labels_of_its_data_but_for_a_share():
    trainer = trainer_of(
        model__conditional=True, training__label_dropout=0.3, training__batch_size=64
    )
    seen, true = told(trainer, 8)
    hidden = seen == -1
    assert torch.equal(seen[~hidden], true[~hidden])
    n = hidden.numel()
    assert abs(hidden.double().mean() - 0.3) < 4 * (0.3 * 0.7 / n) ** 0.5
    assert (hidden.sum(1) > 0).all()
    assert not torch.equal(hidden[0], hidden[1])  # each step draws anew


def test_which_labels_are_hidden_depends_on_the_place_in_the_batch_alone():
    """So that it does not matter how a batch is split over processes."""
    few, many = (
        trainer_of(model__conditional=True, training__label_dropout=0.5, training__batch_size=size)
        for size in (16, 48)
    )
    assert torch.equal(told(few, 3)[0] == -1, (told(many, 3)[0] == -1)[:, :16])


def test_no_label_is_hidden_at_a_dropout_of_zero():
    trainer = trainer_of(model__conditional=True, training__label_dropout=0.0)
    assert torch.equal(*told(trainer, 4))


@pytest.mark.parametrize("conditional", [False, True])
def test_no_step_waits_for_the_device(conditional, monkeypatch):
    """Nothing may read a value on the host; on a GPU each such reading would be a wait."""
    trainer = trainer_of(model__conditional=conditional)
    trainer._advance()  # Adam makes its state
    monkeypatch.setattr(ScoreModel, "_check", lambda *_: None)  # not asked on a GPU
    forbidden = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero")

    class NoReading(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            name = function.__name__
            assert not name.startswith(forbidden), f"{name} waits for the device"
            return function(*args, **(kwargs or {}))

    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoReading():
        torch.ones(()).item()
    with NoReading():
        trainer._advance()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("times", ["integer", "importance"])
def test_no_step_waits_for_a_gpu(times):
    """CUDA itself says so, of copies to the device too."""
    trainer = trainer_of(training__times=times, device="cuda")
    trainer._advance()
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer._advance()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_gradients_are_clipped_and_their_norm_is_what_it_was():
    trainer = trainer_of(training__clip_norm=1e-3)
    _, norm = trainer._advance()
    clipped = torch.stack([p.grad.norm() for p in trainer.network.parameters()]).norm()
    assert norm > 0.1
    assert float(clipped) == pytest.approx(1e-3, rel=1e-3)


def test_clipping_can_be_switched_off():
    """With clip_norm = 0 gradients are those of a bound that none reaches, bit for bit."""
    free, bounded = trainer_of(training__clip_norm=0.0), trainer_of(training__clip_norm=1e30)
    rows = [trainer.advance(2) for trainer in (free, bounded)]
    assert torch.equal(*rows)
    for one, other in zip(free.network.parameters(), bounded.network.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
        assert torch.equal(one, other)


def settings(**changes):
    return replace(build_training(default.get_config()), **changes)


def test_the_learning_rate_warms_up_without_a_wasted_step_and_decays():
    s = settings(num_steps=1000, warmup_steps=10, learning_rate=2.0, decay="constant")
    assert s.rate(0) == pytest.approx(0.2)
    assert s.rate(9) == s.rate(500) == s.rate(999) == 2.0
    assert settings(warmup_steps=0, learning_rate=2.0).rate(0) == 2.0
    s = settings(num_steps=1000, warmup_steps=0, learning_rate=2.0, decay="cosine")
    assert s.rate(0) == 2.0
    assert s.rate(500) == pytest.approx(1.0)
    assert 0 < s.rate(999) < 1e-4


# ---- what is not finite


def poison(monkeypatch, step):
    """The loss that is asked for after so many others is nan."""
    calls = iter(range(10**6))
    simple = denoising.simple

    def poisoned(*arguments):
        return simple(*arguments) * (float("nan") if next(calls) == step else 1.0)

    monkeypatch.setattr(denoising, "simple", poisoned)


def test_a_loss_that_is_not_finite_names_its_step():
    trainer = trainer_of()
    with pytest.MonkeyPatch.context() as patch:
        poison(patch, 4)
        with pytest.raises(RunError, match="step 5: loss nan"):
            list(trainer.run())


def test_a_broken_run_keeps_its_last_good_checkpoint(tmp_path, capfd):
    workdir = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        poison(patch, 25)  # one loss is asked for before the first step: whether it is finite
        assert main(command(workdir, training__num_steps=40)) == 1
    err = capfd.readouterr().err
    assert "run.py: step 25: loss nan" in err
    assert "Traceback" not in err
    assert RunDir.open(workdir).checkpoint_steps() == [10, 20]
    for name in ("model", "ema"):
        assert all(bool(value.isfinite().all()) for value in state(workdir, 20)[name].values())
    resume = ["run.py", "--mode=train", "--device=cpu", f"--workdir={workdir}"]
    assert main(resume) == 0  # what broke it is gone
    assert [row["step"] for row in rows(workdir)] == list(range(2, 41, 2))


def test_a_learning_rate_far_too_large(tmp_path, capfd):
    workdir = tmp_path / "run"
    changes = {"training__learning_rate": "1e30", "training__warmup_steps": 0}
    changes |= {"training__log_every": 1, "training__checkpoint_every": 20}
    assert main(command(workdir, training__num_steps=20, **changes)) == 1
    err = capfd.readouterr().err.splitlines()[-1]
    assert "not finite" in err
    assert "step 1" in err or "step 2" in err
    assert "training.learning_rate" in err
    assert RunDir.open(workdir).checkpoint_steps() == []


def test_weights_that_are_not_finite_are_not_saved():
    trainer = trainer_of()
    next(iter(trainer.run()))
    next(trainer.network.parameters()).data.view(-1)[3] = math.inf  # as a last step may leave
    with pytest.raises(RunError, match=r"step 2: it left weights that are not finite"):
        trainer.state()


# ---- flips


def test_flips_mirror_half_of_the_images_and_nothing_else(monkeypatch):
    seen = {}

    def spy(name):
        def loss(self, model, x_0, t, eps):
            seen[name] = (x_0.detach(), t, eps)
            return (model(x_0, t).eps - eps).square().flatten(1).mean(1)

        return loss

    for name in ("plain", "flipped"):
        monkeypatch.setattr(objective.Objective, "loss", spy(name))
        trainer_of(training__flip=name == "flipped", training__batch_size=64)._advance()
    (plain, *address), (flipped, *other) = seen["plain"], seen["flipped"]
    assert all(torch.equal(a, b) for a, b in zip(address, other, strict=True))
    # the noise of dequantization stays in its place, so compare levels
    levels, mirrored = (((x + 1) * 17 / 2).floor() for x in (plain, flipped))
    kept = (levels == mirrored).flatten(1).all(1)
    turned = (levels.flip(-1) == mirrored).flatten(1).all(1)
    assert (kept | turned).all()
    assert 16 < int(turned.sum()) < 48
