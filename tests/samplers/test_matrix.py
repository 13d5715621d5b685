"""Every SDE with every sampler and every kind of prediction, on data of known law."""

import pytest
import torch

from scoreflow.factory import sampling
from scoreflow.samplers import (
    DDIM,
    DEIS,
    Ancestral,
    AnnealedLangevin,
    DPMSolver,
    EulerMaruyama,
    Heun,
    PredictorCorrector,
    ProbabilityFlow,
    ReverseDiffusion,
    UniPC,
    grid,
    sample,
)
from scoreflow.sde.base import broadcast, ends_without_signal
from scoreflow.sde.flow import well_posed
from scoreflow.sde.noise import Noise
from scoreflow.sde.prediction import KINDS, predict
from scoreflow.sde.processes.edm import EDMSDE
from scoreflow.sde.processes.rectified import RectifiedSDE
from scoreflow.sde.processes.subvp import SubVPSDE
from scoreflow.sde.processes.ve import VESDE
from scoreflow.sde.processes.vp import VPSDE

STEPS, SAMPLES = 100, 1000
MEAN, STD = 0.3, 0.5
SDES = {
    "vp": VPSDE.linear(STEPS),
    "vp-cosine": VPSDE.cosine(STEPS),
    "subvp": SubVPSDE.linear(STEPS),
    "ve": VESDE(STEPS, 0.01, 20.0),
    "rectified": RectifiedSDE(STEPS),
    "edm": EDMSDE(STEPS, 0.01, 20.0),
}
CORRECTOR = AnnealedLangevin(snr=0.1)
OPTIMAL = "ancestral-optimal"
SAMPLERS = {
    "ancestral-beta": Ancestral("beta"),
    "ancestral-posterior": Ancestral("posterior"),
    "pc": PredictorCorrector(Ancestral("beta"), CORRECTOR),
    "pc-reverse_diffusion": PredictorCorrector(ReverseDiffusion(), CORRECTOR),
    "ode": ProbabilityFlow(tolerance=1e-6),
    "ddim": DDIM(),
    "ddim-half": DDIM(eta=0.5),
    "reverse_diffusion": ReverseDiffusion(),
    "euler_maruyama": EulerMaruyama(),
    "heun": Heun(),
    "heun-churn": Heun(churn=0.05),
    "dpm": DPMSolver(3),
    "dpm_sde": DPMSolver(2, stochastic=True),
    "deis": DEIS(3),
    "unipc": UniPC(2),
    "pc-heun": PredictorCorrector(Heun(), CORRECTOR),
    "pc-dpm": PredictorCorrector(DPMSolver(3), CORRECTOR),
    "pc-dpm_sde": PredictorCorrector(DPMSolver(2, stochastic=True), CORRECTOR),
    "pc-deis": PredictorCorrector(DEIS(3), CORRECTOR),
    "pc-unipc": PredictorCorrector(UniPC(2), CORRECTOR),
}


def of(name, sde):
    """A sampler by name; the one with the optimal variance knows what `exact` does not."""

    def eps_error(t):
        y = sde.alpha(t) ** 2 * STD**2
        return y / (y + sde.variance(t))

    return Ancestral("optimal", eps_error) if name == OPTIMAL else SAMPLERS[name]


def test_every_sampler_of_the_command_line_is_here():
    for name in sampling.SAMPLERS:
        assert any(own.split("-")[0] == name for own in SAMPLERS), name
    for name in set(sampling.SAMPLERS) - {"pc", "ode", "ancestral", "ddim", "euler_maruyama"}:
        assert f"pc-{name}" in SAMPLERS


def exact(sde, kind):
    """The Denoiser of N(MEAN, STD^2) pixels, saying what it knows as a prediction of a kind."""

    def denoise(x_t, t):
        alpha, sigma = broadcast(sde.alpha(t), x_t), broadcast(sde.sigma(t), x_t)
        gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
        known = predict(sde, x_t, t, "x_0", MEAN + gain * (x_t - alpha * MEAN))
        return predict(sde, x_t, t, kind, getattr(known, kind))

    return denoise


@pytest.mark.parametrize("name", [*SAMPLERS, OPTIMAL])
@pytest.mark.parametrize("process", SDES)
def test_every_pair_draws_the_data_whatever_is_predicted(process, name):
    """The law on all 100 steps; that the kinds are one, to rounding, on few."""
    sde, sampler = SDES[process], of(name, SDES[process])

    def draw(kind, steps, count, sde=sde):
        times = grid("uniform", sde, steps)
        if isinstance(sampler, ProbabilityFlow):
            times = sampler.times(sde.num_steps)
        noise = Noise.of(0, 0, count)
        return sample(sampler, exact(sde, kind), sde, times, noise, (2,))

    x = draw("x_0", STEPS, SAMPLES)
    count, bias = 2 * SAMPLES, 0.05  # of 100 steps
    assert abs(float(x.mean()) - MEAN) < 4 * STD / count**0.5 + bias
    assert abs(float(x.std()) - STD) < 4 * STD / (2 * count) ** 0.5 + bias
    ends = {kind: well_posed(sde, kind) if ends_without_signal(sde) else sde for kind in KINDS}
    for kind, end in ends.items():
        few, same = (draw(each, 5, 8, end) for each in (kind, "x_0"))
        torch.testing.assert_close(few, same, rtol=1e-6, atol=1e-6)
