"""Training in float16: a scaled loss, steps whose gradients overflow, and what a resume needs."""

import io
import math

import pytest
import torch

from scoreflow.cli import command_line
from scoreflow.errors import RequestError, RunError
from scoreflow.factory.assembly import experiment
from scoreflow.factory.training import build_training, check_precision, choose_precision, remark
from scoreflow.schema import resolve
from scoreflow.schema.request import Request
from scoreflow.storage.run_folder import RunDir
from scoreflow.trained_run import load, open_run
from scoreflow.training.scaling import Scaling
from scoreflow.training_run import trainer_of

CPU = torch.device("cpu")
FLAGS = {
    "model.channels": 8,
    "model.num_groups": 4,
    "model.dropout": 0.2,
    "training.num_steps": 8,
    "training.batch_size": 4,
    "training.log_every": 2,
    "training.checkpoint_every": 2,
    "training.warmup_steps": 0,
    "training.decay": "constant",
}
ROUNDOFF = 2.0**-11
"""Of float16: half the distance from 1 to the next number."""


def config_of(**changes):
    flags = {**FLAGS, **{key.replace("__", "."): value for key, value in changes.items()}}
    command = ["run.py", "--mode=train", *(f"--config.{k}={v}" for k, v in flags.items())]
    return resolve.training_config(command_line.parse(command))


def trainer(precision="float16", **changes):
    return trainer_of(experiment(config_of(training__precision=precision, **changes), CPU))


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.network.parameters()]).clone()


def overflowing(trainer, steps):
    """The trainer, the scale of whose loss is beyond float32 before each of these steps."""
    plain = trainer.scaling.scaled

    def scaled(loss):
        found = plain(loss)
        return found * math.inf if trainer.step in steps else found

    trainer.scaling.scaled = scaled
    return trainer


def test_the_training_is_that_of_float32_within_rounding():
    """Losses of two steps; a sum of terms of like size is off by about one of their roundings.

    A dozen layers deep, 30 of them is a generous bound, and a hundredth of what noise moves.
    """
    half, whole = (trainer(precision).advance(2) for precision in ("float16", "float32"))
    torch.testing.assert_close(half, whole, rtol=30 * ROUNDOFF, atol=0)
    assert not torch.equal(half, whole)
    other = trainer("float32", seed=1).advance(2)
    assert ((other - whole) / whole).abs().max() > 30 * ROUNDOFF


def test_the_gradients_are_divided_by_the_scale_that_the_loss_was_multiplied_by():
    """Under another scale the steps are the same, up to what float16 rounds near its least."""
    trainers = [trainer(), trainer()]
    trainers[1].scaling.load_state(
        {"scaler": {**trainers[1].scaling.state()["scaler"], "scale": 2.0**12}}
    )
    rows = [each.advance(3) for each in trainers]
    torch.testing.assert_close(rows[0], rows[1], rtol=30 * ROUNDOFF, atol=0)
    assert trainers[0].scaling.state()["scaler"]["scale"] == 2.0**16
    assert trainers[1].scaling.state()["scaler"]["scale"] == 2.0**12


def test_a_step_that_overflows_moves_no_weight_halves_the_scale_and_is_counted():
    made = overflowing(trainer(), {0, 3})
    before = weights(made)
    made.advance(1)
    assert torch.equal(weights(made), before)
    assert made.step == 1
    assert made.scaling.state()["scaler"]["scale"] == 2.0**15
    made.advance(1)
    moved = weights(made)
    assert not torch.equal(moved, before)
    made = overflowing(trainer(), {0, 3, 4, 5})
    found = list(made.run())
    assert [each.skipped for each in found] == [1, 1, 2, 0]
    assert [each.step for each in found] == [2, 4, 6, 8]
    assert made.scaling.state()["scaler"]["scale"] == 2.0**12
    assert math.isnan(found[2].loss)
    assert math.isnan(found[2].grad_norm)
    assert all(math.isfinite(found[k].loss * found[k].grad_norm) for k in (0, 1, 3))
    assert made.state()["step"] == 8


def test_means_are_those_of_the_steps_that_were_taken():
    rows = torch.tensor([[1.0, 2.0], [5.0, math.inf], [3.0, 6.0], [math.nan, math.nan]])
    assert Scaling("float16", CPU).means(rows) == (2.0, 4.0, 2)
    assert Scaling("float32", CPU).means(rows[:1]) == (1.0, 2.0, None)


@pytest.mark.parametrize("skipped", [set(), {1, 2}], ids=["whole", "skipped"])
def test_a_state_that_went_through_bytes_goes_on_bitwise(skipped):
    through = overflowing(trainer(), skipped)
    expected = [repr(each) for each in through.run()]  # nan is not itself
    half = overflowing(trainer(), skipped)
    first = [repr(next(loop)) for loop in [half.run()] for _ in range(2)]
    stream = io.BytesIO()
    torch.save(half.state(), stream)
    stream.seek(0)
    rest = overflowing(trainer(), skipped)
    rest.load_state(torch.load(stream, weights_only=True))
    assert first + [repr(each) for each in rest.run()] == expected
    assert torch.equal(weights(rest), weights(through))
    assert rest.state()["scaler"] == through.state()["scaler"]
    assert rest.state()["scaler"]["scale"] == 2.0 ** (16 - len(skipped))


def test_a_state_without_a_scale_begins_with_the_first_and_others_have_none():
    plain = trainer("float32")
    state = plain.state()
    assert "scaler" not in state
    made = trainer()
    made.load_state(state)
    assert made.scaling.state()["scaler"]["scale"] == 2.0**16


def test_gradients_that_overflow_under_every_scale_end_the_run():
    made = overflowing(trainer(training__num_steps=40), set(range(40)))
    with pytest.raises(RunError, match=r"step 18: gradients overflow in float16 under every scal"):
        list(made.run())


def missing(*_arguments):
    raise RuntimeError("not implemented for 'Half'")


def test_a_device_without_float16_trains_in_another_precision(monkeypatch):
    settings = build_training(config_of(training__precision="float16"))
    check_precision(settings, CPU)
    monkeypatch.setattr(torch.nn.functional, "conv2d", missing)
    check_precision(build_training(config_of()), CPU)  # float32 is everywhere
    with pytest.raises(RequestError) as refused:
        experiment(config_of(training__precision="float16"), CPU)
    assert str(refused.value) == (
        "training.precision = float16 is none that networks are trained in on the device cpu: "
        "add --config.training.precision=float32"
    )


def test_a_run_in_float16_is_evaluated_in_float32_where_there_is_none(tmp_path, monkeypatch):
    config = config_of(training__precision="float16")
    with RunDir.create(tmp_path / "run", config.to_dict(), {}) as folder:
        made = trainer()
        folder.save_checkpoint(0, made.state())
    assert load(folder.path, "cpu").model.precision == "float16"
    monkeypatch.setattr(torch.nn.functional, "conv2d", missing)
    said = []
    request = Request("", folder.path, "cpu", "", {}, {}, False)
    run = open_run(request, said.append)
    assert run.model.precision == "float32"
    assert said == ["trained in float16, which cpu has not: evaluated in float32"]


def test_remarks_on_halves_of_a_precision(monkeypatch):
    told = remark(build_training(config_of(training__precision="float16")), CPU)
    assert "on a CPU it is many times slower than float32" in told
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "Tesla T4")
    cuda, settings = (
        torch.device("cuda"),
        build_training(config_of(training__precision="bfloat16")),
    )
    for capability, remarked in (((7, 5), True), ((8, 0), False)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        line = remark(settings, cuda)
        assert (line is not None) == remarked
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 0))
    assert "Tesla T4 has no arithmetic for it and emulates it: float16" in remark(settings, cuda)


def test_the_certificate_of_a_float16_network_is_that_of_float32():
    assert choose_precision(config_of(training__precision="float16")) == "float32"
    assert choose_precision(config_of(training__precision="bfloat16")) == "bfloat16"
