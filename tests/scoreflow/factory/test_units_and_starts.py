"""Where levels lie for a network, and where the flow of an estimate of eps begins."""

import math

import pytest
import torch
from torch import nn

from scoreflow.configs import cifar10, default, digits
from scoreflow.data.dataset import Data
from scoreflow.data.levels import centres, points
from scoreflow.data.loading import load_digits
from scoreflow.errors import RequestError
from scoreflow.factory import assembly
from scoreflow.factory.likelihood import question_of
from scoreflow.factory.model import build_model
from scoreflow.factory.sampling import build_drawing
from scoreflow.likelihood.dataset_likelihood import LikelihoodSettings, measure
from scoreflow.likelihood.dequantization import Dequantizer, at_most_bits, warning
from scoreflow.likelihood.flow_likelihood import Solver
from scoreflow.schema import request, resolve
from scoreflow.schema.config import Config
from scoreflow.sde import VPSDE
from scoreflow.sde.noise import Noise, Stream

DIGITS = load_digits()
F64 = torch.float64


def config_of(experiment=default, **changes):
    flat = request.flatten(experiment.get_config().to_dict())
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    return Config.of(resolve.resolve({**flat, **changes}, "test"))


def images_of(levels, num_levels):
    """All levels as images of one pixel."""
    return Data("levels", levels, levels, num_levels, None, None)


def model_of(config, data, network):
    config = assembly.in_units_of(config, data)
    return build_model(config, network, assembly.build_sde(config))


# ---- data.scale


class Told(nn.Module):
    """A network that keeps what it is given, and finds no noise in it."""

    def forward(self, x, label):
        self.x = x
        return torch.zeros_like(x)


@pytest.mark.parametrize("num_levels", [2, 17, 256])
def test_level_k_is_shown_as_ddpm_shows_it(num_levels):
    """In training's float32, to two roundings of a number below 1: 2 k / (L - 1) - 1."""
    levels = torch.arange(num_levels, dtype=torch.uint8).view(-1, 1, 1, 1)
    data, network = images_of(levels, num_levels), Told()
    model = model_of(config_of(data__scale="ends"), data, network)
    noise = Noise.of(0, 0, num_levels)
    x_0 = points(levels, num_levels, noise, Stream.TRAIN_DEQUANTIZE, "centre").float()
    t = torch.tensor(1.0, dtype=F64)
    eps = noise.normal(Stream.TRAIN_EPS, (1, 1, 1)).float()
    model(model.sde.perturb(x_0, t, eps), t)
    theirs = 2 * levels.double() / (num_levels - 1) - 1
    chain = VPSDE.linear(1000)  # DDPM's own, of images in their own units
    shown = chain.alpha(t) * theirs + chain.sigma(t) * eps.double()
    assert float((network.x.double() - shown).abs().max()) < 4 * 2**-24
    torch.testing.assert_close(
        centres(levels, num_levels) / model.asking.noise_unit, theirs, rtol=0, atol=1e-15
    )


class GaussianEps(nn.Module):
    """The exact eps of pixels N(mean, std^2) in the network's own units."""

    num_classes = 0

    def __init__(self, sde, mean, std):
        super().__init__()
        self.sde, self.mean, self.std = sde, mean, std

    def forward(self, x, label):
        t = label.double() + 1
        alpha, sigma = (z(t).view(-1, 1, 1, 1) for z in (self.sde.alpha, self.sde.sigma))
        variance = (alpha * self.std) ** 2 + sigma**2
        return (sigma / variance * (x.double() - alpha * self.mean)).to(x.dtype)


@pytest.mark.parametrize(
    ("name", "embedding"),
    [("uniform", "uniform"), ("truncated_normal", "centre"), ("last_step", "centre")],
)
def test_a_law_has_one_likelihood_in_either_scale(name, embedding):
    """The same process in other units: images 17 / 16 as large, and noise as much larger."""
    unit, chain = 16 / 17, VPSDE.linear(1000)
    wanted = {"sde__schedule": "linear", "training__dequantization": embedding}
    test = DIGITS.test[:3, :, 2:4, 2:4]
    data = Data("few", test, test, 17, None, None)
    ends = model_of(config_of(data__scale="ends", **wanted), data, GaussianEps(chain, -0.3, 0.6))
    # the same in our units, where the process of the network is `Rescaled`
    law = GaussianEps(ends.sde, unit * -0.3, unit * 0.6)
    ours = model_of(config_of(model__input_scale="none", **wanted), data, law)
    ours.sde = ends.sde
    solver = Solver(0, 1e-6, 1e-6)
    settings = LikelihoodSettings(solver, 0, Dequantizer(name, 17, 1.0, embedding), checked=0)
    found = [
        measure(model.in_precision("float64"), data, 0, settings).values for model in (ends, ours)
    ]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-5)


def test_units_are_of_the_levels_and_of_no_network_that_has_its_own():
    config = config_of(data__scale="ends")
    assert assembly.in_units_of(config, DIGITS).model.data_scale == 16 / 17
    assert assembly.in_units_of(config_of(), DIGITS).model.data_scale == 1
    vectors = Data("points", torch.zeros(3, 2), torch.zeros(3, 2), None, None, None)
    with pytest.raises(RequestError, match=r"data\.scale = ends is of images.*leave it at bins"):
        assembly.in_units_of(config, vectors)
    imported = config_of(data__scale="ends", model__data_scale=16 / 17)
    with pytest.raises(RequestError, match=r"came with model\.data_scale = 0\.941"):
        assembly.in_units_of(imported, DIGITS)
    wrong = config_of(model__data_scale=0.875)
    with pytest.raises(RequestError, match=r"with 8 levels, .* has 17: leave it out, or, of an"):
        assembly.experiment(wrong, torch.device("cpu"), data=DIGITS)


# ---- cifar10's likelihood


def test_the_recipe_of_cifar10_tells_levels_apart():
    """What starting at its least time costs, and what its parts are for."""
    config = assembly.in_units_of(config_of(cifar10), images_of(DIGITS.test, 256))
    sde = assembly.build_sde(config)
    data = images_of(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), 256)
    deq = question_of(config, sde, config.training.t_min, data).dequantizer
    assert (deq.name, deq.embedding, deq.t) == ("truncated_normal", "centre", 0.03)
    # log alpha is linear between 0 and 1, so sigma^2 is t times that of DDPM's first step
    reach = math.sqrt(1 - 1e-4 * 0.03) / (255 * math.sqrt(1e-4 * 0.03))
    kept = math.erf(reach / math.sqrt(2))
    assert at_most_bits(deq, sde) == pytest.approx(-math.log2(kept), rel=1e-3)
    assert at_most_bits(deq, sde) < 0.05
    assert warning(deq, sde, 0.03, False) == ""


@pytest.mark.parametrize(
    ("name", "embedding"), [("uniform", "uniform"), ("truncated_normal", "centre")]
)
def test_the_remedy_of_a_late_start_is_one(name, embedding):
    """The flags that are named, tried."""
    sde, late = VPSDE.linear(1000), Dequantizer(name, 256, 1.0, embedding)
    text = warning(late, sde, 1.0, False)
    assert f"can cost up to {at_most_bits(late, sde):.2f} bits/dim" in text
    assert "--config.training.times=real --config.training.t_min=" in text
    told = float(text.split("--config.training.t_min=")[1].split(",")[0])
    assert 0.04 < at_most_bits(Dequantizer(name, 256, told, embedding), sde) <= 0.05
    known = warning(late, sde, 1e-4, False)  # a network that knows earlier times already
    assert known.endswith(f"--config.likelihood.t_start={told:g}")
    assert "--config.likelihood.dequantization=last_step" in warning(late, sde, 1.0, True)
    centres = embedding == "centre"  # and nothing need be trained
    assert ("or without training measure with --config.likeli" in text) == centres


def test_points_over_bins_for_a_network_of_centres_are_warned_of():
    sde = VPSDE.linear(1000)
    for t, better in ((1.0, "last_step"), (0.03, "truncated_normal")):
        text = warning(Dequantizer("uniform", 256, t, "centre"), sde, t, False)
        assert text.endswith(f"--config.likelihood.dequantization={better}")
    assert warning(Dequantizer("last_step", 256, 1.0, "centre"), sde, 1.0, False) == ""


# ---- where the flow begins


def plan_of(name, experiment=digits, **changes):
    config = config_of(experiment, **changes)
    model = build_model(config, nn.Identity(), assembly.build_sde(config))
    return build_drawing(config, name, model, DIGITS), model


COSINE = {"sde__schedule": "cosine", "model__prediction": "eps"}


@pytest.mark.parametrize(
    ("name", "changes", "early"),
    [
        ("ode", COSINE, True),
        ("ode", {**COSINE, "model__prediction": "v"}, False),
        ("ode", {**COSINE, "sde__schedule": "linear"}, False),
        ("ddim", COSINE, False),  # its x_0 is clipped
        ("ancestral", COSINE, False),
        ("ddim", {**COSINE, "sampling__clip": False}, True),
        ("dpm", {**COSINE, "sampling__clip": False}, True),
        ("ancestral", {**COSINE, "sampling__clip": False, "sampling__steps": 1000}, True),
        ("ddim", {**COSINE, "sampling__clip": False, "model__prediction": "v"}, False),
    ],
)
def test_samples_begin_where_an_estimate_of_eps_says_something(name, changes, early):
    plan, model = plan_of(name, **changes)
    start = float(plan.times[0])
    assert (start < 1000) == early
    assert plan.process.num_steps == start
    assert model.sde.num_steps == 1000
    if early:
        log_snr = [float(model.sde.log_snr(plan.times.new_tensor(t))) for t in (start, start + 1)]
        assert log_snr[0] >= -5 > log_snr[1]


def test_the_likelihood_of_an_estimate_of_eps_ends_there_and_says_so():
    """A Gaussian whose eps is off by a tenth: from N on that costs more."""
    chain, few = VPSDE.cosine(1000), DIGITS.test[:4, :, 2:4, 2:4]
    data = Data("few", few, few, 17, None, None)
    config = config_of(sde__schedule="cosine", model__prediction="eps")
    exact = GaussianEps(chain, -0.3, 0.6)

    class Off(GaussianEps):
        def forward(self, x, label):
            return 0.9 * super().forward(x, label)

    def bits(network, output="eps"):
        model = model_of(config, data, network)
        model.output = output
        settings = LikelihoodSettings(
            Solver(0, 1e-4, 1e-4), 0, Dequantizer("uniform", 17, 1.0), checked=0
        )
        return measure(model.in_precision("float64"), data, 0, settings)

    class AsV(Off):
        """The same estimate as a v, which is asked from N on."""

        def forward(self, x, label):
            t = label.double() + 1
            alpha, sigma = (z(t).view(-1, 1, 1, 1) for z in (self.sde.alpha, self.sde.sigma))
            return (super().forward(x, label) - sigma * x) / alpha

    truth = bits(exact)
    assert truth.result["t_max"] == 947
    assert 0 < truth.result["error_budget"]["prior_at_most"] < 0.005
    assert f", prior <= {truth.result['error_budget']['prior_at_most']:.4f}" in truth.line
    assert "flow to t = 947 only" in truth.line
    off, whole = bits(Off(chain, -0.3, 0.6)), bits(AsV(chain, -0.3, 0.6), "v")
    assert "t_max" not in whole.result
    assert "prior" not in whole.line
    gap = abs(off.result["value"] - truth.result["value"])
    assert abs(whole.result["value"] - truth.result["value"]) > 1.2 * gap
