"""Samplers on Gaussian data, where a step is affine: mean and covariance without Monte Carlo.

x_s = b + A x_t + sum_k B_k z_k. One call on a batch of unit vectors reads off b, A and every B_k;
the law of x is then carried through the whole grid exactly.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from scoreflow.samplers import (
    DDIM,
    Ancestral,
    AnnealedLangevin,
    EulerMaruyama,
    PredictorCorrector,
    ProbabilityFlow,
    ReverseDiffusion,
    Sampler,
    Step,
    grid,
)
from scoreflow.sde.analytic import gaussian
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import Denoiser
from scoreflow.sde.processes.vp import VPSDE

MEAN = torch.tensor([0.3, -0.2], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=torch.float64)
EYE = torch.eye(2, dtype=torch.float64)
NOISES = [(Stream.PREDICTOR, 0), (Stream.CORRECTOR, 0), (Stream.CORRECTOR, 1)]

Inject = Callable[[int, dict[tuple[Stream, int], Tensor]], Noise]


@dataclass
class Law:
    """Of a Gaussian vector."""

    mean: Tensor
    covariance: Tensor

    def distance(self, other: "Law") -> float:
        gaps = (self.mean - other.mean, self.covariance - other.covariance)
        return max(gap.abs().max().item() for gap in gaps)


DATA = Law(MEAN, COVARIANCE)


def marginal(sde: SDE, t: Tensor, data: Law = DATA) -> Law:
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    return Law(alpha * data.mean, alpha**2 * data.covariance + sigma**2 * EYE)


def after_step(
    law: Law,
    sampler: Sampler,
    denoiser: Denoiser,
    sde: SDE,
    times: tuple[Tensor, Tensor],
    inject: Inject,
) -> Law:
    """The law of x_s, from that of x_t: rows are 0, the units of x, the units of each noise."""
    rows = 1 + 2 * (1 + len(NOISES)) + 1
    x = torch.zeros(rows, 2, dtype=torch.float64)
    normals = {address: torch.zeros_like(x) for address in NOISES}
    x[1:3] = EYE
    for k, address in enumerate(NOISES):
        normals[address][3 + 2 * k : 5 + 2 * k] = EYE
    # the last row, anything at all, shows that the step is affine
    for k, given in enumerate([x, *normals.values()]):
        given[-1] = torch.tensor([math.sin(1 + k), math.cos(3 * k)], dtype=torch.float64)
    image = sampler.step(x, Step(denoiser, sde, *times, inject(rows, normals)))
    b = image[0]
    a, *noises = (image[1:-1] - b).view(-1, 2, 2).mT
    combined = b + a @ x[-1] + sum(n @ normals[z][-1] for n, z in zip(noises, NOISES, strict=True))
    torch.testing.assert_close(image[-1], combined, rtol=1e-9, atol=1e-12)
    noise = sum(n @ n.T for n in noises)
    return Law(b + a @ law.mean, a @ law.covariance @ a.T + noise)


def through(
    sampler: Sampler, sde: SDE, times: Tensor, inject: Inject, data: Law = DATA, start=None
) -> list[Law]:
    """The law after each step of a grid, from the prior or another start."""
    law = start or Law(torch.zeros(2, dtype=torch.float64), sde.prior_std() ** 2 * EYE)
    denoiser, laws = gaussian(data.mean, data.covariance).denoiser(sde), []
    for pair in pairwise(times):
        law = after_step(law, sampler, denoiser, sde, pair, inject)
        laws.append(law)
    return laws


def random_times(num_steps: int, count: int, seed: int = 0) -> Tensor:
    """Strictly decreasing from N to 0, at random times between."""
    generator = torch.Generator().manual_seed(seed)
    inner = torch.rand(count - 1, dtype=torch.float64, generator=generator) * num_steps
    return torch.cat([torch.tensor([0, num_steps]), inner]).sort(descending=True).values


SAMPLERS = {
    "ddim": DDIM(),
    "ddim-1": DDIM(eta=1.0),
    "reverse": ReverseDiffusion(),
    "euler": EulerMaruyama(),
    "beta": Ancestral("beta"),
    "posterior": Ancestral("posterior"),
    "pc": PredictorCorrector(Ancestral("beta"), AnnealedLangevin(snr=0.1)),
}


LONG = [pytest.param(name, marks=pytest.mark.slow) for name in ("ddim-1", "reverse", "posterior")]


@pytest.mark.parametrize("name", ["ddim", "euler", "beta", "pc", *LONG])
def test_the_law_tends_to_the_datas_as_one_over_n(name, inject):
    errors = []
    for n in (100, 200, 400):
        sde = VPSDE.linear(n)
        laws = through(SAMPLERS[name], sde, grid("uniform", sde, n), inject)
        errors.append(laws[-1].distance(DATA))
    # betas are up to 20 / N; the error is of the order of one of them
    assert errors[-1] < 20 / 400
    for coarse, fine in pairwise(errors):
        order = math.log2(coarse / fine)
        # the corrector's error has another sign: their sum is only seen to shrink
        assert order > 0.4 if name == "pc" else 0.8 < order < 1.2, errors


@pytest.mark.parametrize("name", ["beta", "posterior"])
def test_the_whole_chain_of_ddpm(name, inject):
    sde = VPSDE.linear(1000)
    times = grid("uniform", sde, 1000)
    assert through(SAMPLERS[name], sde, times, inject)[-1].distance(DATA) < 0.01


@pytest.mark.parametrize("times", [grid("uniform", VPSDE.linear(200), 200), random_times(200, 30)])
def test_beta_variance_is_exact_for_standard_normal_data(times, inject):
    """DDPM, section 3.2: every marginal is N(0, I); the last step returns the mean of x_0."""
    sde, data = VPSDE.linear(200), Law(0 * MEAN, EYE)
    *laws, last = through(Ancestral("beta"), sde, times, inject, data)
    for law in laws:
        assert law.distance(data) < 1e-12
    assert last.distance(Law(0 * MEAN, sde.alpha(times[-2]) ** 2 * EYE)) < 1e-12


@pytest.mark.parametrize("times", [grid("uniform", VPSDE.linear(200), 40), random_times(200, 30)])
def test_posterior_variance_is_exact_for_one_point(times, process, inject):
    """DDPM, section 3.2, the other extreme: from the true x_N, every marginal is the true one."""
    point = Law(MEAN, 0 * EYE)
    start = marginal(process, times[0], point)
    laws = through(Ancestral("posterior"), process, times, inject, point, start)
    for t, law in zip(times[1:], laws, strict=True):
        assert law.distance(marginal(process, t, point)) < 1e-10


@pytest.mark.parametrize("name", SAMPLERS)
def test_any_list_of_times_and_the_finer_the_truer(name, inject):
    sde = VPSDE.linear(1000)
    errors = []
    for count in (10, 40, 160):
        laws = [
            through(SAMPLERS[name], sde, random_times(1000, count, k), inject)[-1] for k in (0, 1)
        ]
        assert all(law.mean.isfinite().all() and law.covariance.isfinite().all() for law in laws)
        errors.append(max(law.distance(DATA) for law in laws))
    assert errors == sorted(errors, reverse=True), errors
    assert errors[-1] < 0.1


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("whole", [True, False])
def test_few_steps_are_already_near(name, whole, inject):
    """4, 16 and 64 steps: what remains is the noise at t = N not being quite the prior."""
    sde, errors = VPSDE.linear(1000), []
    for count in (4, 16, 64):
        even = torch.linspace(1000, 0, count + 1, dtype=torch.float64)
        times = grid("uniform", sde, count) if whole else even
        laws = through(SAMPLERS[name], sde, times, inject)
        errors.append(laws[-1].distance(DATA))
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < min(errors[0] / 5, 0.1)


def test_one_step_returns_the_mean_of_the_data(inject):
    """At t = N, x_0's posterior mean; its law has next to no variance left."""
    sde = VPSDE.linear(1000)
    for name in SAMPLERS.keys() - {"reverse", "euler"}:  # these are right in small steps alone
        sampler = SAMPLERS[name]
        (law,) = through(sampler, sde, grid("uniform", sde, 1), inject)
        assert law.distance(Law(MEAN, 0 * EYE)) < 2 * sde.alpha(torch.tensor(1000.0).double())


@pytest.mark.parametrize("stride", [1, 10])
def test_annealed_langevin_is_its_formula(process, stride, inject):
    """x + h score + sqrt(2 h) z with h = 2 (a snr sigma_t)^2, a = alpha_t / alpha_s."""
    t = torch.tensor(120.0, dtype=torch.float64)
    s, snr = t - stride, 0.2
    ratio = process.alpha(t) / process.alpha(s)
    h = 2 * (ratio * snr * process.sigma(t)) ** 2
    true = marginal(process, t)
    gain = EYE - h * torch.linalg.inv(true.covariance)
    expected = true
    for _ in range(2):  # two corrections
        expected = Law(
            expected.mean, gain @ expected.covariance @ gain.T + 2 * h * EYE
        )  # the mean is at rest

    class Correct:
        def step(self, x_t, step):
            return AnnealedLangevin(snr, corrections=2).correct(x_t, step)

    denoiser = gaussian(MEAN, COVARIANCE).denoiser(process)
    law = after_step(true, Correct(), denoiser, process, (t, s), inject)
    assert law.distance(expected) < 1e-12


def test_annealed_langevin_comes_to_rest_near_the_marginal(inject):
    """Unadjusted Langevin on variance V rests at V / (1 - h / 2V): a known, small excess."""
    sde, t, snr = VPSDE.linear(200), torch.tensor(150.0, dtype=torch.float64), 0.2
    sampler = PredictorCorrector(Stay(), AnnealedLangevin(snr))
    denoiser = gaussian(MEAN, COVARIANCE).denoiser(sde)
    law = Law(0 * MEAN, 4 * EYE)
    for _ in range(200):
        law = after_step(law, sampler, denoiser, sde, (t, t - 1), inject)
    true = marginal(sde, t)
    h = 2 * ((sde.alpha(t) / sde.alpha(t - 1)) * snr * sde.sigma(t)) ** 2
    excess = torch.linalg.inv(EYE - h / 2 * torch.linalg.inv(true.covariance))
    assert law.distance(Law(true.mean, true.covariance @ excess)) < 1e-8


class Stay:
    """A predictor that does not move."""

    def step(self, x_t, step):
        return x_t


TOLERANCE = 1e-9


def flow_map(sde: SDE, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Gaussian flow in closed form: each axis's offset grows with its marginal's deviation."""
    variances, axes = torch.linalg.eigh(COVARIANCE)

    def deviation(at: Tensor) -> Tensor:
        return (sde.alpha(at) ** 2 * variances + sde.variance(at)).sqrt()

    offset = (x - sde.alpha(t) * MEAN) @ axes
    return sde.alpha(s) * MEAN + offset * deviation(s) / deviation(t) @ axes.T


def tweedie(sde: SDE, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior means of x_0 and eps."""
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    pull = torch.linalg.solve(marginal(sde, t).covariance, (x - alpha * MEAN).T).T
    return MEAN + alpha * pull @ COVARIANCE, sigma * pull


@pytest.mark.parametrize("method", ["dopri5", "torchdiffeq:dopri5", "scipy:RK45"])
def test_probability_flow_is_the_closed_form_map(process, method):
    sampler = ProbabilityFlow(tolerance=TOLERANCE, method=method)
    denoiser = gaussian(MEAN, COVARIANCE).denoiser(process)
    noise = Noise.of(0, 0, 20)
    x = process.prior_std() * noise.normal(Stream.PRIOR, (2,))
    t, t_min, zero = sampler.times(process.num_steps)

    x_min = sampler.step(x, Step(denoiser, process, t, t_min, noise))
    torch.testing.assert_close(x_min, flow_map(process, x, t, t_min), rtol=0, atol=100 * TOLERANCE)
    x_0 = sampler.step(x_min, Step(denoiser, process, t_min, zero, noise))
    torch.testing.assert_close(x_0, tweedie(process, x_min, t_min)[0], rtol=0, atol=1e-10)


def test_probability_flow_carries_the_prior_to_the_data():
    """Mean and covariance of the map's image, exactly, from the images of 0 and the units."""
    sde, sampler = VPSDE.linear(1000), ProbabilityFlow(tolerance=TOLERANCE)
    x = torch.cat([torch.zeros(1, 2, dtype=torch.float64), EYE])
    denoiser = gaussian(MEAN, COVARIANCE).denoiser(sde)
    for pair in pairwise(sampler.times(1000)):
        x = sampler.step(x, Step(denoiser, sde, *pair, Noise.of(0, 0, 3)))
    a = (x[1:] - x[0]).T
    # prior for x_N: of the order of alpha_N; x_1 for x_0: of the order of beta_1
    allowed = 2 * sde.alpha(torch.tensor(1000.0).double()) + 2 * sde.betas[0]
    assert Law(x[0], a @ a.T).distance(DATA) < allowed


@pytest.mark.parametrize("times", [[1000, 0], [1000, 0.5, 0], [1000, 300, 0.25], [1000, 7, 1, 0]])
def test_probability_flow_on_any_grid(times):
    """A step over t_min follows the flow down to it, and only then holds the estimate."""
    if times[-1] == 0 and 0 < times[-2] < 1:
        times = times[:-1]
    sde, sampler = VPSDE.linear(1000), ProbabilityFlow(tolerance=TOLERANCE)
    denoiser, noise = gaussian(MEAN, COVARIANCE).denoiser(sde), Noise.of(0, 0, 20)
    start = noise.normal(Stream.PRIOR, (2,))
    times = torch.tensor(times, dtype=torch.float64)
    one = torch.ones((), dtype=torch.float64)
    x_0, eps = tweedie(sde, flow_map(sde, start, times[0], one), one)
    expected = sde.alpha(times[-1]) * x_0 + sde.sigma(times[-1]) * eps
    x = start
    for pair in pairwise(times):
        x = sampler.step(x, Step(denoiser, sde, *pair, noise))
    torch.testing.assert_close(x, expected, rtol=0, atol=1000 * TOLERANCE)


def test_probability_flow_never_asks_below_t_min():
    sde, asked = VPSDE.linear(1000), []

    def denoiser(x_t, t):
        asked.append(t.min().item())
        return gaussian(MEAN, COVARIANCE).denoiser(sde)(x_t, t)

    sampler, noise = ProbabilityFlow(t_min=5.0), Noise.of(0, 0, 2)
    x = noise.normal(Stream.PRIOR, (2,))
    for pair in pairwise(torch.tensor([1000.0, 20.0, 0.0], dtype=torch.float64)):
        x = sampler.step(x, Step(denoiser, sde, *pair, noise))
    assert min(asked) >= 5 - 1e-9  # the clock's rounding
    low = torch.tensor([4.0, 0.0], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"start at t >= t_min = 5\.0, got 4\.0"):
        sampler.step(x, Step(denoiser, sde, *low, noise))


def test_probability_flow_says_when_it_did_not_arrive():
    sde, sampler = VPSDE.linear(1000), ProbabilityFlow(tolerance=1e-10, max_evaluations=20)
    denoiser, noise = gaussian(MEAN, COVARIANCE).denoiser(sde), Noise.of(0, 0, 3)
    t, s, _ = sampler.times(1000)
    with pytest.raises(RuntimeError, match=r"3 of 3 samples did not reach t = 1\.0"):
        sampler.step(noise.normal(Stream.PRIOR, (2,)), Step(denoiser, sde, t, s, noise))
