"""The check on arrival: closed forms, a trained network, and the same one read wrongly."""

import pytest
import torch
from torch import nn

from scoreflow.data.levels import centres
from scoreflow.data.loading import load_digits
from scoreflow.interop.arrival_check import ALLOWED, check, errors_of, times_of
from scoreflow.interop.other_readings import (
    ORDERS,
    Reading,
    _attentions,
    _reordered,
    others_of,
)
from scoreflow.models.score_model import ScoreModel
from scoreflow.sde import VESDE, VPSDE

OPTIONS = {"size": 8, "heads": 4, "steps": 4000, "schedule": "cosine", "norm_groups": 4}
V = {"model__prediction": "v", "model__data_scale": 16 / 17}


class OfGaussian(nn.Module):
    """The best estimate of eps, of a VP's data N(0, v I)."""

    def __init__(self, sde, v):
        super().__init__()
        self.sde, self.v = sde, v

    def forward(self, x, index):
        t = index.double() + 1
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        weight = sigma / (alpha**2 * self.v + sigma**2)
        return (weight[:, None] * x).to(x.dtype)


# ---- the rule -----------------------------------------------------------------------------------


def test_the_best_estimate_of_a_gaussian_errs_as_the_formula_says():
    sde, v = VPSDE.linear(1000), 0.3
    x_0 = v**0.5 * torch.randn(64, 512, dtype=torch.float64)
    model = ScoreModel(OfGaussian(sde, v), sde)
    times = times_of(sde, 1.0)
    found = errors_of(model, times, x_0)
    assert (found.mean - found.of_gaussian).abs().max() < 0.02
    assert bool((found.excess < 0).all())
    assert len(times) == 16
    assert bool((times == times.round()).all())
    steps = sde.log_snr(times).diff()
    assert float(steps.min()) == pytest.approx(float(steps.max()), rel=0.3)  # whole times


@pytest.mark.parametrize("sde", [VPSDE.cosine(4000), VESDE(1000, 0.01, 50.0)])
def test_an_estimate_that_knows_nothing_lies_above_at_the_noisy_end_alone(sde):
    class Zero(nn.Module):
        def forward(self, x, index):
            return torch.zeros_like(x)

    x_0 = 0.5 * torch.randn(16, 64, dtype=torch.float64)
    found = errors_of(ScoreModel(Zero(), sde), times_of(sde, 1.0), x_0)
    torch.testing.assert_close(found.mean, torch.ones_like(found.mean), rtol=0.2, atol=0)
    rises = found.of_gaussian
    assert bool((rises.diff() < 0).all())
    assert float(rises[0]) > 0.95
    assert bool(found.excess[-1] > 0)
    assert not bool(found.excess[0] > 0)


# ---- a trained network, read rightly and wrongly ------------------------------------------------


@pytest.fixture(scope="module")
def images():
    return centres(load_digits().test[:16], 17)


@pytest.fixture
def arrival(golden_of, fixtures, images):
    """The check of the trained network under other options of the reader and config keys."""

    def run(options=None, **keys):
        path = fixtures / "improved_diffusion" / "digits_trained" / "ema_0.995_4000.pt"
        found = golden_of(path, "improved_diffusion", OPTIONS | (options or {}))
        model = found.model(**(V | keys))
        return check(Reading("as it was read", model, ""), others_of(model), images, "digits")

    return run


def test_a_network_that_is_read_rightly_passes(arrival):
    found = arrival()
    assert found.passed
    assert found.trouble() == ""
    e = found.errors
    assert float(e.mean[-1]) < 1e-3
    assert float(e.mean[0]) > 0.8
    middle = (e.log_snr > -3) & (e.log_snr < 6)
    assert bool((e.mean[middle] < 0.65 * e.of_gaussian[middle]).all())  # it has learned
    result = found.as_result()
    assert result["passed"]
    assert result["value"] == pytest.approx(float(e.mean.mean()))
    assert min(result["others"].values()) > result["value"]


@pytest.mark.parametrize(
    ("options", "keys", "cause"),
    [
        ({"rescale_timesteps": False}, {}, "the label the index x 1000 / N"),
        ({"schedule": "linear"}, {}, "the cosine schedule"),
        ({"attention_order": "qkv_major"}, {}, "(head, 3, channel), not (3, head, channel)"),
        ({"heads": 2}, {}, "4 heads, rows of qkv as (head, 3, channel)"),
        ({}, {"model__prediction": "eps"}, "its output as v"),
        ({}, {"model__prediction": "x_0"}, "its output as v"),
        ({}, {"model__data_range": "unit"}, "images in [-1, 1]"),
        ({}, {"model__label": "log_sigma", "model__label_scale": 0.25, "model__label_offset": 0.0},
         "the label the index x 1000 / N"),
    ],
)  # fmt: skip
def test_a_wrong_reading_is_caught_and_its_cause_named(arrival, options, keys, cause):
    found = arrival(options, **keys)
    assert not found.passed
    assert found.best is not None
    assert cause in found.best.name
    assert cause in found.trouble()
    assert "\n" not in found.trouble()


def test_a_wrong_architecture_is_caught_where_it_matters(arrival):
    found = arrival(model__embedding_order="sin_cos")
    assert not found.passed


def test_answers_that_are_not_finite_are_said(images):
    class Broken(nn.Module):
        def forward(self, x, index):
            return x / 0

    model = ScoreModel(Broken(), VPSDE.linear(100))
    found = check(Reading("", model, ""), [], images, "digits")
    assert not found.passed
    assert found.trouble() == "the network's answers are not finite"


def test_random_weights_do_not_pass(golden, images):
    """The fixtures' own: fitted by a regression, they are no denoisers."""
    for name in ("ddpm_old_names", "cifar10_like"):
        model = golden(name).model()
        channels = golden(name).arrays["x_t"].shape[1]
        found = check(Reading("", model, ""), [], images.expand(-1, channels, -1, -1), "digits")
        assert not found.passed
        assert float(found.errors.excess.max()) > ALLOWED


# ---- other readings -----------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_rows_of_any_order_are_brought_to_ours_and_back(order):
    heads, width = 3, 2
    ours = torch.arange(3 * heads * width)
    own = ours.reshape(3, heads, width)
    kept = own.permute(*ORDERS[order]).flatten()
    assert torch.equal(_reordered(kept, heads, ORDERS[order]), ours)
    assert torch.equal(_reordered(ours, heads, ORDERS[order], back=True), kept)


def test_no_reading_changes_the_network_that_it_is_of(golden):
    model = golden("adm_new_order").model()
    before = {k: v.clone() for k, v in model.network.state_dict().items()}
    heads = [each.heads for each in _attentions(model.network)]
    names = [each.name for each in others_of(model)]
    assert len(set(names)) == len(names)
    assert heads == [each.heads for each in _attentions(model.network)]
    assert all(torch.equal(v, before[k]) for k, v in model.network.state_dict().items())
