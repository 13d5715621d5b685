"""The walk on Gaussian data, where a handful of points stands for every expectation exactly."""

import math

import pytest
import scipy.integrate
import torch

from scoreflow.likelihood.discrete_bound import (
    denoising_errors,
    fixed_variance,
    optimal_variance,
    terms,
)
from scoreflow.likelihood.gaussian_reference import Reference, errors_at
from scoreflow.losses import variational
from scoreflow.losses.variational import strata_of, time_within
from scoreflow.samplers.reverse_variance import optimal_variance as reverse_optimum
from scoreflow.sde import EDMSDE, VESDE, VPSDE, Noise, RectifiedSDE, Stream, SubVPSDE
from scoreflow.sde.analytic import GaussianMixture, gaussian
from scoreflow.sde.base import broadcast

F64 = torch.float64
SDES = [VPSDE.linear(40), VPSDE.cosine(40), SubVPSDE.linear(40), VESDE(40, 0.02, 8.0)]
SDES += [RectifiedSDE(40), EDMSDE(40, 0.02, 8.0)]
MEAN = torch.tensor([0.2, -0.1, 0.3], dtype=F64)
ROOT = torch.tensor([[0.6, 0.0, 0.0], [0.3, 0.4, 0.0], [-0.2, 0.1, 0.2]], dtype=F64)
each_sde = pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)


def normal():
    return gaussian(MEAN, ROOT @ ROOT.T)


def other():
    return gaussian(torch.zeros(3, dtype=F64), torch.diag(torch.tensor([0.5, 0.2, 0.1])).double())


def reference_of(distribution):
    variances, axes = torch.linalg.eigh(distribution.covariances[0])
    return Reference(distribution.means[0], axes, variances)


def signs(dims):
    """2 D points of mean 0 and covariance I: over them a quadratic has its normal expectation."""
    return math.sqrt(dims) * torch.cat([torch.eye(dims), -torch.eye(dims)]).double()


def every_draw(x_0, inject):
    """Each datum with each of the sign points as its eps, and the noise that says so."""
    eps = signs(x_0.shape[1])
    rows = x_0.repeat_interleave(len(eps), 0)
    return rows, inject(len(rows), {(Stream.TRAIN_EPS, 0): eps.repeat(len(x_0), 1)})


def data():
    """Six points of the normal's mean and covariance."""
    return MEAN + signs(3) @ ROOT.T


# ---- the reference


@each_sde
def test_the_reference_errs_as_the_exact_denoiser_of_its_gaussian(sde):
    noise = Noise.of(0, 0, 20)
    x_0, t = other().sample(noise), 1 + 39 * noise.uniform(Stream.TRAIN_TIME)
    found = errors_at(normal().denoiser(sde), sde, x_0, t, noise, reference_of(normal()))
    torch.testing.assert_close(found.of_reference, found.square, rtol=1e-6, atol=1e-12)


@each_sde
def test_expected_errors_are_the_means_over_eps(sde, inject):
    x_0, reference = other().sample(Noise.of(0, 0, 5)), reference_of(normal())
    t = torch.tensor([1.0, 7.0, 30.0, 31.0], dtype=F64)
    weight = torch.tensor([2.0, 0.5, 3.0, 1.0], dtype=F64)
    rows, noise = every_draw(x_0, inject)
    errors = [
        errors_at(normal().denoiser(sde), sde, rows, each.expand(len(rows)), noise, reference)
        for each in t
    ]
    means = torch.stack([e.square.view(5, -1).mean(1) for e in errors], 1) * weight
    found = reference.expected_sums(x_0, sde.log_snr(t).exp(), weight, [1, 3])
    expected = torch.stack([means[:, 0], means[:, 1:].sum(1)], 1)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-10)


def test_the_integral_by_quadrature():
    reference, x_0 = reference_of(normal()), other().sample(Noise.of(0, 0, 3))
    low, high = torch.tensor([1e-3, 300.0], dtype=F64)
    found = reference.integral(x_0, low, high)

    def integrand(log_snr, row):
        snr = torch.tensor([math.exp(log_snr)], dtype=F64)
        return float(reference.expected_sums(x_0, snr, snr, [1])[row, 0]) / 2

    for row in range(3):
        by_steps, _ = scipy.integrate.quad(integrand, math.log(1e-3), math.log(300), args=(row,))
        assert float(found[row]) == pytest.approx(by_steps, rel=1e-9)


def test_the_reference_has_the_moments_of_its_points_and_the_density():
    x = torch.cat([data(), data()])
    added = 0.01 * torch.eye(3, dtype=F64)
    normal = torch.distributions.MultivariateNormal(MEAN, ROOT @ ROOT.T + added)
    found = Reference.fit(x.float().view(-1, 1, 3, 1), 0.01).negative_log_density(x[:, None])
    torch.testing.assert_close(found, -normal.log_prob(x), rtol=1e-5, atol=1e-5)


# ---- the terms


@each_sde
@pytest.mark.parametrize("variance", ["beta", "posterior"])
@pytest.mark.parametrize("truth", [normal, other], ids=["same", "another"])
def test_terms_are_those_of_the_bound(sde, variance, truth, inject):
    """Whatever the reference: with all times visited and eps averaged over, t by t."""
    x_0 = truth().sample(Noise.of(0, 0, 4))
    rows, noise = every_draw(x_0, inject)
    found = denoising_errors(normal().denoiser(sde), sde, rows, noise, 39, reference_of(truth()))
    assert found.times[0].tolist() == list(range(1, 41))
    here = terms(found, sde, fixed_variance(sde, variance), reference_of(truth()))
    for k in range(40):
        t, eps = torch.tensor(float(k + 1), dtype=F64), noise.normals[Stream.TRAIN_EPS, 0]
        prediction = normal().denoiser(sde)(sde.perturb(rows, t, eps), t)
        expected = variational.term(prediction, sde, rows, t, t - 1, variance)
        torch.testing.assert_close(
            here[:, k].view(4, -1).mean(1), expected.view(4, -1).mean(1), rtol=1e-7, atol=1e-9
        )


def mixture():
    means = torch.tensor([[0.6, -0.3], [-0.4, 0.2]], dtype=F64)
    covariances = torch.tensor([[[0.04, 0.02], [0.02, 0.05]], [[0.09, 0.0], [0.0, 0.02]]])
    return GaussianMixture(torch.tensor([0.4, 0.6], dtype=F64), means, covariances)


def scattered(strata, reference, size=2000, seed=0):
    """Of mixture data: the bound but for L_T, and the times that were visited."""
    sde, noise = SDES[0], Noise.of(seed, 0, size)
    found = denoising_errors(
        mixture().denoiser(sde), sde, mixture().sample(noise), noise, strata, reference
    )
    return terms(found, sde, fixed_variance(sde, "beta"), reference).sum(1), found


def test_strata_are_unbiased_for_the_full_walk():
    reference = Reference.fit(mixture().sample(Noise.of(1, 0, 500)), 0.0)
    few, found = scattered(5, reference)
    full, _ = scattered(39, reference)
    apart = few - full
    assert abs(float(apart.mean())) < 3.5 * float(apart.std()) / 2000**0.5
    assert float(apart.std()) / 2000**0.5 < 0.05
    assert set(found.times.flatten().tolist()) == set(range(1, 41))
    for k, stretch in enumerate(found.stretches):
        assert set(found.times[:, k].tolist()) <= {float(t) for t in stretch}


def test_the_reference_changes_the_scatter_and_not_the_mean():
    """A Gaussian of no variance always answers its mean: it takes nothing away."""
    good = Reference.fit(mixture().sample(Noise.of(1, 0, 500)), 0.0)
    none = Reference(torch.zeros(2).double(), torch.eye(2).double(), torch.zeros(2).double())
    with_it, without = scattered(39, good)[0], scattered(39, none)[0]  # the same x_t
    apart = with_it - without
    assert abs(float(apart.mean())) < 3.5 * float(apart.std()) / 2000**0.5
    assert float(apart.std()) / 2000**0.5 < 0.1
    assert float(with_it.std()) < 0.7 * float(without.std())


@each_sde
def test_rows_do_not_know_of_each_other(sde, elementwise):
    reference, noise = reference_of(normal()), Noise.of(3, 0, 10)
    x_0 = normal().sample(noise)
    together = denoising_errors(elementwise(sde), sde, x_0, noise, 6, reference)
    alone = denoising_errors(elementwise(sde), sde, x_0[4:5], Noise.of(3, 4, 5), 6, reference)
    assert torch.equal(alone.times, together.times[4:5])
    assert torch.equal(alone.squares, together.squares[4:5])
    torch.testing.assert_close(alone.of_reference, together.of_reference[4:5])


def test_walks_from_other_steps_have_other_noise(elementwise):
    sde, reference, noise = SDES[0], reference_of(normal()), Noise.of(3, 0, 10)
    x_0 = normal().sample(noise)
    one, other = (
        denoising_errors(elementwise(sde), sde, x_0, noise.at(step), 6, reference)
        for step in (0, 50)
    )
    assert not (one.squares == other.squares).any()
    assert not torch.equal(one.times, other.times)


# ---- the optimal variance


def exhaustive(sde, inject):
    """A walk that has the expectations over normal data and eps exactly."""
    rows, noise = every_draw(data(), inject)
    return denoising_errors(normal().denoiser(sde), sde, rows, noise, 39, reference_of(normal()))


@each_sde
def test_the_optimal_variance_of_one_dimension_is_the_reverse_transitions(sde, inject):
    """For Gaussian data p(x_s | x_t) is Gaussian, by Bayes' rule."""
    truth = gaussian(torch.zeros(1), torch.full((1, 1), 0.36))
    rows, noise = every_draw(0.6 * signs(1), inject)
    found = denoising_errors(truth.denoiser(sde), sde, rows, noise, 39, reference_of(truth))
    t = torch.arange(1, 41, dtype=F64)
    a, w = sde.transition(t - 1, t)
    marginal = sde.alpha(t - 1) ** 2 * 0.36 + sde.variance(t - 1)
    p = optimal_variance(found.times, found.squares, sde, 1)
    torch.testing.assert_close(p, 1 / (1 / marginal + a**2 / w), rtol=1e-5, atol=1e-12)


@each_sde
def test_the_optimal_variance_makes_every_term_least(sde, inject):
    found = exhaustive(sde, inject)
    best = optimal_variance(found.times, found.squares, sde, 3)

    def cost(p):
        return terms(found, sde, p, reference_of(normal())).mean(0)

    for p in (
        fixed_variance(sde, "beta"),
        fixed_variance(sde, "posterior"),
        0.9 * best,
        1.1 * best,
    ):
        assert (cost(best) < cost(p) + 1e-12).all()
        assert float(cost(best).sum()) < float(cost(p).sum())


SCALES = torch.tensor([1.0, 0.09, 0.0009], dtype=F64)


@pytest.mark.parametrize("strata", [4, 16, 64])
@pytest.mark.parametrize(
    "sde",
    [
        VPSDE.cosine(1000),
        VPSDE.linear(1000),
        SubVPSDE.cosine(1000),
        VESDE(1000),
        RectifiedSDE(1000),
        EDMSDE(1000),
    ],
    ids=["cosine", "linear", "subvp", "ve", "rectified", "edm"],
)
def test_few_stretches_find_the_optimum_on_any_schedule(sde, strata):
    """Data of three scales: the bound exceeds that of the true errors by 0.001 bits/dim at most.

    (0.01 of 4 stretches, and 0.003 of 16 on the straight path, the first of which spans 7 units of
    log-SNR. In units of snr u, linear in t, 4 and 16 cost 1.4 and 0.16 under the
    cosine schedule.)
    """

    def mean_square(t):
        return (SCALES / (1 + sde.log_snr(t).exp()[..., None] * SCALES)).mean(-1)

    noise, stretches = Noise.of(0, 0, 500), [range(1, 2), *strata_of(sde, strata)]
    times = torch.stack([time_within(s, noise.at(k)) for k, s in enumerate(stretches)], 1)
    found = optimal_variance(times, 7 * mean_square(times), sde, 7)
    t = torch.arange(1, 1001, dtype=F64)
    best = reverse_optimum(sde, t, t - 1, sde.log_snr(t).exp() * mean_square(t))
    if not bool(sde.alpha(t[-1]) > 0):  # x_999 given noise alone: its own variance
        last = sde.alpha(t[-2]) ** 2 * SCALES.mean() + sde.variance(t[-2])
        best[-1] = last
    excess = 0.5 * float(((found / best).log() + best / found - 1).sum()) / math.log(2)
    straight = isinstance(sde, RectifiedSDE)
    assert -1e-9 < excess < {4: 0.01, 16: 0.003 if straight else 0.001, 64: 0.001}[strata]


def test_with_an_exact_network_it_is_that_of_analytic_dpm():
    """Bao et al. 2022, Theorem 1, in their letters: alpha_n = 1 - beta_n, their bar products."""
    sde, size, truth = SDES[0], 4000, mixture()
    noise = Noise.of(0, 0, size)
    x_0 = truth.sample(noise)
    reference = Reference.fit(x_0, 0.0)
    found = denoising_errors(truth.denoiser(sde), sde, x_0, noise, 39, reference)
    ours = optimal_variance(found.times, found.squares, sde, 2)
    alpha_bar = torch.cumprod(1 - sde.betas, 0)
    for n in (2, 10, 20, 35, 40):
        t = torch.full((size,), float(n), dtype=F64)
        eps = noise.at(n - 1).normal(Stream.TRAIN_EPS, (2,))
        estimate = truth.denoiser(sde)(sde.perturb(x_0, t, eps), t).eps
        beta_bar, before = 1 - alpha_bar[n - 1], 1 - alpha_bar[n - 2]
        posterior = before / beta_bar * sde.betas[n - 1]
        slope = (beta_bar / (1 - sde.betas[n - 1])).sqrt() - (before - posterior).sqrt()
        unknown = 1 - estimate.square().mean(1)  # beta_bar |score|^2 / d = |eps estimate|^2 / d
        theirs = posterior + slope**2 * unknown.mean()
        scale = broadcast(sde.variance(t) / sde.alpha(t) ** 2, x_0)[:, 0]
        apart = slope**2 * (found.squares[:, n - 1] / scale / 2 - unknown)
        assert abs(float(ours[n - 1] - theirs)) < 3.5 * float(apart.std()) / size**0.5
        assert float(ours[n - 1] - theirs) == pytest.approx(float(apart.mean()), abs=1e-12)
