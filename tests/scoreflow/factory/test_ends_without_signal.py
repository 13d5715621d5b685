"""Every output, loss and law of times on the two paths trains, or says which key cannot be."""

import itertools

import pytest
import torch

from scoreflow.errors import RequestError
from scoreflow.factory.assembly import experiment
from scoreflow.factory.data import build_data
from scoreflow.losses.objective import NAMES, OF_WHOLE_STEPS, TIMES, Objective
from scoreflow.losses.unbounded import refuse_unbounded
from scoreflow.models.asking import Label
from scoreflow.models.score_model import OUTPUTS, ScoreModel
from scoreflow.schema.config import Config
from scoreflow.schema.request import flatten
from scoreflow.schema.resolve import resolve
from scoreflow.sde import EDMSDE, VPSDE, RectifiedSDE
from scoreflow.training_run import trainer_of

CPU = torch.device("cpu")
SHORT = {
    "sde.num_steps": 8,
    "training.num_steps": 2,
    "training.batch_size": 16,
    "training.warmup_steps": 0,
    "training.log_every": 1,
    "training.checkpoint_every": 2,
    "sampling.steps": 2,
}
TOY = {
    **SHORT,
    "data.name": "toy",
    "model.name": "mlp",
    "model.width": 8,
    "model.depth": 1,
    "model.embedding": 8,
    "sampling.clip": False,
}
DIGITS = {
    **SHORT,
    "model.channels": 8,
    "model.multipliers": [1],
    "model.blocks": 1,
    "model.attention_sizes": [],
    "model.attention_middle": False,
    "model.num_groups": 4,
}


OF_VECTORS = [output for output in OUTPUTS if output != "residual"]
"""The last is of levels, and is finite where v is: `test_pixel_law`."""


def config_of(values):
    return resolve({**flatten(Config().to_dict()), **values}, "the test")


@pytest.fixture(scope="module")
def toy():
    return build_data(config_of(TOY), CPU)


@pytest.fixture(scope="module")
def digits():
    return build_data(config_of(DIGITS), CPU)


def trains(values, data):
    """Two steps with finite losses that move the weights; else the reason in one line."""
    try:
        made = experiment(config_of(values), CPU, data=data)
    except RequestError as refused:
        reason = str(refused)
        assert "\n" not in reason
        assert "training." in reason or "model." in reason
        return reason
    before = [p.detach().clone() for p in made.network.parameters()]
    for interval in trainer_of(made).run():  # which refuses a loss or a gradient that is not
        assert torch.tensor(interval.loss).isfinite()
    after = list(made.network.parameters())
    assert all(p.isfinite().all() for p in after)
    assert any(not torch.equal(p, q) for p, q in zip(before, after, strict=True))
    return ""


EVERYWHERE = ("whole steps of the chain", "model.learned_variance", "is a bound, of times")
"""Reasons that have nothing to do with the process."""


@pytest.mark.parametrize("name", ["rectified", pytest.param("edm", marks=pytest.mark.slow)])
def test_every_choice_trains_or_is_refused_by_its_key(name, toy):
    refused = {}
    for output, loss, law in itertools.product(OF_VECTORS, NAMES, TIMES):
        keys = {"training.objective": loss, "training.times": law, "model.prediction": output}
        reason = trains({**TOY, "sde.name": name, "sde.sigma_max": 20.0, **keys}, toy)
        if reason and not any(each in reason for each in EVERYWHERE):
            refused[output, loss, law] = reason
            assert any(f"{key} = {value}" in reason for key, value in keys.items())
            assert "alpha is 0 at t = N of this process" in reason
    assert bool(refused) == (name == "rectified")


class Zeros(torch.nn.Module):
    """A network that answers nothing."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x, label):
        return torch.cat([0 * x] * self.factor, 1)


def test_what_is_refused_is_infinite():
    """The loss at N of a network that answers nothing; importance times have no end at all."""
    sde, infinite = RectifiedSDE(8), 0
    for output, loss, law in itertools.product(OF_VECTORS, NAMES, TIMES):
        if loss in OF_WHOLE_STEPS and law != "integer":
            continue
        if (loss, law) == ("likelihood", "log_normal"):
            continue
        learned = loss == "hybrid"
        variance = "learned" if learned else "beta"
        objective = Objective(loss, law, 1.0, False, variance, 1e-3, 5.0, 1.0, 1.0)
        refuse_unbounded(objective, output, VPSDE.cosine(8))  # whose log-SNR ends at -20
        refuse_unbounded(objective, output, EDMSDE(8))
        try:
            refuse_unbounded(objective, output, sde)
            continue
        except RequestError:
            infinite += 1
        if law == "importance":
            assert sde.log_snr(torch.tensor(8.0, dtype=torch.float64)) == -torch.inf
            continue
        model = ScoreModel(Zeros(1 + learned), sde, output, learned_variance=learned)
        t, x_0 = torch.tensor([8.0], dtype=torch.float64), torch.full((1, 2), 0.3)
        assert not objective.loss(model, x_0, t, torch.ones(1, 2)).isfinite(), (output, loss, law)
    assert infinite > 50


@pytest.mark.parametrize("output", ["v", "u", "x_0"])
@pytest.mark.parametrize("loss", ["variational", "hybrid"])
def test_a_learned_variance_is_learned_to_the_end(output, loss, digits):
    keys = {"training.objective": loss, "model.prediction": output, "model.learned_variance": True}
    few = {"training.batch_size": 32, "sde.num_steps": 2}  # half of all times are N
    assert not trains({**DIGITS, "sde.name": "rectified", **keys, **few}, digits)


@pytest.mark.parametrize("output", ["v", "u", "x_0"])
@pytest.mark.parametrize("loss", ["edm", "velocity", "flow_matching", "simple"])
def test_a_datum_of_another_size_is_trained_to_the_end(output, loss, toy):
    keys = {"training.objective": loss, "model.prediction": output, "model.data_std": 0.3}
    ranges = {"model.data_range": "unit"}
    assert not trains({**TOY, "sde.name": "rectified", **keys, **ranges}, toy)


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("model.label", "sigma", "time"),
        ("model.label", "log_sigma", "time"),
        ("model.input_scale", "alpha", "unit"),
    ],
)
def test_a_network_is_not_asked_by_what_is_infinite(key, value, remedy, toy):
    reason = trains({**TOY, "sde.name": "rectified", "model.prediction": "v", key: value}, toy)
    assert reason.startswith(f"{key} = {value} is infinite at t = N of this process")
    assert reason.endswith(f"set {key} = {remedy}")
    assert not trains({**TOY, "sde.name": "edm", "model.prediction": "v", key: value}, toy)
    if key == "model.label":
        with pytest.raises(RequestError, match=r"model\.label"):
            ScoreModel(torch.nn.Identity(), RectifiedSDE(8), "v", label=Label(value))


@pytest.mark.parametrize("name", ["rectified", "edm", "ve", "vp"])
def test_decibels_are_a_label_of_every_process(name, toy):
    keys = {"sde.name": name, "model.prediction": "v", "model.label": "log_snr"}
    assert not trains({**TOY, "sde.beta_max": 6.0, **keys, "training.times": "real"}, toy)


def test_a_law_that_reaches_the_end_is_refused_by_its_keys(toy):
    keys = {"training.objective": "edm", "training.times": "log_normal"}
    wide = {**TOY, "sde.name": "rectified", **keys, "training.log_normal_std": 8.0}
    assert "give other values to training.log_normal_mean and" in trains(wide, toy)
    assert not trains({**wide, "model.prediction": "u"}, toy)


def test_interpolated_integer_times_train_to_the_end(toy):
    keys = {"model.integer_times": True, "model.prediction": "u"}
    assert not trains({**TOY, "sde.name": "rectified", **keys}, toy)
