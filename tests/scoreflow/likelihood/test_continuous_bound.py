"""The continuous bound and I-MMSE where the density is known."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from scoreflow.likelihood.continuous_bound import (
    Sweep,
    continuous_bound,
    pointwise_immse,
    pointwise_immse_of_levels,
    sweep,
)
from scoreflow.likelihood.discrete_bound import denoising_errors, fixed_variance, terms
from scoreflow.likelihood.gaussian_reference import Reference
from scoreflow.losses.variational import prior_term
from scoreflow.sde import EDMSDE, VESDE, VPSDE, Noise, RectifiedSDE, SubVPSDE
from scoreflow.sde.analytic import GaussianMixture, gaussian

F64 = torch.float64
SDE = VPSDE.log_linear(1000, sigma_min=1e-3, alpha_min=1e-4)  # next to no truncation
SDES = [SDE, VPSDE.cosine(40), SubVPSDE.linear(40), VESDE(40, 0.02, 8.0)]
SDES += [RectifiedSDE(40), EDMSDE(40, 0.02, 8.0)]
MEAN = torch.tensor([0.2, -0.1, 0.3], dtype=F64)
ROOT = torch.tensor([[0.6, 0.0, 0.0], [0.3, 0.4, 0.0], [-0.2, 0.1, 0.2]], dtype=F64)
each_sde = pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)


def normal():
    return gaussian(MEAN, ROOT @ ROOT.T)


def of(distribution):
    variances, axes = torch.linalg.eigh(distribution.covariances[0])
    return Reference(distribution.means[0], axes, variances)


def another():
    return Reference(
        torch.zeros(3).double(), torch.eye(3).double(), torch.full((3,), 0.3).double()
    )


def snr_at(sde, t):
    return sde.log_snr(torch.tensor(float(t), dtype=F64)).exp()


def minus_log_density(truth, x):
    one, zero = torch.ones((), dtype=F64), torch.zeros((), dtype=F64)
    return -truth.log_prob(x, one, zero)


def within(apart, size=3.5):
    """Whether the mean is 0 as far as its scatter tells."""
    return abs(float(apart.mean())) < size * float(apart.std()) / len(apart) ** 0.5


# ---- the integral


@each_sde
@pytest.mark.parametrize("t_min", [0.3, 1.0])
def test_the_integral_is_unbiased(sde, t_min):
    """Of the exact denoiser, beside another Gaussian; its own has it in closed form."""
    noise, truth = Noise.of(0, 0, 1500), normal()
    x_0 = truth.sample(noise)
    found = sweep(truth.denoiser(sde), sde, x_0, noise, t_min, 16, another())
    exact = of(truth).integral(x_0, snr_at(sde, sde.num_steps), snr_at(sde, t_min))
    apart = found.integral - exact
    assert within(apart)
    assert float(apart.std()) / len(x_0) ** 0.5 < 0.05
    itself = sweep(
        truth.denoiser(sde), sde, x_0[:5], noise.rows(torch.arange(5)), t_min, 8, of(truth)
    )
    torch.testing.assert_close(itself.integral, exact[:5], rtol=1e-6, atol=1e-6)


def test_a_reference_that_ends_changes_nothing_but_the_scatter():
    noise, truth = Noise.of(0, 0, 1500), normal()
    x_0, ended = truth.sample(noise), replace(of(truth), until=20.0)
    found = sweep(truth.denoiser(SDE), SDE, x_0, noise, 1.0, 16, ended)
    apart = found.integral - of(truth).integral(x_0, snr_at(SDE, 1000), snr_at(SDE, 1))
    assert within(apart)
    assert 1e-3 < float(apart.std()) / len(x_0) ** 0.5 < 0.2


def test_each_stretch_of_log_snr_is_visited_once():
    seen, truth = [], normal()

    def spy(x_t, t):
        seen.append(t)
        return truth.denoiser(SDE)(x_t, t)

    noise = Noise.of(0, 0, 50)
    sweep(spy, SDE, truth.sample(noise), noise, 1.0, 10, another())
    assert torch.equal(seen[0], torch.ones(50, dtype=F64))
    ends = SDE.log_snr(torch.tensor([1.0, 1000.0], dtype=F64))
    place = (SDE.log_snr(torch.stack(seen[1:])) - ends[0]) / (ends[1] - ends[0]) * 10
    assert torch.equal(place.floor(), torch.arange(10).double()[:, None].expand(10, 50))
    assert float((place % 1).std()) == pytest.approx(12**-0.5, rel=0.1)


def test_where_no_signal_is_left_the_stretches_are_of_log_1_plus_snr():
    """dsnr = (1 + snr) dlog(1 + snr), down to 0: of -2 log sin(phi), in which N is no further."""
    seen, truth, sde = [], normal(), RectifiedSDE(100)

    def spy(x_t, t):
        seen.append(t)
        return truth.denoiser(sde)(x_t, t)

    noise = Noise.of(0, 0, 50)
    sweep(spy, sde, truth.sample(noise), noise, 1.0, 10, another())
    whole = -2 * sde.angle(torch.tensor(1.0, dtype=F64)).sin().log()
    place = 10 * (1 + 2 * sde.angle(torch.stack(seen[1:])).sin().log() / whole)
    assert torch.equal(place.floor(), torch.arange(10).double()[:, None].expand(10, 50))
    assert float((place % 1).std()) == pytest.approx(12**-0.5, rel=0.1)
    assert float(seen[-1].max()) > 85


@pytest.mark.parametrize("t_min", [20.0, 36.0])
def test_the_integral_from_little_signal_to_none(t_min):
    """Where log(1 + snr) is not the log-SNR: from an snr of 1 and of 1/81."""
    noise, truth, sde = Noise.of(0, 0, 1500), normal(), RectifiedSDE(40)
    x_0 = truth.sample(noise)
    found = sweep(truth.denoiser(sde), sde, x_0, noise, t_min, 4, another())
    exact = of(truth).integral(x_0, snr_at(sde, 40), snr_at(sde, t_min))
    assert within(found.integral - exact)
    assert float((found.integral - exact).std()) / 1500**0.5 < 0.02 * float(exact.mean())


# ---- the bound


@each_sde
def test_the_continuous_bound_of_a_gaussian_is_its_entropy_and_two_known_gaps(sde):
    """Everything is a quadratic: six points of the right moments give its expectation."""
    truth, t_min = normal(), 1.0
    x_0 = MEAN + math.sqrt(3) * torch.cat([ROOT.T, -ROOT.T])
    noise = Noise.of(0, 0, 6)
    parts = continuous_bound(sweep(truth.denoiser(sde), sde, x_0, noise, t_min, 4, of(truth)), sde)
    found = float(sum(parts.values()).mean())
    variances, snr = of(truth).variances, snr_at(sde, t_min)
    entropy = 0.5 * float((2 * math.pi * math.e * variances).log().sum())
    kept = snr / (1 / variances + snr)  # posterior variance over the decoder's
    of_decoder = 0.5 * float((kept - 1 - kept.log()).sum())
    end = torch.tensor(float(sde.num_steps), dtype=F64)
    marginal = torch.distributions.MultivariateNormal(
        sde.alpha(end) * MEAN,
        sde.alpha(end) ** 2 * ROOT @ ROOT.T + sde.variance(end) * torch.eye(3),
    )
    prior = torch.distributions.MultivariateNormal(
        torch.zeros(3).double(), sde.prior_std() ** 2 * torch.eye(3).double()
    )
    of_prior = float(torch.distributions.kl_divergence(marginal, prior))
    assert found == pytest.approx(entropy + of_decoder + of_prior, rel=1e-6)
    assert of_decoder > 0
    assert torch.equal(parts["L_T"], prior_term(sde, x_0))


def test_the_discrete_bound_comes_down_to_it_as_the_stride():
    """Its steps on one path, 64, 128, 256 and 512 of them: the gap halves each time."""
    truth, gaps = normal(), []
    x_0 = MEAN + math.sqrt(3) * torch.cat([ROOT.T, -ROOT.T])
    for steps in (65, 129, 257, 513):
        sde, noise = VPSDE.log_linear(steps, 0.02, 0.02), Noise.of(0, 0, 6)
        found = denoising_errors(truth.denoiser(sde), sde, x_0, noise, steps - 1, of(truth))
        by_steps = terms(found, sde, fixed_variance(sde, "posterior"), of(truth))[:, 1:].sum(1)
        limit = sweep(truth.denoiser(sde), sde, x_0, noise, 1.0, 1, of(truth)).integral
        gaps.append(float((by_steps - limit).mean()))
    assert gaps[0] > 0
    ratios = [a / b for a, b in pairwise(gaps)]
    assert ratios == pytest.approx([2, 2, 2], rel=0.05)


# ---- I-MMSE


def test_immse_turns_one_gaussians_density_into_anothers():
    """With the exact integral it is an identity, point by point, but for the truncation."""
    truth, reference = normal(), another()
    x_0 = truth.sample(Noise.of(0, 0, 20))
    start = torch.tensor(1.0, dtype=F64)
    exact = of(truth).integral(x_0, snr_at(SDE, 1000), snr_at(SDE, 1))
    found = pointwise_immse(Sweep(x_0, start, exact, x_0, exact), SDE, reference)
    torch.testing.assert_close(found, of(truth).negative_log_density(x_0), rtol=0, atol=2e-4)


def two_modes():
    means = torch.tensor([[0.6, -0.3], [-0.4, 0.2]], dtype=F64)
    covariances = torch.tensor([[[0.04, 0.02], [0.02, 0.05]], [[0.09, 0.0], [0.0, 0.02]]])
    return GaussianMixture(torch.tensor([0.4, 0.6], dtype=F64), means, covariances)


def test_immse_is_the_density_of_a_mixture():
    truth, noise = two_modes(), Noise.of(0, 0, 2000)
    x_0 = truth.sample(noise)
    reference = Reference.fit(truth.sample(Noise.of(7, 0, 1000)), 0.0)
    found = sweep(truth.denoiser(SDE), SDE, x_0, noise, 1.0, 32, reference)
    apart = pointwise_immse(found, SDE, reference) - minus_log_density(truth, x_0)
    assert within(apart)
    assert float(apart.std()) / 2000**0.5 < 0.02
    bound = sum(continuous_bound(found, SDE).values()) - minus_log_density(truth, x_0)
    assert -3.5 * float(bound.std()) / 2000**0.5 < float(bound.mean()) < 0.1


def test_immse_at_a_point_is_the_density_there():
    """Many draws of one improbable point: pointwise, not only in the mean."""
    truth, noise = two_modes(), Noise.of(1, 0, 3000)
    x_0 = torch.tensor([[0.3, 0.2]], dtype=F64).expand(3000, 2)
    reference = Reference.fit(truth.sample(Noise.of(7, 0, 1000)), 0.0)
    found = sweep(truth.denoiser(SDE), SDE, x_0, noise, 1.0, 16, reference)
    apart = pointwise_immse(found, SDE, reference) - minus_log_density(truth, x_0)
    assert within(apart)
    assert float(apart.std()) / 3000**0.5 < 0.03


def test_immse_of_levels_is_their_probability():
    """Three points of the plane: each level's -log P from its own draws."""
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=F64)
    points = torch.tensor([[-0.5, 0.5], [0.0, -0.5], [0.5, 0.5]], dtype=F64)
    truth = GaussianMixture(weights, points, torch.zeros(3, 2, 2, dtype=F64))
    reference = replace(Reference.fit(points, 0.0), until=4.0)
    for k in range(3):
        noise = Noise.of(k, 0, 2000)
        x_0 = points[k].expand(2000, 2)
        found = sweep(truth.denoiser(SDE), SDE, x_0, noise, 1.0, 64, reference)
        nats = pointwise_immse_of_levels(found, SDE, reference)
        assert within(nats + weights[k].log())
        assert float(nats.std()) / 2000**0.5 < 0.04


def test_below_the_least_snr_the_reference_stands_in():
    """The integrals of a process that ends early, and of what lies below its end, add up."""
    sde, reference, x_0 = VESDE(40, 0.02, 2.0), another(), normal().sample(Noise.of(0, 0, 5))
    low, high = snr_at(sde, 40), snr_at(sde, 1)
    found = Sweep(
        x_0, torch.tensor(1.0, dtype=F64), reference.integral(x_0, low, high), x_0, x_0[:, 0]
    )
    expected = reference.integral(x_0, 0 * low, high)
    torch.testing.assert_close(pointwise_immse_of_levels(found, sde, reference), expected)
    assert (expected - found.integral > 0.01).all()
