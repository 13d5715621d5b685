"""From noise alone, alpha = 0 at N: the laws drawn, and where nothing may divide by the signal."""

import itertools
import math
from dataclasses import dataclass

import pytest
import torch

from scoreflow.samplers import (
    DDIM,
    DEIS,
    DPS,
    GRIDS,
    Ancestral,
    AnnealedLangevin,
    ClassifierGuided,
    DPMSolver,
    EulerMaruyama,
    Heun,
    Langevin,
    Masked,
    Measurement,
    PredictorCorrector,
    ProbabilityFlow,
    Reclocked,
    Replaced,
    ReverseDiffusion,
    Step,
    UniPC,
    grid,
    grid_cost,
    invert,
    least_cost,
    sample,
    step_costs,
)
from scoreflow.samplers.grids.time_grids import CLOCKS
from scoreflow.samplers.reverse_variance import x_0_error
from scoreflow.samplers.sampler import UnknownStartError, check_times
from scoreflow.sde.analytic import gaussian
from scoreflow.sde.base import broadcast
from scoreflow.sde.flow import well_posed
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import predict
from scoreflow.sde.processes.edm import EDMSDE
from scoreflow.sde.processes.rectified import RectifiedSDE
from scoreflow.sde.processes.vp import VPSDE

F64 = torch.float64
MEAN, STD = 0.3, 0.5
PATH = RectifiedSDE(800)


@dataclass(frozen=True)
class Units(Noise):
    """A unit vector for each draw of a sampling of so many steps, and zero: rows of a batch.

    The samplers are affine on Gaussian data, so the rows show all of the law that is drawn.
    """

    steps: int = 0

    def normal(self, stream, shape=(), draw=0):
        z = torch.zeros(len(self.index), *shape, dtype=F64)
        z[{Stream.PRIOR: 1, Stream.PREDICTOR: 2 + self.step}[stream]] = 1
        return z


def exact(sde, kind="x_0"):
    """The Denoiser of N(MEAN, STD^2)."""

    def denoise(x_t, t):
        alpha, sigma = broadcast(sde.alpha(t), x_t), broadcast(sde.sigma(t), x_t)
        gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
        known = predict(sde, x_t, t, "x_0", MEAN + gain * (x_t - alpha * MEAN))
        return predict(sde, x_t, t, kind, getattr(known, kind))

    return denoise


def eps_error_of(sde):
    def eps_error(t):
        y = sde.alpha(t) ** 2 * STD**2
        return y / (y + sde.variance(t))

    return eps_error


def law(sampler, sde, count):
    """Mean and variance of what is drawn in so many steps even in t, without drawing."""
    noise = Units(0, torch.arange(2 + count), 0, count)
    x = sample(sampler, exact(sde), sde, grid("uniform", sde, count), noise, (1,)).flatten()
    return float(x[0]), float((x[1:] - x[0]).square().sum())


WEAK = {  # name: sampler, order at which mean and variance of what is drawn converge
    "beta": (Ancestral("beta"), 1),
    "posterior": (Ancestral("posterior"), 1),
    "optimal": (Ancestral("optimal", eps_error_of(PATH)), 1),
    "ddim": (DDIM(), 1),
    "ddim-half": (DDIM(0.5), 1),
    "ddim-1": (DDIM(1.0), 1),
    "reverse_diffusion": (ReverseDiffusion(), 1),
    "euler_maruyama": (EulerMaruyama(), 1),
    "dpm_sde-1": (DPMSolver(1, stochastic=True), 1),
    "dpm_sde": (DPMSolver(2, stochastic=True), 2),
}


@pytest.mark.parametrize("name", WEAK)
def test_what_is_drawn_converges_in_law(name):
    """Of order 1 at least, though f and g are infinite at N; on Gaussians some are better."""
    sampler, order = WEAK[name]
    laws = [law(sampler, PATH, count) for count in (50, 100)]
    for off in ([abs(mean - MEAN) for mean, _ in laws], [abs(v - STD**2) for _, v in laws]):
        slope = math.log2(off[0] / off[1]) if min(off) > 1e-12 else order
        assert max(off) < 1e-12 or slope > order - 0.35, (slope, off)
        assert off[1] < 2.5 / 100, off


ALONE = {
    "heun": Heun(),
    "heun-churn": Heun(0.3),
    "deis": DEIS(3),
    "unipc": UniPC(3),
    "unip": UniPC(2, correct=False),
    "dpm": DPMSolver(3),
    "euler_maruyama": EulerMaruyama(),
    "reverse_diffusion": ReverseDiffusion(),
    "pc": PredictorCorrector(ReverseDiffusion(), Langevin(corrections=2)),
}


@pytest.mark.parametrize("name", ALONE)
def test_a_first_step_from_noise_alone_knows_only_the_mean(name):
    """By an exact denoiser x_0 is the mean there, whatever x_N: sample and law are closed forms.

    DDIM's step leads to alpha_s MEAN + sigma_s x_N. Heun's corrects it by what u is at its end.
    """
    t, s = torch.tensor([800.0, 700.0], dtype=F64)
    x = Noise.of(0, 0, 6).normal(Stream.PRIOR, (2,))
    step = Step(exact(PATH), PATH, t, s, Noise.of(1, 0, 6))
    expected = PATH.alpha(s) * MEAN + PATH.sigma(s) * x
    if name.startswith("heun"):
        slope = 0.5 * (x - MEAN + exact(PATH)(expected, s).u)
        expected = x + (s - t) / 800 * slope
    torch.testing.assert_close(ALONE[name].step(x, step), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kind", ["eps", "score"])
def test_an_estimate_that_knows_nothing_of_x_0_is_refused_there(kind):
    noise, sde = Noise.of(0, 0, 2), RectifiedSDE(50)
    with pytest.raises(UnknownStartError, match="says nothing of x_0"):
        sample(DDIM(), exact(sde, kind), sde, grid("uniform", sde, 5), noise, (2,))
    ended = well_posed(sde, kind)
    assert float(ended.log_snr(torch.tensor(float(ended.num_steps)).double())) >= -5
    for sampler in (DDIM(), Heun(), ProbabilityFlow()):
        flow = isinstance(sampler, ProbabilityFlow)
        times = sampler.times(ended.num_steps) if flow else grid("angle", ended, 5)
        assert sample(sampler, exact(sde, kind), ended, times, noise, (2,)).isfinite().all()


def test_a_score_of_a_classifier_needs_signal_too():
    """Beside the path's end it guides as it does elsewhere."""
    sde, noise = RectifiedSDE(50), Noise.of(0, 0, 2)
    guided = ClassifierGuided(exact(sde, "v"), lambda x, t: -(x**2).sum(1), 0.1)
    with pytest.raises(UnknownStartError, match="says nothing of x_0"):
        sample(DDIM(), guided, sde, grid("uniform", sde, 5), noise, (2,))
    ended = well_posed(sde, "score")
    x = sample(DDIM(), guided, ended, grid("uniform", ended, 5), noise, (2,))
    assert x.isfinite().all()


@pytest.mark.parametrize("inner", [DDIM(), Heun(), DEIS(3), UniPC(2), ReverseDiffusion()])
def test_methods_of_editing_begin_from_noise_alone(inner):
    known = Masked(torch.tensor([True, False]))
    measurement = Measurement(known, torch.tensor([[0.9]], dtype=F64), 0.1)
    sde = RectifiedSDE(50)
    for wrapped in (
        DPS(inner, measurement, 0.1),
        Replaced(inner, measurement),
        PredictorCorrector(inner, AnnealedLangevin()),
    ):
        for clock in ("uniform", "log_snr"):
            times = grid(clock, sde, 8)
            x = sample(wrapped, exact(sde), sde, times, Noise.of(0, 0, 3), (2,))
            assert x.isfinite().all()


def test_inversion_ends_in_noise_alone_and_leads_back():
    """There and back again is x_0 up to the first power of the strides."""
    sde, x_0 = RectifiedSDE(400), Noise.of(3, 0, 8).normal(Stream.DATA, (2,))
    off = []
    for count in (50, 100):
        times = grid("angle", sde, count)
        x = invert(exact(sde), sde, times[:-1].flip(0), x_0)
        back = sample(DDIM(), exact(sde), sde, times, Noise.of(0, 0, 8), (2,), start=x)
        off.append(float((back - x_0).abs().max()))
    assert 1.5 < off[0] / off[1] < 2.5, off


def test_a_network_of_another_process_is_asked_at_its_own_end_beyond_it():
    """Off by the angle that is left, at most: v of N(m, s^2) turns by less than 1 + |m| + |x~|."""
    path, chain = RectifiedSDE(300), VPSDE.linear(300)
    data = gaussian(torch.tensor([MEAN], dtype=F64), torch.tensor([[STD**2]], dtype=F64))
    x, end = torch.linspace(-2, 2, 9, dtype=F64)[:, None], torch.tensor(300.0, dtype=F64)
    found = Reclocked(data.denoiser(chain), chain, path)(x, end).v
    left = float(path.angle(end) - chain.angle(end))
    assert 0 < left < 0.01
    assert (found - data.denoiser(path)(x, end).v).abs().max() < 3.3 * left
    back = Reclocked(data.denoiser(path), path, chain)
    for t in (end, torch.tensor(120.0, dtype=F64)):
        torch.testing.assert_close(
            back(x, t).v, data.denoiser(chain)(x, t).v, rtol=1e-9, atol=1e-12
        )


# ---- the optimal variance and the grid of least cost


def test_the_error_of_x_0_goes_on_where_no_eps_tells_it():
    """E|x_0 error|^2 of N(m, s^2) is s^2 at N, and s^2 up to (alpha s)^2 just before."""
    end = torch.tensor(800.0, dtype=F64)
    found = x_0_error(PATH, end, eps_error_of(PATH))
    assert float(found) == pytest.approx(STD**2, rel=1e-6)
    times = torch.tensor([800.0, 400.0], dtype=F64)
    both = x_0_error(PATH, times, eps_error_of(PATH))
    assert float(both[0]) == float(found)
    assert float(both[1]) == pytest.approx(1 / (1 / STD**2 + 1), rel=1e-12)  # SNR 1


def test_the_least_cost_begins_at_noise_alone():
    """All costs are finite; of one step it is the entropy of the data, N(m, s^2)'s own."""
    sde = RectifiedSDE(40)
    costs = step_costs(sde, eps_error_of(sde))
    lower = torch.ones_like(costs, dtype=torch.bool).tril(-1)
    assert costs[lower].isfinite().all()
    entropy = 0.5 * math.log(2 * math.pi * math.e * STD**2)
    assert float(costs[40, 0]) == pytest.approx(entropy, rel=1e-4)
    for count in (1, 2, 7, 40):
        times = least_cost(costs, count)
        assert grid_cost(costs, times).isfinite()
        # of a Gaussian every step is optimal, and a grid costs what one step does
        assert float(grid_cost(costs, times)) == pytest.approx(entropy, rel=1e-4)


# ---- the shift of a grid


@pytest.mark.parametrize("k", [0.3, 3.0])
def test_a_shift_of_the_rectified_path_is_that_of_sd3(k):
    """tau to k tau / (1 + (k - 1) tau), rounded to whole steps as the grid is."""
    plain, moved = (grid("uniform", RectifiedSDE(10_000), 25, shift=each) for each in (1.0, k))
    tau = torch.linspace(1, 0, 26, dtype=F64)
    expected = 10_000 * k * tau / (1 + (k - 1) * tau)
    assert (moved - expected).abs().max() <= 0.5
    assert (plain[1:-1] != moved[1:-1]).all()


@pytest.mark.parametrize("name", ["log_snr", "karras", "angle"])
@pytest.mark.parametrize("sde", [RectifiedSDE(1000), EDMSDE(1000), VPSDE.cosine(1000)])
def test_a_shift_moves_log_snr_and_keeps_the_ends(sde, name):
    """By -2 log k between both ends: log z is log y to 1/30 + 1/30 there, before and after."""
    k, y = 2.5, lambda t: (-0.5 * sde.log_snr(t)).exp()
    plain, moved = (grid(name, sde, 40, 1.0, shift) for shift in (1.0, k))
    ends = [0, -2, -1]
    assert torch.equal(plain[ends], moved[ends])
    assert (moved.diff() < 0).all()
    far = (y(plain) > 30 * y(plain[-2])) & (y(plain) * k < y(plain[0]) / 30)
    assert far.sum() > 3
    by = sde.log_snr(moved[far]) - sde.log_snr(plain[far])
    torch.testing.assert_close(by, torch.full_like(by, -2 * math.log(k)), rtol=0, atol=2 * 4 / 30)
    low, high = y(moved[-2]), y(moved[0])
    z = [(y(t[1:-2]) - low) / (1 - y(t[1:-2]) / high) for t in (plain, moved)]
    torch.testing.assert_close(z[1], k * z[0], rtol=1e-5, atol=0)


@pytest.mark.parametrize("k", [0.01, 3.0, 100.0])
def test_a_shifted_grid_falls_from_the_end_to_the_data_whatever_the_process(k, process):
    """Of every grid, and, where there is a choice, of few and many steps."""
    last = float(process.num_steps)
    for name, count in itertools.product(sorted(set(GRIDS) - {"leading"}), (1, 2, 5, 60)):
        times = grid(name, process, count, 0.5, k)
        check_times(times, process.num_steps)
        assert (len(times), float(times[0])) == (count + 1, last)


def test_a_shifted_grid_begins_at_n_where_its_root_is_rounded_up():
    """Of N = 40 or 500 the square of the root lies above N, where a path has no signal."""
    assert sum((n**0.5) ** 2 > n for n in range(4, 2000)) > 100
    for n, clock in itertools.product(range(4, 2000), CLOCKS.values()):
        assert float(clock(RectifiedSDE(n), 3)[0]) == n
    for n, k in itertools.product(range(4, 2000, 4), (0.5, 3.0)):
        check_times(grid("quadratic", RectifiedSDE(n), 3, shift=k), n)


def test_shifts_that_find_no_other_times_are_refused():
    sde = VPSDE.cosine(20)
    for name, count, why in (
        ("leading", 5, "has no shift"),
        ("uniform", 20, "finds no others"),
        ("quadratic", 20, "finds no others"),
    ):
        with pytest.raises(ValueError, match=why):
            grid(name, sde, count, shift=2.0)
    for shift in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="must be positive"):
            grid("uniform", sde, 5, shift=shift)
    for name, count in itertools.product(("uniform", "log_snr"), (1, 2, 3)):
        assert len(grid(name, sde, count, shift=2.0)) == count + 1
