"""The discrete VP-SDE against DDPM's own formulas, exact arithmetic and its continuous limit."""

import itertools
import math

import mpmath
import pytest
import torch

from scoreflow.sde.base import SDE
from scoreflow.sde.processes.vp import VPSDE

EPS = torch.finfo(torch.float64).eps

SCHEDULES = {
    "linear-1": lambda: VPSDE.linear(1),
    "linear-2": lambda: VPSDE.linear(2, beta_max=1.0),
    "linear-10": lambda: VPSDE.linear(10, beta_max=8.0),
    "linear-1000": lambda: VPSDE.linear(1000),
    "linear-4000": lambda: VPSDE.linear(4000),
    **{f"cosine-{n}": lambda n=n: VPSDE.cosine(n) for n in (1, 2, 10, 1000, 4000)},
    **{f"log_linear-{n}": lambda n=n: VPSDE.log_linear(n) for n in (2, 10, 1000, 4000)},
}


@pytest.fixture(params=SCHEDULES)
def vp(request) -> VPSDE:
    return SCHEDULES[request.param]()


def integers(sde: SDE) -> torch.Tensor:
    return torch.arange(1, sde.num_steps + 1, dtype=torch.float64)


def test_defaults_are_ddpm_betas():
    ddpm = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    torch.testing.assert_close(VPSDE.linear(1000).betas, ddpm, rtol=4 * EPS, atol=0)


def test_a_step_of_the_sde_is_a_step_of_the_chain(vp):
    i = integers(vp)
    a, w = vp.transition(i - 1, i)
    torch.testing.assert_close(a, (1 - vp.betas).sqrt(), rtol=1e-13, atol=0)
    # w is a difference of variances: it has their digits, and those of log alpha
    tolerance = 32 * EPS * vp.variance(i) * (1 - vp.log_alpha(i))
    assert ((w - vp.betas).abs() <= tolerance + 1e-14 * vp.betas).all()


def test_marginals_are_the_product_of_the_chain(vp):
    alpha_bar = (1 - vp.betas).cumprod(0)
    torch.testing.assert_close(vp.alpha(integers(vp)) ** 2, alpha_bar, rtol=1e-11, atol=0)
    variance = torch.zeros((), dtype=torch.float64)
    for i, beta in enumerate(vp.betas, start=1):  # x_i = sqrt(1 - beta_i) x_{i-1} + sqrt(beta_i) z
        variance = (1 - beta) * variance + beta
        if i in (1, 2, 5, vp.num_steps // 2, vp.num_steps):
            torch.testing.assert_close(
                vp.variance(torch.tensor(float(i), dtype=torch.float64)),
                variance,
                rtol=1e-11,
                atol=0,
            )


def test_posterior_is_ddpm_equation_7_at_every_step(vp):
    # DDPM's symbols: alpha_t = 1 - beta_t, alpha_bar_t their product; x_{t-1} given x_t and x_0
    beta_t = vp.betas
    alpha_t = 1 - beta_t
    alpha_bar_t = alpha_t.cumprod(0)
    alpha_bar_prev = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar_t[:-1]])
    generator = torch.Generator().manual_seed(0)
    x_t, x_0 = torch.randn(2, vp.num_steps, 3, dtype=torch.float64, generator=generator)

    mean = (alpha_bar_prev.sqrt() * beta_t / (1 - alpha_bar_t))[:, None] * x_0
    mean += (alpha_t.sqrt() * (1 - alpha_bar_prev) / (1 - alpha_bar_t))[:, None] * x_t
    beta_tilde = (1 - alpha_bar_prev) / (1 - alpha_bar_t) * beta_t

    t = integers(vp)
    ours, std = vp.posterior(x_t, x_0, t, t - 1)
    # DDPM's 1 - alpha_bar loses digits where it is as small as 1e-6
    torch.testing.assert_close(ours, mean, rtol=0, atol=1e-9)
    torch.testing.assert_close(std**2, beta_tilde, rtol=1e-8, atol=1e-18)


def test_time_inverts_angle(vp):
    n = vp.num_steps
    small = torch.logspace(-8, 0, 200, dtype=torch.float64)
    uniform = torch.rand(
        2000, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    ).mul(n)
    t = torch.cat([torch.zeros(1), small, uniform, integers(vp), n - small]).double()
    error = (vp.time(vp.angle(t)) - t).abs()
    # t is as well known as log alpha and phi are, each to a few units in the last place:
    # dt = d log alpha / f and dt = dphi sigma / (alpha |f|)
    f = vp.drift(t).abs()
    tolerance = t + vp.log_alpha(t).abs() / f + vp.angle(t) * vp.sigma(t) / (vp.alpha(t) * f)
    assert (error <= 16 * EPS * tolerance).all(), (error / (EPS * tolerance)).max()


def test_time_stays_on_the_path(vp):
    end = vp.angle(torch.tensor(float(vp.num_steps), dtype=torch.float64))
    angles = torch.stack([end, end * (1 + 4 * EPS), end * (1 - 4 * EPS), 0 * end])
    t = vp.time(angles)
    assert ((t >= 0) & (t <= vp.num_steps)).all()


@pytest.mark.parametrize("schedule", ["linear-1000", "cosine-1000", "log_linear-1000"])
def test_sigma_keeps_its_digits_near_clean_data(schedule):
    """Computed as sqrt(1 - exp(-x)) in float32, sigma has no digit left at t = 1e-8."""
    vp = SCHEDULES[schedule]()
    t = torch.logspace(-8, 0, 50, dtype=torch.float64)
    with mpmath.workdps(50):
        rate = mpmath.log(1 - mpmath.mpf(float(vp.betas[0])))
        exact = [float(mpmath.sqrt(1 - mpmath.exp(mpmath.mpf(float(each)) * rate))) for each in t]
    torch.testing.assert_close(
        vp.sigma(t), torch.tensor(exact, dtype=torch.float64), rtol=1e-14, atol=0
    )


def test_drift_and_diffusion_are_constant_within_a_step(vp):
    i = integers(vp)
    rate = torch.log1p(-vp.betas)
    for t in (i - 0.999, i - 0.5, i - 0.001, i):  # an integer belongs to the step below it
        torch.testing.assert_close(vp.drift(t), rate / 2, rtol=1e-8, atol=0)
        torch.testing.assert_close(vp.diffusion(t) ** 2, -rate, rtol=1e-8, atol=0)


def test_cosine_follows_its_formula_up_to_the_cap():
    n, c = 1000, 0.008
    vp = VPSDE.cosine(n)
    i = integers(vp)
    f = torch.cos((i / n + c) / (1 + c) * math.pi / 2) ** 2
    f_0 = math.cos(c / (1 + c) * math.pi / 2) ** 2
    uncapped = vp.betas < 0.999
    assert uncapped[:-1].all()
    assert vp.betas[-1] == 0.999  # the formula alone would end at beta = 1
    torch.testing.assert_close(
        (vp.alpha(i) ** 2)[uncapped], (f / f_0)[uncapped], rtol=1e-9, atol=0
    )


@pytest.mark.parametrize("n", [2, 10, 1000, 4000])
def test_log_linear_is_linear_in_log_snr(n):
    vp = VPSDE.log_linear(n, sigma_min=1e-3, alpha_min=5e-3)
    i = integers(vp)
    assert vp.sigma(i[0]).item() == pytest.approx(1e-3, rel=1e-12)
    assert vp.alpha(i[-1]).item() == pytest.approx(5e-3, rel=1e-11)
    first, last = math.log((1 - 1e-6) / 1e-6), math.log(25e-6 / (1 - 25e-6))
    line = first + (last - first) * (i - 1) / (n - 1)
    torch.testing.assert_close(vp.log_snr(i), line, rtol=0, atol=1e-9)


def test_linear_path_tends_to_the_continuous_one_as_one_over_n():
    u = torch.tensor([0.1, 0.25, 0.5, 1.0], dtype=torch.float64)
    limit = -(u**2) * (20 - 0.1) / 4 - u * 0.1 / 2  # log alpha of Song et al. 2021, Eq. 33
    errors = [(VPSDE.linear(n).log_alpha(u * n) - limit).abs() for n in (500, 1000, 2000)]
    for coarse, fine in itertools.pairwise(errors):
        order = torch.log2(coarse / fine)
        assert ((order > 0.9) & (order < 1.1)).all(), order


def test_clean_data_has_no_noise(vp):
    zero = torch.zeros((), dtype=torch.float64)
    assert vp.alpha(zero) == 1
    assert vp.sigma(zero) == 0
    assert vp.angle(zero) == 0
    assert vp.log_snr(zero) == math.inf


@pytest.mark.parametrize(
    "betas", [[0.0, 0.1], [0.1, 1.0], [-0.1], [0.1, math.nan], [1.5], [math.inf]]
)
def test_betas_outside_the_unit_interval_are_refused(betas):
    with pytest.raises(ValueError, match=r"betas must lie in \(0, 1\), got 1 outside"):
        VPSDE(torch.tensor(betas))


@pytest.mark.parametrize("shape", [(), (0,), (2, 2)])
def test_betas_must_be_a_vector(shape):
    with pytest.raises(ValueError, match="betas must be a vector"):
        VPSDE(torch.full(shape, 0.1))


def test_schedules_refuse_what_they_cannot_be():
    with pytest.raises(ValueError, match="betas must lie in"):
        VPSDE.linear(10)  # beta_max / N = 2
    with pytest.raises(ValueError, match="num_steps >= 2"):
        VPSDE.log_linear(1)
