"""The ground truth itself: against quadrature, torch.distributions, autograd, 200 digits."""

import functools
import math

import mpmath
import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from scoreflow.sde.analytic import GaussianMixture, LevelGrid, gaussian
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.processes.rectified import RectifiedSDE
from scoreflow.sde.processes.vp import VPSDE

float64 = functools.partial(torch.tensor, dtype=torch.float64)


def line_mixture() -> GaussianMixture:
    weights = float64([0.3, 0.7])
    return GaussianMixture(weights, float64([[-1.0], [0.8]]), float64([[[0.3]], [[0.02]]]))


def levels(dim: int = 1) -> LevelGrid:
    return LevelGrid(float64([0.5, 0.1, 0.05, 0.35]), dim)


LINES = {"mixture": line_mixture, "levels": levels}
SCALES = [(1.0, 0.01), (0.9, 0.2), (0.3, 0.95), (0.005, 1.0), (1.0, 3.0)]


@functools.cache
def legendre() -> tuple[Tensor, Tensor]:
    return tuple(torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(200))


def data_density(name: str) -> tuple[Tensor, Tensor]:
    """Nodes u and weights p_0(u) du of a quadrature of the datum, written independently."""
    nodes, weights = legendre()
    if name == "levels":
        p = float64([0.5, 0.1, 0.05, 0.35])
        u = torch.cat([-0.75 + 0.5 * k + nodes / 4 for k in range(4)])
        return u, torch.cat([p_k * weights / 2 for p_k in p])
    u = torch.cat([-1 + 6 * nodes, 0.8 + 2 * nodes])
    normal = torch.cat([
        0.3 * 6 * weights * torch.exp(-((6 * nodes) ** 2) / 0.6) / math.sqrt(0.6 * math.pi),
        0.7 * 2 * weights * torch.exp(-((2 * nodes) ** 2) / 0.04) / math.sqrt(0.04 * math.pi),
    ])  # fmt: skip
    return u, normal


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize(("alpha", "sigma"), SCALES)
def test_density_is_normalised(name, alpha, sigma):
    reach = 5 * alpha + 10 * sigma
    x = torch.linspace(-reach, reach, 20_001, dtype=torch.float64)
    density = LINES[name]().log_prob(x[:, None], float64(alpha), float64(sigma)).exp()
    assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize(("alpha", "sigma"), [(1.0, 0.15), *SCALES[1:]])
def test_marginal_is_the_convolution(name, alpha, sigma):
    """The density, its gradient and the posterior mean of the datum, by quadrature."""
    u, weight = data_density(name)
    assert weight.sum().item() == pytest.approx(1, abs=1e-12)
    x = torch.linspace(-2, 2, 41, dtype=torch.float64)
    z = (x[:, None] - alpha * u) / sigma
    joint = weight * torch.exp(-0.5 * z**2) / (sigma * math.sqrt(2 * math.pi))
    p = joint.sum(1)

    distribution = LINES[name]()
    log_p = distribution.log_prob(x[:, None], float64(alpha), float64(sigma))
    torch.testing.assert_close(log_p.exp(), p, rtol=1e-8, atol=1e-13)
    score = distribution.score(x[:, None], float64(alpha), float64(sigma))[:, 0]
    kept = p > 1e-6
    expected = -(joint * z / sigma).sum(1) / p
    torch.testing.assert_close(score[kept], expected[kept], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("time", [20.0, 60.0, 150.0, 200.0])
def test_denoiser_returns_the_posterior_mean(name, time):
    sde = VPSDE.linear(200)
    t = float64(time)
    u, weight = data_density(name)
    x = torch.linspace(-1.2, 1.2, 25, dtype=torch.float64)
    z = (x[:, None] - sde.alpha(t) * u) / sde.sigma(t)
    posterior = weight * torch.exp(-0.5 * z**2)
    expected = (posterior * u).sum(1) / posterior.sum(1)
    # the mean is x_t / alpha plus a difference: its rounding grows by 1 / alpha
    x_0 = LINES[name]().denoiser(sde)(x[:, None], t).x_0[:, 0]
    torch.testing.assert_close(x_0, expected, rtol=0, atol=1e-9)


def test_mixture_equals_torch_distributions(mixture):
    alpha, sigma = float64(0.6), float64(0.7)
    covariance = alpha**2 * mixture.covariances + sigma**2 * torch.eye(2, dtype=torch.float64)
    components = MultivariateNormal(alpha * mixture.means, covariance)
    expected = MixtureSameFamily(Categorical(mixture.weights), components)
    x = 3 * Noise.of(0, 0, 200).normal(Stream.DATA, (2,))
    log_prob = mixture.log_prob(x, alpha, sigma)
    torch.testing.assert_close(log_prob, expected.log_prob(x), rtol=1e-12, atol=1e-12)


def test_the_posterior_of_a_component_is_bayes_rule(mixture):
    """Scales of each sample its own, also far out, where every density is 0 to rounding."""
    x = torch.cat([3 * Noise.of(0, 0, 60).normal(Stream.DATA, (2,)), float64([[80.0, -90.0]])])
    alpha, sigma = torch.linspace(1, 0.01, 61).double(), torch.linspace(0.05, 1, 61).double()
    joint = [
        weight.log() + mixture.component(k).log_prob(x, alpha, sigma)
        for k, weight in enumerate(mixture.weights)
    ]
    log_posterior = mixture.log_posterior(x, alpha, sigma)
    together = log_posterior + mixture.log_prob(x, alpha, sigma)[:, None]
    torch.testing.assert_close(together, torch.stack(joint, 1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(log_posterior.exp().sum(1), torch.ones(61).double())


@pytest.mark.parametrize("sigma", [1e-4, 1e-2, 0.5, 1.0])
@pytest.mark.parametrize("name", ["mixture", "levels"])
def test_score_is_the_gradient(name, sigma, mixture):
    """Also where no datum is: scores of 1e9, and not one nan."""
    distribution = mixture if name == "mixture" else levels(2)
    near = Noise.of(0, 0, 50).normal(Stream.DATA, (2,))
    far = float64([[50.0, -40.0], [-8.0, 0.1], [1.0001, 0.9999], [-1.0, 1.0], [0.0, 0.5]])
    x = torch.cat([near, far]).requires_grad_()
    alpha, sigma = float64(0.8), float64(sigma)
    log_prob = distribution.log_prob(x, alpha, sigma)
    (expected,) = torch.autograd.grad(log_prob.sum(), x)
    score = distribution.score(x.detach(), alpha, sigma)
    assert score.isfinite().all()
    assert log_prob.isfinite().all()
    lost = 4 * torch.finfo(torch.float64).eps * (x.detach().abs().amax() / sigma) ** 2
    torch.testing.assert_close(score, expected, rtol=1e-9 + lost.item(), atol=1e-7)


def exact_levels(x: mpmath.mpf, alpha: float, sigma: float) -> list[mpmath.mpf]:
    """Log density, score and E[x_0 | x] of `levels()`, tails taken from their own side."""
    m = mpmath.mpf
    total, slope, moment = m(0), m(0), m(0)
    for k, p in enumerate([0.5, 0.1, 0.05, 0.35]):
        low, high = m(-1) + m(k) / 2, m(-1) + m(k + 1) / 2
        if alpha == 0:
            density, change = mpmath.npdf(x / sigma) / m(sigma), -x / m(sigma) ** 2
            own = (low + high) / 2
        else:
            above, below = ((x - m(alpha) * edge) / m(sigma) for edge in (low, high))
            near, far = (below, above) if below > 0 else (-above, -below)
            tails = [mpmath.erfc(z / mpmath.sqrt(2)) / 2 for z in (near, far)]
            density = (tails[0] - tails[1]) * 2 / m(alpha)
            change = (mpmath.npdf(above) - mpmath.npdf(below)) / m(sigma)
            change *= 2 / m(alpha) / density
            own = (x + m(sigma) ** 2 * change) / m(alpha)
        total += m(p) * density
        slope += m(p) * density * change
        moment += m(p) * density * own
    return [mpmath.log(total), slope / total, moment / total]


PLACES = [-30.0, -1.02, -0.5, -0.4, 0.0, 0.2500001, 0.7, 1.0, 1.001, 1e6]
FINE_SCALES = [(0.0, 1e-4), (0.0, 1.0), (1e-12, 1.0), (1e-5, 1e-4), (0.005, 1.0), (0.7, 0.7)]
FINE_SCALES += [(1.0, 0.01), (1.0, 1e-6), (1.0, 80.0)]


@pytest.mark.parametrize(("alpha", "sigma"), FINE_SCALES)
def test_levels_keep_their_digits(alpha, sigma):
    """In 200 digits: no signal, noise of any size, 1e12 of it from all data, and the slopes there.

    A log density has the rounding of z^2; of the slopes that of the score is -1 / sigma^2 but for
    what the data do.
    """
    x = float64([[place] for place in PLACES]).requires_grad_()
    log_prob = levels().log_prob(x.detach(), float64(alpha), float64(sigma))
    ours = levels().score_and_mean(x, float64(alpha), float64(sigma))
    slopes = [torch.autograd.grad(each.sum(), x)[0][:, 0] for each in ours]
    for k, place in enumerate(PLACES):
        with mpmath.workdps(200):
            h = mpmath.mpf(10) ** -60
            here, *there = (exact_levels(place + d, alpha, sigma) for d in (mpmath.mpf(0), h, -h))
            _, of_score, of_mean = (float((a - b) / (2 * h)) for a, b in zip(*there, strict=True))
            expected = [float(each) for each in here]
        assert log_prob[k].item() == pytest.approx(expected[0], rel=1e-14, abs=1e-13)
        assert ours[0][k].item() == pytest.approx(expected[1], rel=1e-12, abs=1e-12 / sigma)
        assert ours[1][k].item() == pytest.approx(expected[2], rel=0, abs=1e-13)
        assert slopes[0][k].item() == pytest.approx(of_score, rel=1e-10, abs=1e-10 / sigma**2)
        assert slopes[1][k].item() == pytest.approx(of_mean, rel=1e-9, abs=1e-10)


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("alpha", [0.0, 1e-300, 1e-30])
def test_of_no_signal_all_that_is_known_is_the_prior(name, alpha):
    """Also in the divergence of the flow, and far out."""
    distribution, sde = LINES[name](), RectifiedSDE(100)
    x = float64([[0.0], [1.0], [-3.0], [40.0], [-1e5]])
    prior = torch.distributions.Normal(float64(0.0), float64(1.0)).log_prob(x[:, 0])
    log_prob = distribution.log_prob(x, float64(alpha), float64(1.0))
    torch.testing.assert_close(log_prob, prior, rtol=1e-14, atol=1e-14)
    score, x_0 = distribution.score_and_mean(x, float64(alpha), float64(1.0))
    torch.testing.assert_close(score, -x, rtol=1e-14, atol=1e-14)
    u, weight = data_density(name)
    mean = (weight * u).sum()
    # of two components, the shares round as the square of x does
    lost = 1e-5 if name == "mixture" else 1e-12
    torch.testing.assert_close(x_0, mean.expand_as(x), rtol=0, atol=lost)

    x.requires_grad_()
    end = distribution.denoiser(sde)(x, float64(100.0))
    (divergence,) = torch.autograd.grad(end.v.sum(), x)
    assert divergence.isfinite().all()
    torch.testing.assert_close(divergence, torch.zeros_like(x), rtol=0, atol=1e-9)
    assert torch.equal(end.eps, x)
    torch.testing.assert_close(end.x_0, mean.expand_as(x), rtol=0, atol=lost)


@pytest.mark.parametrize("name", LINES)
def test_the_slopes_of_an_estimate_are_its_finite_differences(name, process):
    """Of all that a flow sees, between the branches of the formulas too."""
    t = torch.linspace(1.0, process.num_steps, 12, dtype=torch.float64)
    t, distribution = t.repeat_interleave(25), LINES[name]()
    x = torch.linspace(-1.6, 1.6, 25, dtype=torch.float64).repeat(12)
    x = (x * process.scale(t))[:, None].requires_grad_()
    denoise = distribution.denoiser(process)
    (slope,) = torch.autograd.grad(denoise(x, t).v.sum(), x)
    h = 1e-4 * process.sigma(t)[:, None]
    with torch.no_grad():
        near, far = (
            (denoise(x + k * h, t).v - denoise(x - k * h, t).v) / (2 * k * h) for k in (1, 2)
        )
    assert slope.isfinite().all()
    # the h^2 of the difference is cancelled: h^4 is left, and rounding, in units of the slope
    size = process.scale(t)[:, None] / process.sigma(t)[:, None]
    torch.testing.assert_close(slope / size, (4 * near - far) / 3 / size, rtol=0, atol=1e-8)


def test_each_sample_may_have_its_own_scales(mixture):
    x = Noise.of(0, 0, 3).normal(Stream.DATA, (2,))
    alpha = float64([1.0, 0.5, 0.1])
    sigma = float64([0.1, 0.8, 1.0])
    for distribution in (mixture, levels(2)):
        for method in (distribution.log_prob, distribution.score):
            together = method(x, alpha, sigma)
            alone = [method(x[k : k + 1], alpha[k], sigma[k]) for k in range(3)]
            torch.testing.assert_close(together, torch.cat(alone), rtol=1e-13, atol=1e-13)


def test_gaussian_is_affine():
    """Score -C^-1 (x - alpha m), with C = alpha^2 covariance + sigma^2."""
    mean, covariance = float64([0.3, -0.2]), float64([[0.5, 0.2], [0.2, 0.3]])
    x = Noise.of(0, 0, 20).normal(Stream.DATA, (2,))
    alpha, sigma = float64(0.6), float64(0.5)
    marginal = alpha**2 * covariance + sigma**2 * torch.eye(2, dtype=torch.float64)
    expected = -torch.linalg.solve(marginal, (x - alpha * mean).T).T
    score = gaussian(mean, covariance).score(x, alpha, sigma)
    torch.testing.assert_close(score, expected, rtol=1e-12, atol=1e-12)


def test_mixture_sample_has_the_moments_and_weights(mixture):
    n = 40_000
    x = mixture.sample(Noise.of(0, 0, n))
    mean = mixture.weights @ mixture.means
    offset = mixture.means - mean
    second = mixture.covariances + offset[:, :, None] * offset[:, None, :]
    covariance = torch.einsum("k,kde->de", mixture.weights, second)
    assert ((x.mean(0) - mean).abs() < 4 * (covariance.diag() / n).sqrt()).all()
    products = (x - mean)[:, :, None] * (x - mean)[:, None, :]
    standard_error = products.std(0) / n**0.5
    assert ((products.mean(0) - covariance).abs() < 4 * standard_error).all()
    nearest = (x[:, None] - mixture.means).norm(dim=2).argmin(1)
    share = torch.bincount(nearest) / n
    assert ((share - mixture.weights).abs() < 4 * 0.5 / n**0.5).all()


def test_a_point_has_a_density_once_noisy():
    """A singular covariance, whose eigenvalues come out as tiny negatives."""
    direction = float64([0.6, 0.8, 0.0])
    point = gaussian(torch.zeros(3), torch.outer(direction, direction))
    x = point.sample(Noise.of(0, 0, 2000))
    along = x @ direction
    torch.testing.assert_close(x, along[:, None] * direction, rtol=0, atol=1e-7)
    assert scipy.stats.kstest(along.numpy(), "norm").pvalue > 0.01
    sigma = float64(1e-9)
    assert point.log_prob(x, float64(1.0), sigma).isfinite().all()


def test_level_sample_has_the_frequencies():
    grid, n = levels(3), 20_000
    noise = Noise.of(0, 0, n)
    k, x = grid.levels(noise), grid.sample(noise)
    for d in range(3):
        count = torch.bincount(k[:, d], minlength=4)
        assert scipy.stats.chisquare(count, n * grid.probabilities).pvalue > 0.01
    u = (x + 1) * 2 - k  # position within the bin
    assert ((u >= 0) & (u < 1)).all()
    assert scipy.stats.kstest(u.flatten().numpy(), "uniform").pvalue > 0.01


def test_exact_bits_per_dim_are_the_entropy():
    """E[-log p] / (D ln 2) + log2(L / 2), in bin centres, at a noise that reaches no edge."""
    grid = levels(1)
    centres = float64([[-0.75], [-0.25], [0.25], [0.75]])
    log_prob = grid.log_prob(centres, float64(1.0), float64(1e-6))
    bits = -(grid.probabilities * log_prob).sum() / math.log(2) + math.log2(4 / 2)
    entropy = scipy.stats.entropy(grid.probabilities, base=2)
    assert bits.item() == pytest.approx(entropy, abs=1e-12)
    assert grid.bits_per_dim == pytest.approx(entropy, abs=1e-12)


def test_pixels_are_independent():
    x = Noise.of(0, 0, 10).normal(Stream.DATA, (3,))
    alpha, sigma = float64(0.7), float64(0.5)
    one = sum(levels(1).log_prob(x[:, d : d + 1], alpha, sigma) for d in range(3))
    torch.testing.assert_close(levels(3).log_prob(x, alpha, sigma), one, rtol=1e-13, atol=0)


def test_denoiser_takes_images():
    sde, t = VPSDE.linear(200), float64(50.0)
    x = Noise.of(0, 0, 5).normal(Stream.DATA, (1, 2, 3))
    image = levels(6).denoiser(sde)(x, t)
    flat = levels(6).denoiser(sde)(x.flatten(1), t)
    assert image.x_0.shape == x.shape
    assert torch.equal(image.x_0.flatten(1), flat.x_0)


@pytest.mark.parametrize("weights", [[0.5, 0.6], [1.2, -0.2], [1.0, 0.0], [math.nan, 1.0]])
def test_weights_must_be_a_distribution(weights):
    with pytest.raises(ValueError, match="weights must be positive and sum to 1"):
        GaussianMixture(float64(weights), torch.zeros(2, 1), torch.ones(2, 1, 1))
    with pytest.raises(ValueError, match="probabilities must be positive and sum to 1"):
        LevelGrid(float64(weights), 1)


def test_covariances_must_be_covariances():
    with pytest.raises(ValueError, match="need covariances of shape"):
        gaussian(torch.zeros(2), torch.eye(3))
    for bad in ([[1.0, 0.5], [0.0, 1.0]], [[1.0, 2.0], [2.0, 1.0]]):
        with pytest.raises(ValueError, match="symmetric and positive semi-definite"):
            gaussian(torch.zeros(2), float64(bad))
