"""A training step that can be a CUDA graph: each time the same calls with the same numbers."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scoreflow.configs import digits
from scoreflow.factory.assembly import experiment
from scoreflow.training_run import trainer_of
from tests.device.pretend import NAME
from tests.device.watch import watching

KINDS = {
    "many": {
        "training__micro_batches": 2,
        "training__precision": "bfloat16",
        "model__conditional": True,
        "training__flip": True,
    },
    "importance": {
        "training__times": "importance",
        "training__objective": "likelihood",
        "training__low_discrepancy": True,
        "training__decay": "cosine",
    },
    "learned": {"model__learned_variance": True, "training__objective": "hybrid"},
}
LONG = pytest.param("learned", marks=pytest.mark.slow)


def training(device, **changes):
    config = digits.get_config()
    config.model.update(
        channels=8, num_groups=4, multipliers=(1,), attention_sizes=(8,), dropout=0.2
    )
    config.training.update(num_steps=20, batch_size=4)
    for key, value in changes.items():
        section, _, name = key.partition("__")
        config[section].update({name: value})
    return trainer_of(experiment(config, device))


class HostNumbers(TorchDispatchMode):
    """What lies on the host and goes into calls of the device: line of the test, and value."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if any(x.device.type == NAME for x in given):
            self.found += [(func.name(), x.tolist()) for x in given if x.device.type == "cpu"]
        return func(*args, **(kwargs or {}))


def moves_of(trainer, count):
    """What each of some steps asks of the device, the setting of its dials aside."""
    kept, move = [], trainer._move

    def watched():
        with HostNumbers() as numbers, watching(record=True) as seen:
            row = move()
        kept.append((seen, numbers.found))
        return row

    trainer._graphed = watched
    trainer.advance(count)
    return kept


@pytest.mark.parametrize("kind", ["many", "importance", LONG])
def test_two_steps_make_the_same_calls(device, kind):
    """Which is what a recorded graph repeats.

    None of them waits. What they take of the host is a number, which CUDA hands over with a call
    and a graph keeps: one that stays the same.
    """
    trainer = training(device, **KINDS[kind])
    trainer.in_one_graph()
    _, (second, numbers), (third, later) = moves_of(trainer, 3)
    assert len(second.calls) > 100
    for one, other in zip(second.calls, third.calls, strict=True):
        assert one == other
    assert second.waits == []
    assert numbers == later
    assert all(isinstance(value, float) for _, value in numbers)
    assert bool(numbers) == (kind == "importance")


def test_the_dials_are_what_makes_them_the_same(device):
    """So the test above would see a number of the host that changes."""
    _, (second, _), (third, _) = moves_of(training(device), 3)
    changed = {
        one.name for one, other in zip(second.calls, third.calls, strict=True) if one != other
    }
    assert changed >= {"scoreflow::philox_draw", "_fused_adam_", "_foreach_lerp_.Scalar"}


def test_a_graphs_average_is_a_few_launches(device):
    """Of a tensor's share, and that of the step that reads numbers of the host."""
    plain, dialled = training(device), training(device)
    dialled.in_one_graph()
    _, (seen, _) = moves_of(dialled, 2)
    assert seen.of("ema").kernels <= 3 * -(-len(list(dialled.network.parameters())) // 48)
    plain.advance(2)
    torch.testing.assert_close(
        dialled.ema.state_dict(), plain.ema.state_dict(), rtol=1e-5, atol=1e-7
    )


def test_the_dials_are_turned_without_a_wait(device):
    trainer = training(device)
    trainer.in_one_graph()
    trainer.advance(1)
    trainer._graphed = lambda: torch.zeros(2, device=device)
    with watching() as seen:
        trainer.advance(1)
    assert seen.waits == []
    assert seen.of().kernels <= 8  # step, rate, share, rows; the rest is the test's
