"""likelihood.label = data: each image given its own class."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from scoreflow.data.dataset import Data
from scoreflow.errors import RequestError
from scoreflow.factory.likelihood import asked_of, labels_of
from scoreflow.likelihood.dataset_likelihood import LikelihoodSettings, measure
from scoreflow.likelihood.dequantization import Dequantizer
from scoreflow.likelihood.flow_likelihood import Solver
from scoreflow.models.score_model import ScoreModel
from scoreflow.schema.config import Config
from scoreflow.schema.evaluation_sections import LikelihoodConfig
from scoreflow.schema.training_sections import ModelConfig
from scoreflow.sde.processes.vp import VPSDE


class OfClasses(nn.Module):
    """The exact eps of pixels N(k / 2, 1/4) for class k, and N(0, 1/4) for none."""

    num_classes = 2

    def __init__(self, sde):
        super().__init__()
        self.sde = sde

    def forward(self, x, index, classes=None):
        t = index.double() + 1
        alpha, sigma = (f(t).view(-1, 1, 1, 1) for f in (self.sde.alpha, self.sde.sigma))
        mean = torch.zeros(len(x)) if classes is None else classes / 2
        centred = x - alpha * mean.view(-1, 1, 1, 1)
        return (sigma / (alpha**2 / 4 + sigma**2) * centred).to(x.dtype)


LABELS = torch.tensor([1, 0, 1, 1, 0])


def data(labels=LABELS, names=()):
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 16, (5, 1, 1, 2), generator=generator, dtype=torch.uint8)
    return Data("d", levels, levels, 16, labels, labels, names, tuple("abcde"))


def model():
    sde = VPSDE.log_linear(100, sigma_min=0.02)
    return ScoreModel(OfClasses(sde), sde, "eps")


def config(label):
    return Config(likelihood=LikelihoodConfig(label=label))


def test_each_row_is_that_of_its_class():
    own, of = model(), data()
    deq = Dequantizer("uniform", 16, 1.0, "uniform")
    asked = LikelihoodSettings(Solver(0, 1e-3, 1e-3, "dopri5", 1000), 0, deq, checked=2)
    given = measure(own, of, 0, asked, labels=labels_of(config("data"), own, of))
    alone = [measure(asked_of(config(k), own, of), of, 0, asked) for k in (0, 1)]
    expected = torch.stack([alone[k].values[j] for j, k in enumerate(LABELS.tolist())])
    assert torch.equal(given.values, expected)
    assert not torch.allclose(alone[0].values, alone[1].values, atol=0.01)
    lowest = given.values.mean(1).argmin()
    assert given.result["lowest"][0]["name"] == "abcde"[lowest]


def test_what_cannot_be_asked():
    own, none = model(), Data("u", *[data().test] * 2, 16, None, None)
    with pytest.raises(RequestError, match="and u has no labels"):
        labels_of(config("data"), own, none)
    with pytest.raises(RequestError, match="the network knows 2 classes, and d has a class 2"):
        labels_of(config("data"), own, data(LABELS + 1))
    with pytest.raises(RequestError, match="one class, or data for each image's own, got 0,1"):
        asked_of(config("0,1"), own, data())
    named = data(names=("cat", "dog"))
    assert asked_of(config("dog"), own, named).label == 1
    with pytest.raises(RequestError, match="no class is called 'dgo'; did you mean 'dog'"):
        asked_of(config("dgo"), own, named)
    assert labels_of(config("dog"), own, named) is None


def test_a_class_that_only_the_held_out_part_has_is_not_asked_for():
    own, of = model(), replace(data(names=("cat", "dog")), train_labels=torch.ones_like(LABELS))
    for label in ("data", "cat", 0):
        with pytest.raises(RequestError, match=rf"{label}: d has no training data of cat, of"):
            (labels_of if label == "data" else asked_of)(config(label), own, of)
    assert asked_of(config("dog"), own, of).label == 1
    theirs = replace(config("data"), model=ModelConfig(conditional=True, num_classes=2))
    assert torch.equal(labels_of(theirs, own, of), LABELS)
