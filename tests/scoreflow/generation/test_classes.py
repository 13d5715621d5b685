"""Samples of several classes: which class sample k is of, and that it is drawn as such."""

import pytest
import torch
from torch import nn

from scoreflow.any_model import sample as sample_any
from scoreflow.data.dataset import Data
from scoreflow.errors import RequestError
from scoreflow.factory.guidance import guidance_of
from scoreflow.generation.classes import Classes
from scoreflow.models.score_model import ScoreModel
from scoreflow.schema.evaluation_sections import SamplingConfig
from scoreflow.sde.processes.vp import VPSDE


class Constant(nn.Module):
    """Says that every image of class k is k / 4 - 1 everywhere: eps, exactly; 0 for no class."""

    num_classes = 4

    def __init__(self, sde):
        super().__init__()
        self.sde = sde

    def forward(self, x, index, classes=None):
        t = index.double() + 1
        alpha, sigma = (f(t).view(-1, 1, 1, 1) for f in (self.sde.alpha, self.sde.sigma))
        level = torch.zeros(len(x)) if classes is None else classes / 4 - 1
        return ((x - alpha * level.view(-1, 1, 1, 1)) / sigma).float()


@pytest.fixture
def model():
    sde = VPSDE.linear(50)
    return ScoreModel(Constant(sde), sde, "eps")


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm", "pc", "ode"])
def test_sample_k_is_of_the_class_of_k(sampler, model):
    """A network whose image of a class is known: it comes out, whatever the batch."""
    asked = {"label": [2, 0, 3], "steps": 10, "tolerance": 1e-3, "seed": 1}
    for batch_size in (8, 3):
        x = sample_any(model, (1, 2, 2), 8, sampler, 256, batch_size=batch_size, **asked)
        expected = torch.tensor([2, 0, 3, 2, 0, 3, 2, 0]) / 4 - 1
        found = (x.double().mean((1, 2, 3)) + 0.5) / 128 - 1
        assert (found - expected).abs().max() < 0.02, sampler


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_one_class_of_a_list_is_that_class_alone(sampler, model):
    """Sample k among several classes equals sample k of its class, bit for bit."""
    asked = {"steps": 10, "seed": 3, "guidance": 2.0}
    together = sample_any(model, (1, 2, 2), 6, sampler, 256, label="1,3", **asked)
    for k, label in enumerate((1, 3)):
        alone = sample_any(model, (1, 2, 2), 6, sampler, 256, label=label, **asked)
        assert torch.equal(together[k::2], alone[k::2])


def data(labels, names=()):
    levels = torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8)
    labels = torch.tensor(labels)
    return Data("d", levels, levels, 4, labels, labels, names)


def of(label, labels=(0, 0, 0, 2), num_classes=3, **more):
    return guidance_of(SamplingConfig(label=label, **more), num_classes, data(list(labels)))


def test_all_and_data():
    """All classes that there are, in turn; or by the data's shares, addressed by k."""
    every = of("all", (0, 1, 2, 2))
    assert every.classes.of(torch.arange(7)).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert of("all").classes.numbers == (0, 2)  # there is no image of class 1
    shares = of("data", seed=5).classes
    labels = shares.of(torch.arange(4000))
    assert set(labels.tolist()) == {0, 2}
    # three quarters of class 0: within 5 standard errors, at a fixed seed
    assert abs(float((labels == 0).double().mean()) - 0.75) < 5 * (0.75 * 0.25 / 4000) ** 0.5
    some = torch.tensor([3999, 17, 0])
    assert torch.equal(shares.of(some), labels[some])
    assert not torch.equal(Classes((0, 2), (3, 1), 6).of(torch.arange(4000)), labels)


def test_what_results_keep():
    assert of(-1).asked == -1
    assert of("2").asked == 2
    assert of("2,0").asked == "2,0"
    assert of("all").asked == "all"
    assert of("data").asked == "data"
    with pytest.raises(RequestError, match=r"sampling\.label = 1: d has none"):
        of("0,1")
    nothing = Data("d", *[torch.zeros(0, 1, 1, 1, dtype=torch.uint8)] * 2, 4, None, None)
    with pytest.raises(RequestError, match="d has no labels: use all, or list the classes"):
        guidance_of(SamplingConfig(label="data"), 3, nothing)
