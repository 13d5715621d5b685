"""Schedules that other codebases train on: against their own tables, and 40-digit closed forms."""

import diffusers
import mpmath
import pytest
import torch

from scoreflow.sde.base import SDE
from scoreflow.sde.processes.subvp import SubVPSDE
from scoreflow.sde.processes.vp import VPSDE

F64 = torch.float64
EPS = torch.finfo(F64).eps
RATES = [(0.1, 20.0), (0.5, 0.5), (20.0, 0.1)]  # rising, constant, falling
TIMES = torch.cat([torch.logspace(-8, 0, 17), torch.linspace(1, 1000, 160)]).double()


def exact(rates, t, function):
    """function(log alpha, its slope in t) at times of N = 1000 steps, in 40 digits."""
    low, high = map(mpmath.mpf, rates)
    found = []
    with mpmath.workdps(40):
        for each in t.tolist():
            u = mpmath.mpf(each) / 1000
            log_alpha = -(u**2) * (high - low) / 4 - u * low / 2
            slope = -(u * (high - low) + low) / 2 / 1000
            found.append(float(function(log_alpha, slope)))
    return torch.tensor(found, dtype=F64)


@pytest.mark.parametrize("rates", RATES)
def test_the_continuous_schedule_is_its_closed_form_to_the_last_digits(rates):
    sde = VPSDE.linear_continuous(1000, *rates)
    pairs = {
        "alpha": (sde.alpha(TIMES), lambda a, _: mpmath.exp(a)),
        "sigma": (sde.sigma(TIMES), lambda a, _: mpmath.sqrt(-mpmath.expm1(2 * a))),
        "drift": (sde.drift(TIMES), lambda _, f: f),
        "g^2": (sde.diffusion(TIMES) ** 2, lambda _, f: -2 * f),
        "angle": (sde.angle(TIMES), lambda a, _: mpmath.acos(mpmath.exp(a))),
    }
    for name, (found, of) in pairs.items():
        torch.testing.assert_close(
            found, exact(rates, TIMES, of), rtol=1e-12, atol=0, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("kind", [VPSDE, SubVPSDE])
def test_time_inverts_the_angle_of_the_continuous_schedule(kind, rates):
    sde = kind.linear_continuous(1000, *rates)
    torch.testing.assert_close(sde.time(sde.angle(TIMES)), TIMES, rtol=1e-12, atol=0)
    end = sde.angle(torch.tensor(1000.0, dtype=F64))
    around = sde.time(end * torch.tensor([1 - 4 * EPS, 1, 1 + 4 * EPS, 0], dtype=F64))
    assert bool(((around >= 0) & (around <= 1000)).all())


def test_drift_and_diffusion_are_the_slopes_that_autograd_finds():
    for sde in (VPSDE.linear_continuous(1000), SubVPSDE.linear_continuous(1000)):
        t = TIMES.clone().requires_grad_()
        (f,) = torch.autograd.grad(sde.log_alpha(t).sum(), t)
        (rise,) = torch.autograd.grad(sde.variance(t).sum(), t)
        torch.testing.assert_close(sde.drift(TIMES), f, rtol=1e-13, atol=0)
        g2 = rise - 2 * f * sde.variance(TIMES)
        torch.testing.assert_close(sde.diffusion(TIMES) ** 2, g2, rtol=1e-11, atol=1e-20)


def test_the_continuous_subvp_is_the_published_one():
    """sigma = 1 - exp(2 log alpha), g^2 = beta (1 - exp(4 log alpha)) (Song et al. 2021, 3.4)."""
    sde = SubVPSDE.linear_continuous(1000)
    variance = exact(RATES[0], TIMES, lambda a, _: mpmath.expm1(2 * a) ** 2)
    torch.testing.assert_close(sde.variance(TIMES), variance, rtol=1e-12, atol=0)
    g2 = exact(RATES[0], TIMES, lambda a, f: 2 * f * mpmath.expm1(4 * a))
    torch.testing.assert_close(sde.diffusion(TIMES) ** 2, g2, rtol=1e-11, atol=1e-20)


def test_the_path_does_not_depend_on_the_number_of_steps():
    u = torch.linspace(0.001, 1, 50, dtype=F64)
    coarse, fine = VPSDE.linear_continuous(10), VPSDE.linear_continuous(4000)
    torch.testing.assert_close(coarse.alpha(10 * u), fine.alpha(4000 * u), rtol=1e-13, atol=0)


def test_the_chain_of_the_continuous_schedule_is_that_of_its_integers():
    sde, i = VPSDE.linear_continuous(1000), torch.arange(1, 1001, dtype=F64)
    a, w = sde.transition(i - 1, i)
    torch.testing.assert_close(a, (1 - sde.betas).sqrt(), rtol=1e-13, atol=0)
    torch.testing.assert_close(w, sde.betas, rtol=1e-9, atol=0)


def test_the_table_tends_to_the_closed_form():
    """DDPM's linear betas are the SDE of Song et al. to first order in 1 / N."""
    gaps = []
    for n in (500, 1000, 2000):
        t = torch.arange(1, n + 1, dtype=F64)
        table, closed = VPSDE.linear(n), VPSDE.linear_continuous(n)
        gaps.append(float((table.alpha(t) - closed.alpha(t)).abs().max()))
    assert gaps[0] / gaps[1] == pytest.approx(2, abs=0.1)
    assert gaps[1] / gaps[2] == pytest.approx(2, abs=0.1)


THEIRS: dict[str, tuple[SDE, dict[str, object]]] = {
    "linear": (VPSDE.linear(1000), {"beta_schedule": "linear"}),
    "scaled_linear": (
        VPSDE.scaled_linear(1000),
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    ),
    "scaled_linear of 300": (
        VPSDE.scaled_linear(300, 0.3, 9.0),
        {"beta_schedule": "scaled_linear", "beta_start": 0.001, "beta_end": 0.03},
    ),
    "cosine": (VPSDE.cosine(1000), {"beta_schedule": "squaredcos_cap_v2"}),
    "cosine of 4000": (VPSDE.cosine(4000), {"beta_schedule": "squaredcos_cap_v2"}),
    "betas": (
        VPSDE(torch.tensor([0.01, 0.3, 0.02, 0.5], dtype=F64)),
        {"trained_betas": [0.01, 0.3, 0.02, 0.5]},
    ),
}


@pytest.mark.parametrize("name", THEIRS)
def test_tables_are_those_of_diffusers(name):
    """Theirs are of float32: betas to 6e-8 of themselves, and their product's rounding."""
    sde, settings = THEIRS[name]
    assert isinstance(sde, VPSDE)
    theirs = diffusers.DDPMScheduler(num_train_timesteps=sde.num_steps, **settings)
    torch.testing.assert_close(sde.betas, theirs.betas.double(), rtol=3e-6, atol=0)
    i = torch.arange(1, sde.num_steps + 1, dtype=F64)
    # a beta at the cap is one minus a beta that float32 has to 6e-8
    torch.testing.assert_close(
        sde.alpha(i) ** 2, theirs.alphas_cumprod.double(), rtol=2e-4, atol=1e-9
    )


@pytest.mark.parametrize("n", [1000, 4000])
def test_cosine_is_that_of_improved_ddpm_in_float64(n):
    """1 - bar(u_2) / bar(u_1), u = i / N, capped at .999, with bar as their code has it."""
    betas = []
    with mpmath.workdps(40):
        c = mpmath.mpf("0.008")
        bar = [mpmath.cos((mpmath.mpf(i) / n + c) / (1 + c) * mpmath.pi / 2) ** 2
               for i in range(n + 1)]  # fmt: skip
        for i in range(n):
            betas.append(min(float(1 - bar[i + 1] / bar[i]), 0.999))
    # a difference of two numbers near 1: rounding of 1 is the tolerance
    torch.testing.assert_close(
        VPSDE.cosine(n).betas, torch.tensor(betas, dtype=F64), rtol=1e-12, atol=8 * EPS
    )


def test_a_beta_of_one_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match="1 leaves no signal: cap it"):
        VPSDE(torch.tensor([0.1, 1.0]))


@pytest.mark.parametrize("rates", [(0.0, 20.0), (0.1, -1.0)])
def test_rates_of_the_continuous_schedule_are_positive(rates):
    with pytest.raises(ValueError, match="rates must be positive"):
        VPSDE.linear_continuous(10, *rates)
