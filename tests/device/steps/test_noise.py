"""On a GPU a draw is one kernel."""

import pytest
import torch

from scoreflow.configs import digits
from scoreflow.factory.assembly import experiment
from scoreflow.sde.noise import Noise, Stream
from scoreflow.training_run import trainer_of
from tests.sde.noise.test_fused import draws_of


def test_a_draw_is_one_kernel(device, seen):
    noise = Noise.of(2**63 + 1, 5, 12, device).at(7)
    seen.clear()
    found = draws_of(noise)
    assert seen.of("noise").kernels == seen.of().kernels == 5
    assert seen.waits == []
    for one, other in zip(found, draws_of(Noise.of(2**63 + 1, 5, 12).at(7)), strict=True):
        assert torch.equal(one.cpu(), other)


@pytest.mark.parametrize("steps", [1, 30])
def test_several_steps_of_a_sampler_are_one_kernel(device, seen, steps):
    """As far as they are read ahead."""
    noise = Noise.of(0, 0, 4, device).reading_ahead(steps)
    seen.clear()
    for step in range(steps):
        noise.at(step).normal(Stream.PREDICTOR, (8,))
    assert seen.of("noise").kernels == 1


def test_a_training_step_draws_in_six_kernels(device, seen):
    """Times, noise, places in the bins, sides, hidden labels and the words of dropout."""
    config = digits.get_config()
    config.model.update(channels=8, num_groups=4, multipliers=(1,), attention_sizes=(8,))
    config.model.update(dropout=0.2, conditional=True)
    config.training.update(batch_size=4, flip=True)
    trainer = trainer_of(experiment(config, device))
    trainer.advance(1)
    seen.clear()
    trainer.advance(1)
    calls = {name: count for (source, name), count in seen.by_call.items() if source == "noise"}
    assert calls == {"scoreflow::philox_draw": 6}
