"""The other processes: their published formulas; they are the VP's rotation by another clock."""

import itertools
import math
import re

import mpmath
import pytest
import torch

from scoreflow.samplers import Reclocked, grid
from scoreflow.sde.base import SDE, broadcast
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import predict
from scoreflow.sde.processes.edm import EDMSDE
from scoreflow.sde.processes.rectified import RectifiedSDE
from scoreflow.sde.processes.subvp import SubVPSDE
from scoreflow.sde.processes.ve import VESDE
from scoreflow.sde.processes.vp import VPSDE


def test_ve_is_a_geometric_series_of_noise_scales():
    sde = VESDE(50, 0.02, 30.0)
    i = torch.arange(1, 51, dtype=torch.float64)
    expected = torch.logspace(math.log10(0.02), math.log10(30.0), 50, dtype=torch.float64)
    torch.testing.assert_close(sde.sigma(i), expected, rtol=1e-13, atol=0)
    assert (sde.alpha(i) == 1).all()
    half = torch.tensor(0.5, dtype=torch.float64)
    torch.testing.assert_close(sde.variance(half), torch.tensor(0.02**2 / 2).double())
    assert sde.sigma(0 * half) == 0
    torch.testing.assert_close(sde.prior_std(), torch.tensor(30.0).double())


def test_ve_steps_are_those_of_smld():
    """x_i = x_{i-1} + sqrt(sigma_i^2 - sigma_{i-1}^2) z (Song et al. 2021, Eq. 8)."""
    sde, i = VESDE(50, 0.02, 30.0), torch.arange(2, 51, dtype=torch.float64)
    a, w = sde.transition(i - 1, i)
    assert (a == 1).all()
    sigma = 0.02 * (30.0 / 0.02) ** ((torch.arange(1, 51, dtype=torch.float64) - 1) / 49)
    torch.testing.assert_close(w, sigma[1:] ** 2 - sigma[:-1] ** 2, rtol=1e-12, atol=0)


def test_ve_diffusion_is_the_published_one():
    """g = sigma sqrt(2 log(sigma_max / sigma_min)) per unit of time, here per step."""
    sde, t = VESDE(101, 0.02, 30.0), torch.tensor([1.5, 40.0, 100.9], dtype=torch.float64)
    expected = sde.sigma(t) * math.sqrt(2 * math.log(30.0 / 0.02) / 100)
    torch.testing.assert_close(sde.diffusion(t), expected, rtol=1e-12, atol=0)
    assert (sde.drift(t) == 0).all()


@pytest.mark.parametrize("bad", [(1, 0.1, 1.0), (10, 1.0, 1.0), (10, 0.0, 1.0), (10, 2.0, 1.0)])
def test_impossible_noise_scales_are_refused(bad):
    with pytest.raises(ValueError, match=r"num_steps|sigma_min"):
        VESDE(*bad)


def test_subvp_has_the_vps_signal_and_the_square_of_its_variance():
    vp, sub = VPSDE.linear(100), SubVPSDE.linear(100)
    t = torch.linspace(0, 100, 777, dtype=torch.float64)
    assert torch.equal(vp.alpha(t), sub.alpha(t))
    torch.testing.assert_close(sub.sigma(t), vp.variance(t), rtol=1e-14, atol=0)


def test_subvp_diffusion_is_the_published_one():
    """g^2 = beta (1 - exp(-2 int beta)), and f = -beta / 2 (Song et al. 2021, section 3.4)."""
    sub = SubVPSDE.linear(100)
    t = torch.tensor([0.3, 1.0, 17.2, 99.5], dtype=torch.float64)
    beta = -2 * sub.drift(t)
    torch.testing.assert_close(
        sub.diffusion(t) ** 2, -beta * torch.expm1(4 * sub.log_alpha(t)), rtol=1e-9, atol=0
    )


def test_subvp_transition_keeps_its_digits():
    """Against the difference that defines it, where that has digits left."""
    sub, t = SubVPSDE.linear(1000), torch.arange(2, 1001, dtype=torch.float64)
    a, w = sub.transition(t - 1, t)
    torch.testing.assert_close(
        w, sub.variance(t) - a**2 * sub.variance(t - 1), rtol=1e-9, atol=1e-15
    )


CLOCKS: list[SDE] = [VPSDE.cosine(100), SubVPSDE.linear(100), VESDE(100, 0.01, 20.0)]


@pytest.mark.parametrize("on", CLOCKS, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("of", CLOCKS, ids=lambda sde: type(sde).__name__)
def test_a_denoiser_of_one_process_serves_another(on, of, mixture):
    """The exact denoiser of a process, asked about another, is that other's exact denoiser."""
    noise = Noise.of(0, 0, 50)
    largest = min(sde.angle(torch.tensor(100.0).double()) for sde in CLOCKS)
    angle = 0.02 + (largest - 0.03) * noise.uniform(Stream.TRAIN_TIME)
    t = on.time(angle)
    x_t = on.perturb(mixture.sample(noise), t, noise.normal(Stream.TRAIN_EPS, (2,)))
    expected = mixture.denoiser(on)(x_t, t)
    found = Reclocked(mixture.denoiser(of), of=of, on=on)(x_t, t)
    for view in ("eps", "x_0", "v", "score"):
        scale = broadcast(1 / on.sigma(t) if view == "score" else torch.ones_like(t), x_t)
        torch.testing.assert_close(
            getattr(found, view) / scale, getattr(expected, view) / scale, rtol=1e-8, atol=1e-8
        )


def test_a_change_of_process_rescales_by_both_scales():
    """What the denoiser of VE is asked is x_t over the asked process' r, times its own r."""
    of, on, asked = VESDE(100, 0.01, 20.0), SubVPSDE.linear(100), []

    def denoiser(x_t, t):
        asked.append((x_t, t))
        return predict(of, x_t, t, "v", 0.5 * x_t / broadcast(of.scale(t), x_t))

    t, x_t = torch.tensor([20.0, 60.0]).double(), torch.tensor([[0.4, -1.0], [0.7, 2.0]]).double()
    found = Reclocked(denoiser, of=of, on=on)(x_t, t)
    [(seen, own)] = asked
    torch.testing.assert_close(of.angle(own), on.angle(t))
    unit = x_t / broadcast(on.scale(t), x_t)
    assert ((on.scale(t) - 1).abs() > 1e-3).all()
    torch.testing.assert_close(seen, broadcast(of.scale(own), x_t) * unit)
    torch.testing.assert_close(found.v, 0.5 * unit)


# ---- the straight path and EDM's noise scales, against their formulas in 60 digits

EPS = torch.finfo(torch.float64).eps
STEPS = 1000


def in_digits(function, *times):
    """A function of times, in steps, in 60 digits, rounded once: float64."""
    with mpmath.workdps(60):
        rows = zip(*(each.tolist() for each in times), strict=True)
        found = [float(function(*map(mpmath.mpf, row))) for row in rows]
    return torch.tensor(found, dtype=torch.float64)


def near_both_ends():
    """Integers, times between, and some a rounding away from 0 and from N."""
    close = torch.logspace(-9, 0, 10, dtype=torch.float64)
    inside = torch.cat([torch.arange(1, STEPS, 41).double(), torch.linspace(1.5, 998.7, 41)])
    return torch.cat([close, inside.double(), STEPS - close])


STRAIGHT = {
    "alpha": lambda t: 1 - t / STEPS,
    "sigma": lambda t: t / STEPS,
    "variance": lambda t: (t / STEPS) ** 2,
    "log_alpha": lambda t: mpmath.log(1 - t / STEPS),
    "log_snr": lambda t: 2 * mpmath.log((STEPS - t) / t),
    "angle": lambda t: mpmath.atan(t / (STEPS - t)),
    "scale": lambda t: mpmath.sqrt((1 - t / STEPS) ** 2 + (t / STEPS) ** 2),
    "drift": lambda t: -1 / (STEPS - t),
    "diffusion": lambda t: mpmath.sqrt(2 * t / (STEPS * (STEPS - t))),
}


@pytest.mark.parametrize("name", STRAIGHT)
def test_the_straight_path_is_its_formulas(name):
    """Drift is alpha' / alpha, and g^2 = d sigma^2 / dt - 2 f sigma^2 = 2 tau / (N (1 - tau)).

    log alpha and what is made of it know 1 - tau to a rounding of 1, log-SNR is 0 at N / 2.
    """
    t = near_both_ends()
    expected = in_digits(STRAIGHT[name], t)
    of_a_difference = name in ("log_alpha", "log_snr", "drift", "diffusion")
    bound = 4 * EPS * expected.abs()
    if of_a_difference:  # 1 - t / N, where t / N is rounded
        bound = bound * STEPS / (STEPS - t) + 4 * EPS * (name == "log_snr")
    error = (getattr(RectifiedSDE(STEPS), name)(t) - expected).abs()
    assert (error <= bound).all(), (error / bound).max()


def test_the_straight_path_ends_at_noise_alone():
    sde = RectifiedSDE(STEPS)
    start, end = torch.tensor([0.0, STEPS], dtype=torch.float64)
    assert (sde.alpha(start), sde.sigma(start), sde.angle(start)) == (1, 0, 0)
    assert (sde.alpha(end), sde.sigma(end), sde.scale(end)) == (0, 1, 1)
    assert float(sde.angle(end)) == math.pi / 2
    assert sde.log_alpha(end) == sde.log_snr(end) == -math.inf
    assert sde.log_snr(start) == math.inf
    assert sde.prior_std() == 1
    assert sde.drift(end) == -math.inf
    assert sde.diffusion(end) == math.inf
    x_0, eps = torch.full((1, 3), 7.0).double(), torch.full((1, 3), -2.0).double()
    assert torch.equal(sde.perturb(x_0, end, eps), eps)
    assert torch.equal(sde.perturb(x_0, start, eps), x_0)


def test_the_straight_path_moves_by_u():
    """x_t - x_s = (t - s) / N (eps - x_0)."""
    sde, t = RectifiedSDE(STEPS), near_both_ends()
    x_0, eps = torch.full((len(t), 1), 0.75).double(), torch.full((len(t), 1), -1.25).double()
    moved = sde.perturb(x_0, t, eps) - sde.perturb(x_0, 0 * t, eps)
    torch.testing.assert_close(moved[:, 0], -2.0 * t / STEPS, rtol=0, atol=4 * EPS)


def test_time_is_the_inverse_of_the_straight_path_s_angle():
    """To rounding: dtau = r^2 dphi, so phi's half ulp is phi r^2 / tau <= pi / 2 of tau's."""
    sde, t = RectifiedSDE(STEPS), near_both_ends()
    torch.testing.assert_close(sde.time(sde.angle(t)), t, rtol=4 * EPS, atol=0)
    ends = torch.tensor([0.0, STEPS], dtype=torch.float64)
    assert torch.equal(sde.time(sde.angle(ends)), ends)
    assert torch.equal(sde.time_of_log_snr(sde.log_snr(ends)), ends)
    around = sde.time(math.pi / 2 * torch.tensor([1 - EPS, 1 + EPS], dtype=torch.float64))
    assert ((around > STEPS - 1e-9) & (around <= STEPS)).all()


def pairs_of_times():
    """Every s < t of a few: whole strides, and strides of 1e-9 at both ends."""
    few = [0.0, 1e-9, 1e-3, 1.0, 500.0, 500.0 + 1e-9, 999.0, STEPS - 1e-9, STEPS]
    pairs = torch.tensor(list(itertools.combinations(few, 2)), dtype=torch.float64)
    return pairs.unbind(1)


def test_a_transition_of_the_straight_path_keeps_its_digits():
    """Where sigma_t^2 - a^2 sigma_s^2 has none left."""
    sde = RectifiedSDE(STEPS)
    s, t = pairs_of_times()
    a, w = sde.transition(s, t)
    expected = in_digits(lambda s, t: (STEPS - t) / (STEPS - s), s, t)
    torch.testing.assert_close(a, expected, rtol=4 * EPS, atol=0)

    def variance(s, t):
        return (t / STEPS) ** 2 - ((STEPS - t) / (STEPS - s)) ** 2 * (s / STEPS) ** 2

    torch.testing.assert_close(w, in_digits(variance, s, t), rtol=8 * EPS, atol=0)
    by_difference = sde.variance(t) - a**2 * sde.variance(s)
    assert ((by_difference - w).abs() > 1e-6 * w).any()


@pytest.mark.parametrize("end", [STEPS, STEPS - 1e-9, 700.0])
def test_transitions_of_the_straight_path_compose(end):
    """Through any time between, to the end where nothing is left of x_s."""
    sde = RectifiedSDE(STEPS)
    s, u, t = (torch.tensor(each, dtype=torch.float64) for each in (0.3, 444.0, end))
    (a_1, w_1), (a_2, w_2) = sde.transition(s, u), sde.transition(u, t)
    a, w = sde.transition(s, t)
    torch.testing.assert_close(a, a_2 * a_1, rtol=8 * EPS, atol=0)
    torch.testing.assert_close(w, a_2**2 * w_1 + w_2, rtol=8 * EPS, atol=0)
    assert end < STEPS or (a, w) == (0, 1)


def karras(low, high, rho):
    """sigma at t in [1, N] (Karras et al. 2022, Eq. 5), whose i counts down from N: i = N - t."""

    def sigma(t):
        bottom, top = (mpmath.mpf(end) ** (1 / mpmath.mpf(rho)) for end in (low, high))
        return (top + (STEPS - t) / (STEPS - 1) * (bottom - top)) ** rho

    return sigma


EDM_ARGUMENTS = [(0.002, 80.0, 7.0), (0.01, 5.0, 3.0)]


@pytest.mark.parametrize("arguments", EDM_ARGUMENTS)
def test_edm_s_noise_scales_are_karras(arguments):
    sde, sigma = EDMSDE(STEPS, *arguments), karras(*arguments)
    t = near_both_ends()
    t = torch.cat([t[t >= 1], torch.tensor([1.0, STEPS]).double()])
    # rho times the root's rounding, of a sum of two
    rounding = 8 * arguments[2] * EPS
    torch.testing.assert_close(sde.sigma(t), in_digits(sigma, t), rtol=rounding, atol=0)

    def diffusion(t):
        """The root of d sigma^2 / dt."""
        return mpmath.sqrt(mpmath.diff(lambda t: sigma(t) ** 2, t))

    above = t[t > 1]  # at 1 the slope is the one from below
    expected = in_digits(diffusion, above)
    torch.testing.assert_close(sde.diffusion(above), expected, rtol=rounding, atol=0)
    assert (sde.alpha(t) == 1).all()
    assert (sde.drift(t) == 0).all()
    torch.testing.assert_close(
        sde.prior_std(), torch.tensor(arguments[1]).double(), rtol=rounding, atol=0
    )


def test_below_its_first_step_edm_s_variance_is_linear():
    sde = EDMSDE(STEPS, 0.002, 80.0)
    t = torch.tensor([0.0, 1e-9, 0.25, 1.0], dtype=torch.float64)
    torch.testing.assert_close(sde.variance(t), 0.002**2 * t, rtol=4 * EPS, atol=0)
    torch.testing.assert_close(sde.diffusion(t[1:]), torch.full((3,), 0.002).double())


@pytest.mark.parametrize("arguments", EDM_ARGUMENTS)
def test_time_is_the_inverse_of_edm_s_angle(arguments):
    """The tangent magnifies phi's rounding by (1 + sigma^2) phi / sigma; the root's divides it."""
    sde, t = EDMSDE(STEPS, *arguments), near_both_ends()
    torch.testing.assert_close(sde.time(sde.angle(t)), t, rtol=1e-13, atol=0)
    ends = torch.tensor([0.0, STEPS], dtype=torch.float64)
    torch.testing.assert_close(sde.time(sde.angle(ends)), ends, rtol=1e-13, atol=0)
    assert float(sde.time(sde.angle(ends) * (1 + EPS))[1]) <= STEPS


@pytest.mark.parametrize("kind", [VESDE, EDMSDE])
def test_edm_s_process_is_the_karras_grid_of_any(kind):
    """Its whole steps: N of them from sigma_max to sigma_min, evenly in sigma^(1/7)."""
    times = grid("karras", kind(STEPS, 0.002, 80.0), 18)[:-1]
    sigma = kind(STEPS, 0.002, 80.0).sigma(times)
    steps = torch.arange(18, 0, -1, dtype=torch.float64)
    torch.testing.assert_close(sigma, EDMSDE(18, 0.002, 80.0).sigma(steps), rtol=1e-11, atol=0)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ((1,), "num_steps >= 2, got 1"),
        ((10, 0.0, 80.0), "got 0.0, 80.0 and 7.0"),
        ((10, -0.1, 80.0), "got -0.1, 80.0 and 7.0"),
        ((10, 80.0, 80.0), "got 80.0, 80.0 and 7.0"),
        ((10, 0.002, 80.0, 0.0), "got 0.002, 80.0 and 0.0"),
        ((10, math.nan, 80.0), "got nan, 80.0 and 7.0"),
    ],
)
def test_impossible_noise_scales_of_edm_are_refused(bad, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        EDMSDE(*bad)


@pytest.mark.parametrize("bad", [0, -3])
def test_a_straight_path_without_a_step_is_refused(bad):
    with pytest.raises(ValueError, match=f"at least 1 step, got num_steps = {bad}"):
        RectifiedSDE(bad)
