"""The table of choices: pairs of images, and requests that cannot be."""

import pytest
import torch

from benchmarks.ablation.__main__ import CHOICES, EXPERIMENT, main, row, text_of, values_of
from scoreflow.uncertainty import mean_and_error


def found(bits, seconds=10.0):
    return {"bits": bits, "seconds": seconds, "parameters": 1000}


def test_a_difference_is_of_pairs_of_images():
    """Images differ by far more than choices: only in pairs is the difference seen."""
    own, other = [1.0, 3.0, 5.0], [1.1, 3.2, 5.1]
    first, second = (
        row("as it is", found(own), found(own)),
        row("label = time", found(other), found(own)),
    )
    value, error = mean_and_error(torch.tensor([0.1, 0.2, 0.1], dtype=torch.float64))
    assert second["more"] == pytest.approx(value)
    assert second["more_error"] == pytest.approx(error)
    assert first["more"] == 0
    assert "+0.133 ± 0.033" in text_of([first, second])


def test_each_choice_is_one_difference_from_the_experiment():
    own = values_of("as it is", 300, "there")
    for name, sets in CHOICES.items():
        values = values_of(name, 300, "there")
        changed = {key for key in values if values[key] != own.get(key)}
        steps = {f"training.{key}" for key in ("num_steps", "checkpoint_every", "warmup_steps")}
        assert changed == set(sets) | (steps if "batch" in name else set()), name


def test_half_the_steps_of_twice_the_batch_see_as_many_images():
    name = next(name for name in CHOICES if "batch" in name)
    assert values_of(name, 300, "there")["training.num_steps"] == 150


def test_choices_that_are_not_are_refused(capsys):
    assert main(["ablation", "--data", "there", "--choices", "1"]) == 2
    assert "--choices must be of 0..6, 0 first, got 1" in capsys.readouterr().err
    assert EXPERIMENT == "mnist_likelihood"
