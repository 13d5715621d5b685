"""How many kernels a training step launches, and how many bytes it moves: held within bounds.

By the rules' count, not measured: what adds launches or passes over memory fails here.
"""

from collections import Counter

import pytest
from torch import nn

from scoreflow.models.unet_blocks import Attention
from scoreflow.training.classifier_trainer import train_classifier
from scoreflow.training.settings import ClassifierSettings
from scoreflow.training_run import trainer_of
from tests.device import count

DRAWS = 6
"""Times, eps, places in the bins, sides, hidden classes and the words of dropout."""


@pytest.mark.parametrize("recompute", [False, True])
def test_the_kernels_of_a_small_step_are_those_of_its_layers(
    recompute, experiment_of, device, seen
):
    keys = {
        "model__dropout": 0.2,
        "model__conditional": True,
        "training__flip": True,
        "training__recompute": recompute,
    }
    trainer = trainer_of(experiment_of("digits", device, **keys))
    trainer.advance(1)
    seen.clear()
    trainer.advance(1)
    norms, convolutions, dense = (
        [m for m in trainer.network.modules() if isinstance(m, kind)]
        for kind in (nn.GroupNorm, nn.Conv2d, nn.Linear)
    )
    calls = seen.by_call
    assert calls["noise", "scoreflow::philox_draw"] == seen.of("noise").kernels == DRAWS
    assert seen.of("dropout").kernels == 0, "it is in the norms' kernels"
    # one kernel forth; one back, and a sum over the batch
    forth, back = "scoreflow::norm_act_drop", "scoreflow::norm_act_drop_backward"
    assert calls["norms", forth] == len(norms)
    assert calls["norms", back] == 2 * len(norms)
    assert (calls["norms again", forth] > 0) == recompute
    # forth with a bias each, back by what came in, the weight and the bias; the first has no data
    assert calls["convolutions", "convolution"] == 2 * len(convolutions)
    assert calls["convolutions", "convolution_backward"] == 3 * len(convolutions) - 1
    assert calls["products", "addmm"] == len(dense)
    attentions = sum(isinstance(m, Attention) for m in trainer.network.modules())
    assert seen.of("attention").kernels == (4 + recompute) * attentions
    lists = -(-len(list(trainer.network.parameters())) // 36)  # of what one launch takes
    assert seen.of("optimiser").kernels <= 2 * lists  # one of them counts the steps
    assert seen.of("ema").kernels <= lists
    assert seen.of("clip").kernels <= 2 * lists + 10
    assert seen.of("copies and casts").kernels == COPIES
    of_lists = seen.of("optimiser", "ema", "clip").kernels
    assert seen.of().kernels - of_lists == WHOLE + AGAIN * recompute, seen.table()


def test_the_kernels_of_a_step_of_the_classifier_are_those_of_its_layers(
    experiment_of, device, seen
):
    """Of two steps: what three of them launch more than one."""
    made = experiment_of("digits", device)

    def trained(steps):
        settings = ClassifierSettings(steps, 4, 1e-3, 8, False, "uniform", 0)
        seen.clear()
        model = train_classifier(made.data, made.model.sde, made.objective, settings)
        kernels = seen.of().kernels - seen.of("optimiser").kernels
        return model.network, Counter(seen.by_call), kernels

    (network, once, few), (_, thrice, many) = trained(1), trained(3)
    calls = thrice - once
    norms = sum(isinstance(m, nn.GroupNorm) for m in network.modules())
    assert calls["norms", "scoreflow::norm_act_drop"] == 2 * norms
    assert calls["norms", "scoreflow::norm_act_drop_backward"] == 2 * 2 * norms
    assert not [name for _, name in calls if "native_group_norm" in name]
    assert many - few == 2 * OF_CLASSIFIER, calls


COPIES = 8
"""Dropout's words, and images and gradients where attention turns them, in the small step."""
WHOLE, AGAIN = 497, 78
"""All kernels of the small step but those over lists; and what is recomputed. By torch 2.13."""
OF_CLASSIFIER = 142
"""Kernels of a step of the small classifier but the optimiser's. By torch 2.13."""

MOST = {
    "convolutions": (400, 12.0),
    "norms": (200, 9.0),
    "elementwise": (140, 3.6),
    "attention": (24, 1.1),
    "optimiser": (14, 1.1),
    "copies and casts": (450, 1.1),
    "layout copies": (30, 0.7),
    "clip": (16, 0.6),
    "ema": (6, 0.5),
    "products": (130, 0.1),
    "batch": (30, 0.1),
    "process": (75, 0.1),
    "loss": (16, 0.1),
    "activations": (6, 0.1),
    "noise": (6, 0.01),
    "dropout": (0, 0.0),
}
"""Kernels and GB of a step of CIFAR-10's network at batch 128, bfloat16 and channels last."""


@pytest.fixture(scope="module")
def cifar10():
    return count.ours(128)


def test_a_step_of_cifar10_is_within_its_bounds(needs_python_device, cifar10):
    table = cifar10.table()
    assert {name.removesuffix(" again") for name in cifar10.by_source} <= set(MOST), table
    for source, (kernels, gigabytes) in MOST.items():
        found = cifar10.of(source)
        assert found.kernels <= kernels, f"{source}\n{table}"
        assert found.moved <= gigabytes * 1e9, f"{source}\n{table}"
    whole = cifar10.of()
    assert whole.kernels <= 1500
    assert whole.moved <= 30e9
    assert cifar10.of("noise", "dropout").moved <= 0.001 * whole.moved
    assert not cifar10.waits


@pytest.mark.slow
def test_it_is_less_than_half_of_diffusers(needs_python_device, cifar10):
    ours, theirs = cifar10.of(), count.diffusers(128).of()
    assert ours.kernels <= 0.5 * theirs.kernels
    assert ours.moved <= 0.5 * theirs.moved
