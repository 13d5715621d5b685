"""The loop, its grids, and what holds for every sampler: mixtures, independence, evaluations."""

from dataclasses import replace

import pytest
import scipy.stats
import torch

from scoreflow.samplers import (
    DDIM,
    DEIS,
    Ancestral,
    AnnealedLangevin,
    Clipped,
    Counted,
    DPMSolver,
    EulerMaruyama,
    Heun,
    Langevin,
    PredictorCorrector,
    ProbabilityFlow,
    ReverseDiffusion,
    Step,
    UniPC,
    grid,
    sample,
)
from scoreflow.sde.base import Rescaled
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.processes.edm import EDMSDE
from scoreflow.sde.processes.ve import VESDE
from scoreflow.sde.processes.vp import VPSDE

SAMPLERS = {
    "ancestral": Ancestral("beta"),
    "ancestral-posterior": Ancestral("posterior"),
    "pc": PredictorCorrector(Ancestral("posterior"), Langevin(snr=0.1)),
    "pc-annealed": PredictorCorrector(Ancestral("beta"), AnnealedLangevin(snr=0.1)),
    "ddim": DDIM(),
    "ddim-half": DDIM(eta=0.5),
    "reverse": ReverseDiffusion(),
    "euler": EulerMaruyama(),
    "heun": Heun(),
    "heun-churn": Heun(churn=0.1),
    "dpm": DPMSolver(3),
    "dpm-sde": DPMSolver(2, stochastic=True),
    "deis": DEIS(4),
    "unipc": UniPC(3),
    "ancestral-optimal": Ancestral("optimal", lambda t: torch.full_like(t, 0.4)),
    "pc-heun": PredictorCorrector(Heun(), Langevin(snr=0.1)),
    "pc-dpm": PredictorCorrector(DPMSolver(2), Langevin(snr=0.1, corrections=2)),
    "pc-dpm-sde": PredictorCorrector(DPMSolver(2, stochastic=True), Langevin(snr=0.1)),
    "pc-deis": PredictorCorrector(DEIS(3), AnnealedLangevin(snr=0.1)),
    "pc-unipc": PredictorCorrector(UniPC(2), Langevin(snr=0.1)),
    "ode": ProbabilityFlow(tolerance=1e-5),
}


def grid_of(sampler, sde, count):
    if isinstance(sampler, ProbabilityFlow):
        return sampler.times(sde.num_steps)
    return grid("uniform", sde, count)


@pytest.mark.parametrize(
    "name", ["ancestral", "ancestral-posterior", "pc-annealed", "ddim", "reverse", "euler", "ode"]
)
def test_a_mixture_is_drawn_as_it_is(name, mixture):
    """Weights, mean and covariance within 4 standard errors, and each axis's whole distribution.

    The chain's own bias, of the order of 1 / N, is allowed for with 2 / N.
    """
    n, sde, sampler = 2000, VPSDE.linear(300), SAMPLERS[name]
    times = grid_of(sampler, sde, 300)
    bias = 0 if name == "ode" else 2 / 300
    x = sample(sampler, mixture.denoiser(sde), sde, times, Noise.of(0, 0, n), (2,))
    assert x.shape == (n, 2)

    share = torch.bincount((x[:, None] - mixture.means).norm(dim=2).argmin(1)) / n
    error = (mixture.weights * (1 - mixture.weights) / n).sqrt()
    assert ((share - mixture.weights).abs() < 4 * error + bias).all(), share

    mean = mixture.weights @ mixture.means
    offset = mixture.means - mean
    second = mixture.covariances + offset[:, :, None] * offset[:, None, :]
    covariance = torch.einsum("k,kde->de", mixture.weights, second)
    assert ((x.mean(0) - mean).abs() < 4 * (covariance.diag() / n).sqrt() + bias).all()
    products = (x - mean)[:, :, None] * (x - mean)[:, None, :]
    error = 4 * products.std(0) / n**0.5 + bias
    assert ((products.mean(0) - covariance).abs() < error).all()

    for d in range(2):

        def cdf(value, d=d):
            deviation = mixture.covariances[:, d, d].sqrt().numpy()
            z = (value[:, None] - mixture.means[:, d].numpy()) / deviation
            return scipy.stats.norm.cdf(z) @ mixture.weights.numpy()

        assert scipy.stats.kstest(x[:, d].numpy(), cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("shape", [(5,), (1, 4, 4)])
def test_an_image_is_the_same_in_any_batch(name, shape, elementwise):
    """Bit for bit: image k alone, among 8, among 64, and among 8 others in another order."""
    sde, sampler = VPSDE.linear(100), SAMPLERS[name]
    times = grid_of(sampler, sde, 10)

    def draw(noise):
        return sample(sampler, elementwise(sde), sde, times, noise, shape)

    everyone = draw(Noise.of(7, 0, 64))
    for k in (0, 3, 7):
        assert torch.equal(draw(Noise.of(7, k, k + 1))[0], everyone[k])
    assert torch.equal(draw(Noise.of(7, 0, 8)), everyone[:8])
    order = torch.tensor([33, 2, 2, 63, 0, 17, 5, 40])
    assert torch.equal(draw(Noise(7, order)), everyone[order])
    assert not torch.equal(draw(Noise.of(8, 0, 8)), everyone[:8])


CHAINS = [name for name in SAMPLERS if name != "ode"]


@pytest.mark.parametrize("name", CHAINS)
def test_the_last_step_adds_no_noise(name, elementwise):
    sde, sampler = VPSDE.linear(100), SAMPLERS[name]
    if isinstance(sampler, PredictorCorrector):
        sampler = sampler.predictor
    if name == "heun-churn":
        pytest.skip("churn raises the noise before the last step too")
    t, zero = torch.tensor([1.0, 0.0], dtype=torch.float64)
    noise = Noise.of(0, 0, 8)
    x = noise.normal(Stream.PRIOR, (3,))
    expected = elementwise(sde)(x, t).x_0
    step = Step(elementwise(sde), sde, t, zero, noise)
    x_0 = sampler.step(x, step)
    assert torch.equal(x_0, sampler.step(x, replace(step, noise=Noise.of(1, 0, 8))))
    # the last two set down what is x_0's posterior mean to first order in w = beta_1
    near = name in ("reverse", "euler")
    beta = float(sde.betas[0])
    torch.testing.assert_close(x_0, expected, rtol=1e-14, atol=4 * beta**2 if near else 1e-14)


@pytest.mark.parametrize("corrector", [Langevin(corrections=0), AnnealedLangevin(corrections=0)])
def test_no_corrections_is_the_predictor_alone(corrector, elementwise):
    sde = VPSDE.linear(100)
    times = grid("uniform", sde, 20)
    draws = [
        sample(sampler, elementwise(sde), sde, times, Noise.of(0, 0, 4), (3,))
        for sampler in (Ancestral(), PredictorCorrector(Ancestral(), corrector))
    ]
    assert torch.equal(*draws)


def test_every_correction_draws_its_own_noise(inject, elementwise):
    """Two corrections are one and another one: draws 0 and 1 of the corrector's stream."""
    sde = VPSDE.linear(100)
    t, s = torch.tensor([50.0, 49.0], dtype=torch.float64)
    noise = Noise.of(0, 0, 4)
    x = noise.normal(Stream.PRIOR, (3,))
    for kind in (Langevin, AnnealedLangevin):
        both = kind(corrections=2).correct(x, Step(elementwise(sde), sde, t, s, noise))
        step = x
        for draw in (0, 1):
            z = noise.normal(Stream.CORRECTOR, (3,), draw)
            once = inject(4, {(Stream.CORRECTOR, 0): z})
            step = kind(corrections=1).correct(step, Step(elementwise(sde), sde, t, s, once))
        assert torch.equal(both, step)


@pytest.mark.parametrize(
    ("name", "per_step"), [("ancestral", 1), ("ancestral-posterior", 1), ("pc", 2)]
)
def test_evaluations_are_those_stated(name, per_step, elementwise):
    sde, after = VPSDE.linear(100), []
    counted = Counted(elementwise(sde), after_call=lambda: after.append(None))
    times = grid("uniform", sde, 20)
    sample(SAMPLERS[name], counted, sde, times, Noise.of(0, 0, 4), (3,))
    assert counted.calls == len(after) == 20 * per_step
    assert counted.rows == 4 * 20 * per_step


def test_corrections_cost_one_evaluation_each(elementwise):
    sde = VPSDE.linear(100)
    times = grid("uniform", sde, 20)
    for corrections in (0, 1, 3):
        counted = Counted(elementwise(sde))
        sampler = PredictorCorrector(Ancestral(), Langevin(corrections=corrections))
        sample(sampler, counted, sde, times, Noise.of(0, 0, 2), (3,))
        assert counted.calls == 20 * (1 + corrections)


def test_evaluations_of_the_flow_are_the_solvers_and_one(elementwise):
    """Two to start, six a step of Dormand-Prince, one for x_0 at t_min."""
    sde, sampler = VPSDE.linear(100), ProbabilityFlow()
    counted = Counted(elementwise(sde))
    sample(sampler, counted, sde, sampler.times(100), Noise.of(0, 0, 1), (3,))
    assert counted.calls > 9
    assert (counted.calls - 3) % 6 == 0
    assert counted.rows == counted.calls


def test_counted_changes_nothing(elementwise):
    sde, t = VPSDE.linear(100), torch.tensor(50.0, dtype=torch.float64)
    x = Noise.of(0, 0, 4).normal(Stream.PRIOR, (3,))
    assert torch.equal(Counted(elementwise(sde))(x, t).v, elementwise(sde)(x, t).v)


def test_clipped_estimates_lie_in_the_range(process, mixture):
    """Of one estimate: the other views belong to the clipped x_0."""
    t = torch.full((64,), process.num_steps / 2, dtype=torch.float64)
    x_t = 3 * Noise.of(0, 0, 64).normal(Stream.PRIOR, (2,))
    plain = mixture.denoiser(process)(x_t, t)
    plain.eps, plain.v, plain.score  # noqa: B018  read first: nothing kept may be handed on
    clipped = Clipped(mixture.denoiser(process), low=-0.5, high=0.75)(x_t, t)
    assert torch.equal(clipped.x_0, plain.x_0.clamp(-0.5, 0.75))
    outside = (plain.x_0 < -0.5) | (plain.x_0 > 0.75)
    assert outside.any()
    assert not outside.all()

    alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
    phi = process.angle(t)[:, None]
    eps = (x_t - alpha * clipped.x_0) / sigma
    torch.testing.assert_close(clipped.eps, eps, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(clipped.score, -eps / sigma, rtol=1e-12, atol=1e-12)
    v = phi.cos() * eps - phi.sin() * clipped.x_0
    torch.testing.assert_close(clipped.v, v, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(clipped.eps[~outside], plain.eps[~outside], rtol=1e-9, atol=1e-9)


def test_the_loop_visits_every_pair_once(elementwise):
    seen, after = [], []

    class Recording:
        def step(self, x_t, step):
            assert not torch.is_grad_enabled()
            seen.append((step.t.item(), step.s.item(), step.noise.step, step.noise.seed))
            return x_t + 1

    sde, times = VPSDE.linear(100), torch.tensor([100.0, 42.5, 3.0, 0.0], dtype=torch.float64)
    noise = Noise.of(11, 0, 2)
    x = sample(
        Recording(), elementwise(sde), sde, times, noise, (3,), lambda k, x: after.append((k, x))
    )
    assert seen == [(100.0, 42.5, 0, 11), (42.5, 3.0, 1, 11), (3.0, 0.0, 2, 11)]
    prior = noise.normal(Stream.PRIOR, (3,))
    torch.testing.assert_close(x, prior + 3)
    assert [k for k, _ in after] == [1, 2, 3]
    torch.testing.assert_close(after[1][1], prior + 2)


def test_the_prior_has_the_processs_scale(process, elementwise):
    class Stay:
        def step(self, x_t, step):
            return x_t

    n = process.num_steps
    times, noise = torch.tensor([n, 0], dtype=torch.float64), Noise.of(0, 0, 5)
    x = sample(Stay(), elementwise(process), process, times, noise, (3,))
    end = torch.tensor(float(n), dtype=torch.float64)
    r = (process.alpha(end) ** 2 + process.sigma(end) ** 2).sqrt()
    if isinstance(process, VESDE | EDMSDE):  # whose priors leave out the data under the noise
        r = process.sigma(end)
    if isinstance(process, Rescaled):  # that of the other process, in its units
        r = process.unit * process.base.scale(end)
    torch.testing.assert_close(x, r * noise.normal(Stream.PRIOR, (3,)), rtol=1e-13, atol=0)


@pytest.mark.parametrize("num_steps", [1, 2, 10, 100])
def test_uniform_times_are_a_grid(num_steps):
    for count in range(1, num_steps + 1):
        times = grid("uniform", VPSDE.linear(num_steps, beta_max=0.5), count)
        assert len(times) == count + 1
        assert torch.equal(times, times.round())
        assert (times[0], times[-1]) == (num_steps, 0)
        strides = -times.diff()
        assert strides.min() >= 1
        assert strides.max() - strides.min() <= 2  # each end is at most a half away


def test_all_steps_are_the_chain():
    expected = torch.arange(1000, -1, -1, dtype=torch.float64)
    assert torch.equal(grid("uniform", VPSDE.linear(1000), 1000), expected)


@pytest.mark.parametrize("count", [0, -1, 11])
def test_uniform_times_refuse(count):
    with pytest.raises(ValueError, match=rf"sampling steps must lie in 1\.\.10, got {count}"):
        grid("uniform", VPSDE.linear(10, beta_max=1.0), count)


@pytest.mark.parametrize(
    "times",
    [[], [10.0], [10, 5], [9, 5, 0], [10, 5, 5, 0], [10, 2, 5, 0], [10, float("nan"), 0],
     [[10, 5, 0]], [10, 5, -1, 0]],
)  # fmt: skip
def test_grids_that_are_none(times, elementwise):
    sde = VPSDE.linear(10, beta_max=1.0)
    with pytest.raises(ValueError, match="must decrease strictly from 10 to 0"):
        sample(
            Ancestral(),
            elementwise(sde),
            sde,
            torch.tensor(times, dtype=torch.float64),
            Noise.of(0, 0, 1),
            (1,),
        )
