"""The straight path, and EDM's, step by step against others who are given the same velocity.

diffusers' schedulers, and Euler and midpoint steps as flow_matching takes them: in a time that
runs from noise to data, along x - n. The velocity is a mixture's own, exact.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from torchdiffeq import odeint

from scoreflow.models.score_model import ScoreModel
from scoreflow.samplers import DDIM, Heun, ProbabilityFlow, grid, sample
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.processes.edm import EDMSDE
from scoreflow.sde.processes.rectified import RectifiedSDE

diffusers = pytest.importorskip("diffusers")
euler = pytest.importorskip("diffusers.schedulers.scheduling_flow_match_euler_discrete")
heun = pytest.importorskip("diffusers.schedulers.scheduling_flow_match_heun_discrete")
edm_euler = pytest.importorskip("diffusers.schedulers.scheduling_edm_euler")

STEPS = 12
SDE = RectifiedSDE(1000)
NOISE = Noise.of(0, 0, 5)
SIGMAS = {
    "even": {},
    "shift 3": {"shift": 3.0},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
}
HALF_ULP = 2.0**-24
"""Of float32, relative."""


def shifted(tau, k):
    return k * tau / (1 + (k - 1) * tau)


class InFloat64:
    """Torch, but that float32 is float64: for schedulers that name it as the state's dtype."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


def run_of(sampler, denoiser, times, sde=SDE):
    """The states after each step of ours, from the prior's own draw."""
    states = [sde.prior_std() * NOISE.normal(Stream.PRIOR, (2,))]
    keep = lambda _, x: states.append(x)  # noqa: E731
    sample(sampler, denoiser, sde, times, NOISE, (2,), after_step=keep)
    return states


@pytest.mark.parametrize("sigmas", SIGMAS)
def test_a_ddim_step_is_the_euler_scheduler_s_as_it_is_released(sigmas, mixture):
    """To the rounding of its float32, which x and the stride of sigma pass through."""
    denoiser = mixture.denoiser(SDE)
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(**SIGMAS[sigmas])
    theirs.set_timesteps(STEPS)
    times = 1000 * theirs.sigmas.double()
    torch.testing.assert_close(theirs.timesteps.double(), times[:-1], rtol=2 * HALF_ULP, atol=0)
    states = run_of(DDIM(), denoiser, times)
    for k, (t, s) in enumerate(itertools.pairwise(times)):
        u = denoiser(states[k], t).u
        expected = theirs.step(u, theirs.timesteps[k], states[k]).prev_sample
        bound = HALF_ULP * (states[k].abs() + (t - s) / 1000 * u.abs()) + 1e-14
        assert ((states[k + 1] - expected).abs() <= bound).all(), k


@pytest.mark.parametrize("sigmas", SIGMAS)
def test_a_whole_run_is_the_euler_scheduler_s_in_float64(sigmas, mixture, monkeypatch):
    monkeypatch.setattr(euler, "torch", InFloat64())
    denoiser = mixture.denoiser(SDE)
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(**SIGMAS[sigmas])
    theirs.set_timesteps(STEPS)
    times = 1000 * theirs.sigmas
    ours = run_of(DDIM(), denoiser, times)
    x = ours[0]
    for k, t in enumerate(theirs.timesteps):
        x = theirs.step(denoiser(x, t).u, t, x).prev_sample
        assert x.dtype == torch.float64
        torch.testing.assert_close(ours[k + 1], x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("k", [1.0, 3.0, 0.5])
def test_a_shift_is_theirs_once_and_a_translation_of_log_snr(k):
    """Once where they are given sigmas; else their least sigma is shifted twice."""
    even = np.linspace(1, 1 / STEPS, STEPS)
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=k)
    theirs.set_timesteps(sigmas=even.tolist())
    expected = torch.from_numpy(shifted(even, k))
    torch.testing.assert_close(theirs.sigmas[:-1].double(), expected, rtol=8 * HALF_ULP, atol=0)
    t = 1000 * torch.from_numpy(even)
    moved = SDE.time_of_log_snr(SDE.log_snr(t) - 2 * math.log(k))
    torch.testing.assert_close(moved, 1000 * expected, rtol=1e-13, atol=0)

    for of in (
        diffusers.FlowMatchEulerDiscreteScheduler,
        diffusers.FlowMatchHeunDiscreteScheduler,
    ):
        theirs = of(shift=k)
        torch.testing.assert_close(
            theirs.sigmas[-1].double().item(), shifted(1e-3, k), rtol=1e-6, atol=0
        )
        theirs.set_timesteps(STEPS)
        twice = shifted(np.linspace(1, shifted(1e-3, k), STEPS), k)
        sigmas = theirs.sigmas.unique().flip(0)[:-1].double()
        torch.testing.assert_close(sigmas, torch.from_numpy(twice), rtol=1e-6, atol=0)
        assert twice[-1] == pytest.approx(shifted(1e-3, k**2), rel=1e-12)


@pytest.mark.parametrize("k", [3.0, 0.5])
def test_the_shift_of_a_grid_is_theirs(k):
    """Of a million whole steps: rounding to one is 5e-7; float32 knows 1e6 to 0.5."""
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=k)
    theirs.set_timesteps(sigmas=np.linspace(1, 1 / STEPS, STEPS).tolist())
    ours = grid("uniform", RectifiedSDE(1_000_000), STEPS, shift=k)
    torch.testing.assert_close(ours, 1e6 * theirs.sigmas.double(), rtol=0, atol=1.0)


def test_their_training_script_counts_its_logit_normal_from_noise():
    """Its table begins at sigma = 1: an index u N is sigma = 1 - u, and the mean's sign turns."""
    table = diffusers.FlowMatchEulerDiscreteScheduler().sigmas.double()
    z = torch.linspace(-3, 3, 61, dtype=torch.float64)
    sigma = table[(1000 * z.sigmoid()).long()]
    # within a step of the table, 1e-3
    assert ((sigma - (-z).sigmoid()).abs() <= 1e-3).all()
    assert (sigma - z.sigmoid()).abs().max() > 0.9


def trapezoid(slope, x, levels):
    """The states of Heun's method between levels; Euler's to the last."""
    states = [x]
    for a, b in itertools.pairwise(levels):
        first = slope(states[-1], a)
        ahead = states[-1] + (b - a) * first
        if b > 0:
            ahead = states[-1] + (b - a) * (first + slope(ahead, b)) / 2
        states.append(ahead)
    return states


def test_their_heun_is_the_trapezoidal_rule_in_sigma_and_ours_in_its_ratio(mixture, monkeypatch):
    """Of order 2 both, of other steps. Ours from its second on: the first ratio is infinite."""
    monkeypatch.setattr(heun, "torch", InFloat64())
    denoiser = mixture.denoiser(SDE)
    theirs = diffusers.FlowMatchHeunDiscreteScheduler()
    theirs.set_timesteps(STEPS)
    times = 1000 * torch.cat([theirs.sigmas[:1], theirs.sigmas[1::2]])
    assert len(times) == STEPS + 1
    ours = run_of(Heun(), denoiser, times)
    x, found = ours[0], [ours[0]]
    for k, t in enumerate(theirs.timesteps):
        x = theirs.step(denoiser(x, t).u, t, x).prev_sample
        if k % 2:  # the even ones look ahead, but the last
            found.append(x)
    found.append(x)
    expected = trapezoid(lambda x, tau: denoiser(x, 1000 * tau).u, found[0], times / 1000)
    for theirs_x, x in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(theirs_x, x, rtol=1e-12, atol=1e-12)

    ratio = SDE.sigma(times[1:]) / SDE.alpha(times[1:])

    def eps(y, rho):
        t = 1000 * rho / (1 + rho)
        return denoiser(y / (1 + rho), t).eps

    in_ratio = trapezoid(eps, ours[1] * (1 + ratio[0]), ratio)
    for k, y in enumerate(in_ratio):
        torch.testing.assert_close(ours[k + 1], y / (1 + ratio[k]), rtol=1e-10, atol=1e-10)
    assert (ours[-1] - found[-1]).abs().max() > 1e-3


def velocity(mixture, x, t):
    """E[x - n | t x + (1 - t) n], flow_matching's; by nothing of ours but the mixture."""
    score, data = mixture.score_and_mean(x, t, 1 - t)
    return data + (1 - t) * score


@pytest.mark.parametrize("method", ["euler", "midpoint"])
def test_their_solver_from_noise_to_data_is_ours_from_data_to_noise(method, mixture):
    """Euler's is DDIM; for midpoint, torchdiffeq along our u."""
    denoiser = mixture.denoiser(SDE)
    tau = shifted(torch.linspace(1, 0, STEPS + 1, dtype=torch.float64), 2.0)
    ours = run_of(DDIM(), denoiser, 1000 * tau)
    if method == "midpoint":
        slope = lambda tau, x: denoiser(x, 1000 * tau).u  # noqa: E731
        ours = odeint(slope, ours[0], tau, method="midpoint")
    x = ours[0]
    for k, (t, later) in enumerate(itertools.pairwise(1 - tau)):
        slope, h = velocity(mixture, x, t), later - t
        if method == "midpoint":
            slope = velocity(mixture, x + h / 2 * slope, t + h / 2)
        x = x + h * slope
        torch.testing.assert_close(ours[k + 1], x, rtol=1e-11, atol=1e-11)


def test_their_flow_in_tau_comes_to_where_ours_in_the_angle_does(mixture):
    """One flow whatever its clock: both at a tolerance of 1e-9 a step, from pure noise."""
    denoiser = mixture.denoiser(SDE)
    flow = ProbabilityFlow(t_min=1.0, tolerance=1e-9)
    x, ours, _ = run_of(flow, denoiser, flow.times(1000))
    t = torch.tensor([0.0, 0.999], dtype=torch.float64)
    theirs = odeint(lambda t, x: velocity(mixture, x, t), x, t, rtol=1e-9, atol=1e-9)[-1]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


class Heard(torch.nn.Module):
    """Any smooth answer: both sides hear the same, if they ask the same."""

    def __init__(self, sign):
        super().__init__()
        self.sign = sign

    def forward(self, x, label):
        return self.sign * (torch.tanh(0.7 * x + 0.3 * label.view(-1, 1)) + 0.1 * x)


@pytest.mark.parametrize(("kind", "sign"), [("epsilon", -1.0), ("v_prediction", 1.0)])
def test_the_edm_scheduler_s_run_is_ddim_s_on_edm_s_process(kind, sign, monkeypatch):
    """Its scales are our whole steps, c_in and c_noise what our network is asked, F is -v.

    What diffusers calls v_prediction here has c_out negative, and is v.
    """
    monkeypatch.setattr(edm_euler, "torch", InFloat64())
    theirs = diffusers.EDMEulerScheduler(prediction_type=kind)
    theirs.set_timesteps(STEPS)
    sde = EDMSDE(STEPS)
    times = grid("uniform", sde, STEPS)
    torch.testing.assert_close(theirs.sigmas, sde.sigma(times), rtol=1e-13, atol=0)

    def label(t):
        return sde.sigma(t).log() / 4

    network = Heard(sign)
    model = ScoreModel(network, sde, "v", precision="float64", label=label, data_std=0.5)
    ours = run_of(DDIM(), model, times, sde)
    x, network.sign = ours[0], 1.0
    for k, c_noise in enumerate(theirs.timesteps):
        answer = network(theirs.scale_model_input(x, c_noise), c_noise)
        x = theirs.step(answer, c_noise, x).prev_sample
        torch.testing.assert_close(ours[k + 1], x, rtol=1e-11, atol=1e-11)
