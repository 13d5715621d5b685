"""The variational bound on Gaussian data, where every term is a closed form."""

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
import torch
from torch.distributions import Normal, kl_divergence

from scoreflow.losses import variational
from scoreflow.losses.decoder import decoder_term
from scoreflow.samplers import Ancestral, Step
from scoreflow.samplers.reverse_variance import reverse_variance
from scoreflow.sde import SDE, VESDE, VPSDE, Noise, Stream, SubVPSDE
from scoreflow.sde.base import broadcast
from scoreflow.sde.prediction import predict

SPREAD = 0.6  # the data are N(0, SPREAD^2)
SDES: list[SDE] = [VPSDE.linear(40), VPSDE.cosine(40), SubVPSDE.linear(40), VESDE(40, 0.02, 8.0)]


def exact(sde):
    """The best denoiser of N(0, SPREAD^2) data."""

    def denoise(x_t, t):
        alpha, variance = sde.alpha(t), sde.variance(t)
        gain = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + variance)
        return predict(sde, x_t, t, "x_0", broadcast(gain, x_t) * x_t)

    return denoise


def nodes(count=24):
    """x_0 and eps with Gauss-Hermite weights: means over them are exact for polynomials."""
    z, weight = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(count))
    weight = weight / weight.sum()
    x_0, eps = torch.meshgrid(SPREAD * z, z, indexing="ij")
    return x_0.reshape(-1, 1), eps.reshape(-1, 1), torch.outer(weight, weight).flatten()


def expected_term(sde, t, s, variance):
    x_0, eps, weight = nodes()
    prediction = exact(sde)(sde.perturb(x_0, t, eps), t)
    return float(weight @ variational.term(prediction, sde, x_0, t, s, variance))


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_terms_are_kl_divergences(sde, variance):
    """Against torch.distributions, value by value."""
    noise = Noise.of(0, 0, 30)
    t = 2 + 38 * noise.uniform(Stream.TRAIN_TIME)
    s = t * (0.05 + 0.9 * noise.uniform(Stream.DATA))
    x_0 = SPREAD * noise.normal(Stream.DATA, (3,), draw=1)
    x_t = sde.perturb(x_0, t, noise.normal(Stream.TRAIN_EPS, (3,)))
    prediction = exact(sde)(x_t, t)
    q_mean, q_std = sde.posterior(x_t, x_0, t, s)
    p_mean, _ = sde.posterior(x_t, prediction.x_0, t, s)
    w = sde.variance(t) - (sde.alpha(t) / sde.alpha(s)) ** 2 * sde.variance(s)
    p_std = w.sqrt() if variance == "beta" else q_std
    kl = kl_divergence(Normal(q_mean, q_std[:, None]), Normal(p_mean, p_std[:, None])).sum(1)
    found = variational.term(prediction, sde, x_0, t, s, variance)
    torch.testing.assert_close(found, kl, rtol=1e-7, atol=1e-10)


def test_the_last_term_is_a_negative_log_density():
    sde = VPSDE.linear(40)
    x_0 = torch.tensor([[0.3, -0.4]], dtype=torch.float64)
    t, s = torch.tensor([1.0], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    prediction = predict(sde, sde.perturb(x_0, t, torch.ones_like(x_0)), t, "x_0", x_0 + 0.01)
    for variance, v in (
        ("beta", sde.betas[0]),
        ("posterior", sde.betas[1] * sde.betas[0] / (1 - (1 - sde.betas[0]) * (1 - sde.betas[1]))),
    ):
        expected = -Normal(x_0 + 0.01, v.sqrt()).log_prob(x_0).sum(1)
        torch.testing.assert_close(
            variational.term(prediction, sde, x_0, t, s, variance), expected
        )


def test_prior_term_is_a_kl_divergence():
    for sde in SDES:
        x_0 = torch.tensor([[0.3, -0.4], [2.0, 0.0]], dtype=torch.float64)
        end = torch.tensor(40.0, dtype=torch.float64)
        q = Normal(sde.alpha(end) * x_0, sde.sigma(end))
        p = Normal(torch.zeros(2).double(), sde.prior_std())
        torch.testing.assert_close(variational.prior_term(sde, x_0), kl_divergence(q, p).sum(1))


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
def test_the_whole_bound_is_above_the_entropy_and_comes_down_to_it(sde):
    """With the exact denoiser and finer grids, to within what t_1 > 0 and the prior cost."""
    x_0, _, weight = nodes()
    entropy = 0.5 * math.log(2 * math.pi * math.e * SPREAD**2)
    gaps = []
    for count in (10, 40, 160):
        times = torch.linspace(40, 0, count + 1, dtype=torch.float64)
        total = float(weight @ variational.prior_term(sde, x_0))
        total += sum(expected_term(sde, t, s, "beta") for t, s in pairwise(times))
        gaps.append(total - entropy)
    assert gaps[0] > gaps[1] > gaps[2] > 0, gaps


def test_steps_with_the_optimal_variance_lose_nothing_on_a_gaussian():
    """p(x_s | x_t) is then Gaussian with variance between the two that are fixed."""
    sde = SDES[0]
    t, s = torch.tensor([20.0, 18.0], dtype=torch.float64)
    x = torch.zeros(1, 1, dtype=torch.float64)
    prediction = predict(sde, x, t, "x_0", x)
    low, high = (float(reverse_variance(prediction, sde, t, s, k)) for k in ("posterior", "beta"))
    a, w = sde.transition(s, t)
    marginal = sde.alpha(s) ** 2 * SPREAD**2 + sde.variance(s)
    best = float(1 / (1 / marginal + a**2 / w))
    assert low < best < high
    fraction = (math.log(best) - math.log(low)) / (math.log(high) - math.log(low))
    learned = predict(sde, x, t, "x_0", x, torch.full_like(x, fraction))
    assert float(reverse_variance(learned, sde, t, s, "learned")) == pytest.approx(best)
    costs = {}
    x_0, eps, weight = nodes()
    for name in ("posterior", "beta", "learned"):
        prediction = exact(sde)(sde.perturb(x_0, t, eps), t)
        prediction = predict(
            sde, prediction.x_t, t, "x_0", prediction.x_0, torch.full_like(x_0, fraction)
        )
        costs[name] = float(weight @ variational.term(prediction, sde, x_0, t, s, name))
    assert costs["learned"] < min(costs["posterior"], costs["beta"])


@pytest.mark.parametrize(("fraction", "name"), [(0.0, "posterior"), (1.0, "beta")])
def test_learned_variances_end_at_the_fixed_ones(fraction, name):
    sde = SDES[0]
    t = torch.tensor([40.0, 20.0, 1.0], dtype=torch.float64)
    s = torch.tensor([0.0, 15.0, 0.0], dtype=torch.float64)
    x = torch.zeros(3, 2, dtype=torch.float64)
    prediction = predict(sde, x, t, "x_0", x, torch.full_like(x, fraction))
    fixed = reverse_variance(prediction, sde, t, s, name).expand_as(x)
    learned = reverse_variance(prediction, sde, t, s, "learned")
    torch.testing.assert_close(learned, fixed)
    assert (learned > 0).all()


def test_a_denoiser_without_a_variance_says_so():
    sde, x = SDES[0], torch.zeros(1, 2, dtype=torch.float64)
    t = torch.tensor([20.0], dtype=torch.float64)
    with pytest.raises(ValueError, match="no learned variance"):
        Ancestral("learned").step(x, Step(exact(sde), sde, t[0], t[0] - 1, Noise.of(0, 0, 1)))


def test_the_mean_is_held_and_the_variance_learns():
    sde, t = SDES[0], torch.tensor([20.0], dtype=torch.float64)
    x_0 = torch.tensor([[0.3]], dtype=torch.float64)
    x_t = sde.perturb(x_0, t, torch.ones_like(x_0))
    value = torch.zeros_like(x_0, requires_grad=True)
    fraction = torch.full_like(x_0, 0.5).requires_grad_()
    held = variational.with_mean_held(predict(sde, x_t, t, "eps", value, fraction))
    variational.term(held, sde, x_0, t, t - 1, "learned").sum().backward()
    assert value.grad is None
    assert float(fraction.grad.abs()) > 0


@pytest.mark.parametrize("strata", [3, 39])
def test_the_estimate_is_that_of_all_steps(strata):
    """Within 4 standard errors of the expectation by quadrature; all steps are visited."""
    sde, size, seen = SDES[0], 4000, set()
    noise = Noise.of(0, 0, size)
    x_0 = SPREAD * noise.normal(Stream.DATA, (1,))

    def denoiser(x_t, t):
        seen.update(t.tolist())
        return exact(sde)(x_t, t)

    found = variational.estimate(denoiser, sde, x_0, noise, strata, "beta")
    nodes_x, _, weight = nodes()
    times = torch.arange(40, -1, -1, dtype=torch.float64)
    total = float(weight @ variational.prior_term(sde, nodes_x))
    total += sum(expected_term(sde, t, s, "beta") for t, s in pairwise(times))
    assert abs(float(found.mean()) - total) < 4 * float(found.std()) / size**0.5
    assert seen == set(range(1, 41))


@pytest.mark.parametrize("strata", [0, 40])
def test_impossible_strata_are_refused(strata):
    x_0 = torch.zeros(1, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"strata must lie in 1\.\.39"):
        variational.estimate(exact(SDES[0]), SDES[0], x_0, Noise.of(0, 0, 1), strata, "beta")


# ---- the decoder of integers


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("std", [1e-3, 0.1, 3.0])
def test_the_decoders_probabilities_sum_to_one(levels, std):
    """Of every level, 8-bit as they are stored, for estimates inside and outside [-1, 1]."""
    k = torch.arange(levels, dtype=torch.uint8)[:, None]
    for x in (-1.7, -0.3, 0.0, 0.997, 1.2):
        x_0 = torch.full((levels, 1), x, dtype=torch.float64)
        variance = torch.full((levels,), std**2, dtype=torch.float64)
        p = (-decoder_term(x_0, k, levels, variance)).exp()
        assert float(p.sum()) == pytest.approx(1, abs=1e-12)
        assert (p >= 0).all()


def test_the_decoder_is_a_difference_of_distribution_functions():
    x_0 = torch.tensor([[0.05, -0.9, 0.8]], dtype=torch.float64)
    k = torch.tensor([[8, 0, 15]])  # of 17 levels: bins of width 2 / 17 from -1 on
    std = 0.07

    def below(edge, x):
        return scipy.stats.norm.cdf((edge - x) / std)

    expected = -math.log(below(1 / 17, 0.05) - below(-1 / 17, 0.05))
    expected -= math.log(below(-15 / 17, -0.9))
    expected -= math.log(below(15 / 17, 0.8) - below(13 / 17, 0.8))
    found = decoder_term(x_0, k, 17, torch.tensor(std**2, dtype=torch.float64))
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_the_decoder_keeps_its_digits_in_the_tails():
    """Bins hundreds of standard deviations away: the nearer edge says it all; mirror images."""
    variance = torch.tensor(1e-6, dtype=torch.float64)
    x_0 = torch.tensor([[-0.5], [0.5]], dtype=torch.float64)
    k = torch.tensor([[200], [55]])
    found = decoder_term(x_0, k, 256, variance)
    edge = (2 * 200 / 256 - 1 + 0.5) / 1e-3
    expected = -float(scipy.stats.norm.logsf(edge))
    torch.testing.assert_close(found, torch.full_like(found, expected), rtol=1e-10, atol=0)


@pytest.mark.parametrize("strata", [1, 5, 7, 39])
def test_strata_cut_all_later_times_into_equal_stretches(strata):
    stretches = variational.strata_of(SDES[0], strata)
    assert [t for stretch in stretches for t in stretch] == list(range(2, 41))
    lengths = [len(stretch) for stretch in stretches]
    assert max(lengths) - min(lengths) <= 1
