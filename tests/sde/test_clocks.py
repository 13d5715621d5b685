"""Sub-VP and VE: their published formulas; they are the VP's rotation by another clock."""

import math

import pytest
import torch

from scoreflow.samplers import Reclocked
from scoreflow.sde.base import SDE, broadcast
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import predict
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
