"""The optimal reverse variance, and the grid that costs the bound least under it."""

import itertools
import math
from itertools import pairwise

import pytest
import scipy.integrate
import scipy.stats
import torch

from scoreflow.losses.variational import term
from scoreflow.samplers import (
    GRIDS,
    Ancestral,
    Step,
    grid,
    grid_cost,
    least_cost,
    sample,
    step_costs,
)
from scoreflow.samplers.reverse_variance import optimal_variance
from scoreflow.sde.analytic import GaussianMixture, gaussian
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.processes.subvp import SubVPSDE
from scoreflow.sde.processes.ve import VESDE
from scoreflow.sde.processes.vp import VPSDE

F64 = torch.float64
SDES = {
    "linear": VPSDE.linear(60),
    "cosine": VPSDE.cosine(60),
    "subvp": SubVPSDE.linear(60),
    "ve": VESDE(60, 0.02, 8.0),
}
each_sde = pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
C = 0.4


def of_gaussian(sde, c=C):
    """E|eps error|^2 / D on N(0, c^2 I): snr times the posterior variance of x_0."""

    def eps_error(t):
        y = sde.alpha(t) ** 2 * c**2
        return y / (y + sde.variance(t))

    return eps_error


@each_sde
@pytest.mark.parametrize("times", [[60, 20, 3, 1], [60, 1], [60, 47.5, 12.25, 0.5]])
def test_few_steps_have_the_right_variance_and_the_others_have_not(sde, times, inject):
    """From the true x_N of N(0, c^2 I), to any time above 0; by unit vectors, with no draws."""
    times = torch.tensor(times, dtype=F64)
    denoiser = gaussian(torch.zeros(1, dtype=F64), torch.tensor([[C**2]], dtype=F64)).denoiser(sde)
    samplers = {
        "optimal": Ancestral("optimal", of_gaussian(sde)),
        "beta": Ancestral("beta"),
        "posterior": Ancestral("posterior"),
    }
    x, z = torch.tensor([[[1.0], [0.0]], [[0.0], [1.0]]], dtype=F64)
    off = {}
    for name, sampler in samplers.items():
        variance = sde.alpha(times[0]) ** 2 * C**2 + sde.variance(times[0])
        for t, s in pairwise(times):
            noise = inject(2, {(Stream.PREDICTOR, 0): z})
            image = sampler.step(x, Step(denoiser, sde, t, s, noise))
            variance = float(image[0]) ** 2 * variance + float(image[1]) ** 2
        truth = sde.alpha(s) ** 2 * C**2 + sde.variance(s)
        off[name] = abs(float(variance / truth - 1))
    assert off["optimal"] < 1e-12
    assert min(off["beta"], off["posterior"]) > 1e-3, off


@each_sde
def test_on_a_mixture_it_is_the_mean_square_distance_by_quadrature(sde):
    """Of x_s from the sampler's mean, E over x_0 and both noises, against numerical integration.

    x_s given x_t has variance E[x_s^2 | x_t] - mean^2; what is averaged over x_t is a closed form
    in x_t, summed on a line of x_t.
    """
    weights = torch.tensor([0.3, 0.7], dtype=F64)
    means, variances = torch.tensor([-1.0, 0.6], dtype=F64), torch.tensor([0.04, 0.01], dtype=F64)
    data = GaussianMixture(weights, means[:, None], variances[:, None, None])

    def eps_error(t):
        """1 - E|eps estimate|^2 of the exact denoiser, by quadrature in x_t."""
        alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))

        def integrand(x):
            at = torch.tensor([[x]], dtype=F64)
            score = data.score(at, sde.alpha(t), sde.sigma(t))
            density = data.log_prob(at, sde.alpha(t), sde.sigma(t)).exp()
            return float(density * (sigma * score[0, 0]) ** 2)

        width = 1.2 * alpha + 9 * (sigma + 0.2 * alpha)
        points = (-alpha, 0.0, 0.6 * alpha)
        value, _ = scipy.integrate.quad(integrand, -width, width, points=points, limit=300)
        return torch.tensor(1 - value, dtype=F64)

    t, s = torch.tensor([31.0, 11.0], dtype=F64)
    found = optimal_variance(sde, t, s, eps_error(t))

    # p(x_s | x_t) ~ p_s(x_s) N(x_t; a x_s, w): its mean variance, on a grid of both
    a, w = sde.transition(s, t)
    reach = float(sde.alpha(s)) * 2.2 + 6 * float(sde.sigma(s))
    x_s = torch.linspace(-reach, reach, 3001, dtype=F64)
    prior = data.log_prob(x_s[:, None], sde.alpha(s), sde.sigma(s)).exp()
    width = float(a) * reach + 6 * float(w) ** 0.5
    x_t = torch.linspace(-width, width, 1501, dtype=F64)
    normal = torch.distributions.Normal(a * x_s, w.sqrt())
    joint = prior * normal.log_prob(x_t[:, None]).exp()  # (x_t, x_s)
    mass = joint.sum(1)
    mean = (joint @ x_s) / mass
    variance = (joint @ x_s**2) / mass - mean**2
    expected = (mass * variance).sum() / mass.sum()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_beta_and_posterior_are_its_extremes():
    """Data N(0, I) under a VP: beta. Data at one point, of which no eps is unknown: posterior."""
    sde = SDES["linear"]
    t, s = torch.tensor([50.0, 9.0], dtype=F64)
    _, w = sde.transition(s, t)
    beta = optimal_variance(sde, t, s, of_gaussian(sde, 1.0)(t))
    torch.testing.assert_close(beta, w, rtol=1e-12, atol=0)
    posterior = optimal_variance(sde, t, s, torch.zeros((), dtype=F64))
    torch.testing.assert_close(posterior, sde.variance(s) * w / sde.variance(t))


@pytest.mark.parametrize(
    "build", [lambda: Ancestral("optimal"), lambda: Ancestral("beta", lambda t: t)]
)
def test_the_optimal_variance_needs_the_errors_and_no_other_does(build):
    with pytest.raises(ValueError, match="the optimal variance, and no other, needs"):
        build()


# ---- the grid of least cost


@each_sde
def test_a_steps_cost_is_the_bounds_term(sde, inject):
    """Of scoreflow.bound, averaged exactly over N(0, c^2): x_0 and eps at +1 and -1 deviations."""
    costs, c = step_costs(sde, of_gaussian(sde)), C
    denoiser = gaussian(torch.zeros(1, dtype=F64), torch.tensor([[c**2]], dtype=F64)).denoiser(sde)
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=2)), dtype=F64)
    x_0, eps = c * signs[:, :1], signs[:, 1:]
    for t, s in [(60, 59), (60, 0), (41, 7), (9, 8), (2, 1), (2, 0), (1, 0)]:
        at, to = torch.tensor([t, s], dtype=F64)
        x_t = sde.perturb(x_0, at, eps)
        prediction = denoiser(x_t, at)
        nats = term(prediction, sde, x_0, at, to, "optimal", of_gaussian(sde)).mean()
        torch.testing.assert_close(costs[t, s], nats, rtol=1e-8, atol=1e-10)
    assert torch.equal(costs.isfinite(), torch.ones_like(costs).tril(-1) > 0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", range(1, 10))
def test_least_cost_is_the_best_of_all_grids(count, seed):
    """By brute force, on costs of a process and on costs of no process at all."""
    sde = VPSDE.log_linear(9, 0.05, 0.05)
    costs = step_costs(sde, of_gaussian(sde))
    if seed:
        costs = torch.rand(10, 10, dtype=F64, generator=torch.Generator().manual_seed(seed))
        costs = torch.where(torch.ones(10, 10).tril(-1) > 0, costs, math.inf)
    grids = [
        torch.tensor([9, *reversed(inner), 0], dtype=F64)
        for inner in itertools.combinations(range(1, 9), count - 1)
    ]
    least = min(float(grid_cost(costs, times)) for times in grids)
    found = least_cost(costs, count)
    assert any(torch.equal(found, times) for times in grids)
    assert float(grid_cost(costs, found)) == pytest.approx(least, rel=1e-14)


@each_sde
def test_on_isotropic_data_every_grid_costs_the_entropy(sde):
    """There each reverse step is Gaussian and the chain exact: no grid is better than another.

    What is left out is L_T, so it is the entropy of x_0 given x_N.
    """
    costs, end = step_costs(sde, of_gaussian(sde)), torch.tensor(60.0, dtype=F64)
    known = 0.5 * math.log1p(float(sde.log_snr(end).exp()) * C**2)
    expected = float(scipy.stats.norm(scale=C).entropy()) - known
    for times in ([60, 0], [60, 1, 0], [60, 41, 40, 7, 0], range(60, -1, -1)):
        cost = float(grid_cost(costs, torch.tensor(list(times), dtype=F64)))
        assert cost == pytest.approx(expected, rel=1e-9)


SCALES = torch.tensor([1.0, 0.3, 0.03], dtype=F64)


def of_scales(sde):
    """On N(0, diag(SCALES^2)): data of several scales, as images are."""

    def eps_error(t):
        y = sde.log_snr(t).exp()[..., None] * SCALES**2
        return (y / (1 + y)).mean(-1)

    return eps_error


def test_no_named_grid_costs_less_and_more_steps_do_not_cost_more():
    sde = VPSDE.linear(300)
    costs, before, compared = step_costs(sde, of_scales(sde)), math.inf, 0
    for count in (1, 2, 5, 20, 100, 300):
        cost = float(grid_cost(costs, least_cost(costs, count)))
        assert cost < before
        before = cost
        for name in GRIDS:
            times = grid(name, sde, count).round()
            if (times.diff() < 0).all():  # rounded, grids of real times may stand still
                compared += 1
                assert cost <= float(grid_cost(costs, times)) + 1e-12
    assert compared > 30


def test_the_whole_chains_cost_tends_to_the_entropy_at_first_order():
    entropy = float(scipy.stats.norm(scale=SCALES.numpy()).entropy().mean())
    excess = []
    for num_steps in (500, 1000, 2000):
        sde = VPSDE.log_linear(num_steps, 1e-3, 1e-3)
        costs = step_costs(sde, of_scales(sde))
        excess.append(float(grid_cost(costs, least_cost(costs, num_steps))) - entropy)
    assert 0 < excess[-1] < 0.01
    for coarse, fine in itertools.pairwise(excess):
        assert 0.9 < math.log2(coarse / fine) < 1.1


@pytest.mark.parametrize("count", [0, 10])
def test_so_many_steps_there_are_not(count):
    with pytest.raises(ValueError, match=rf"must lie in 1..9, got {count}"):
        least_cost(torch.zeros(10, 10, dtype=F64), count)


def test_samples_on_it_have_the_variance_that_its_last_step_leaves():
    sde = VPSDE.linear(60)
    times = least_cost(step_costs(sde, of_gaussian(sde)), 7)
    denoiser = gaussian(torch.zeros(1, dtype=F64), torch.tensor([[C**2]], dtype=F64)).denoiser(sde)
    x = sample(
        Ancestral("optimal", of_gaussian(sde)), denoiser, sde, times, Noise.of(0, 0, 4000), (1,)
    )
    short = of_gaussian(sde)(times[-2]) * sde.variance(times[-2]) / sde.alpha(times[-2]) ** 2
    expected = C**2 - float(short)  # the last step returns the mean
    start = float(sde.alpha(times[0])) ** 2  # the prior is not x_N
    assert float(x.var()) == pytest.approx(expected, rel=4 * (2 / 4000) ** 0.5 + start)
