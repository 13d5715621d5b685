"""A corrector before every predictor: nothing changed without corrections, memories moved with."""

import itertools
import math

import pytest
import torch

from scoreflow.samplers import (
    DDIM,
    DEIS,
    Ancestral,
    AnnealedLangevin,
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
from scoreflow.samplers.sampler import Multistep
from scoreflow.sde.analytic import gaussian
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.processes.subvp import SubVPSDE
from scoreflow.sde.processes.ve import VESDE
from scoreflow.sde.processes.vp import VPSDE

PREDICTORS = {
    "ancestral": Ancestral("posterior"),
    "ddim": DDIM(),
    "reverse_diffusion": ReverseDiffusion(),
    "euler_maruyama": EulerMaruyama(),
    "heun": Heun(),
    "dpm": DPMSolver(2),
    "dpm-3": DPMSolver(3),
    "dpm_sde": DPMSolver(2, stochastic=True),
    "deis": DEIS(3),
    "unipc": UniPC(3),
}
MULTISTEP = {
    "dpm": (DPMSolver(2), 2),
    "deis": (DEIS(3), 3),
    "unip": (UniPC(2, correct=False), 2),
    "unipc": (UniPC(2), 3),
}
PROCESSES = {
    "vp": VPSDE.log_linear(1000, 1e-2, 1e-2),
    "subvp": SubVPSDE.log_linear(1000, 1e-1, 1e-2),
    "ve": VESDE(1000, 1e-2, 50.0),
}
FAST_FIRST = ["vp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("subvp", "ve"))]


@pytest.mark.parametrize("name", PREDICTORS)
@pytest.mark.parametrize("corrector", [Langevin(corrections=0), AnnealedLangevin(corrections=0)])
def test_no_corrections_is_the_bare_sampler_to_the_bit(name, corrector, elementwise):
    sde = VPSDE.linear(100)
    times = grid("uniform", sde, 20)
    draws = [
        sample(sampler, elementwise(sde), sde, times, Noise.of(0, 0, 4), (3,))
        for sampler in (PREDICTORS[name], PredictorCorrector(PREDICTORS[name], corrector))
    ]
    assert torch.equal(*draws)


@pytest.mark.parametrize("name", PREDICTORS)
@pytest.mark.parametrize("corrections", [1, 2])
def test_a_correction_costs_one_evaluation_before_any_predictor(name, corrections, elementwise):
    sde = VPSDE.linear(100)
    times = grid("uniform", sde, 12)
    counts = []
    for sampler in (
        PREDICTORS[name],
        PredictorCorrector(PREDICTORS[name], Langevin(corrections=corrections)),
    ):
        counted = Counted(elementwise(sde))
        sample(sampler, counted, sde, times, Noise.of(0, 0, 2), (3,))
        counts.append(counted.calls)
    assert counts[1] - counts[0] == 12 * corrections


class Forgetful(PredictorCorrector):
    """What would be wrong: the memory of the trajectory that was left."""

    def advance(self, x_t, step, memory):
        return self.predictor.advance(self.corrector.correct(x_t, step), step, memory)


def run(sampler, denoiser, sde, times, x, noise):
    memory = None
    for k, (t, s) in enumerate(itertools.pairwise(times)):
        if isinstance(sampler, Multistep):
            x, memory = sampler.advance(x, Step(denoiser, sde, t, s, noise.at(k)), memory)
        else:
            x = sampler.step(x, Step(denoiser, sde, t, s, noise.at(k)))
    return x


@pytest.mark.parametrize("process", FAST_FIRST)
@pytest.mark.parametrize(
    "name",
    ["dpm", *(pytest.param(each, marks=pytest.mark.slow) for each in ("deis", "unip", "unipc"))],
)
def test_corrections_leave_a_predictor_its_order(name, process):
    """Against the flow itself under the same corrections: the paths differ by the predictor alone.

    With the memory moved they draw together at the order that the bare predictor has. With a
    memory left behind they do so at first order at best, and UniPC's corrector undoes ours.
    """
    sde, noise = PROCESSES[process], Noise.of(0, 0, 64)
    data = gaussian(torch.tensor([0.4]).double(), torch.tensor([[0.25]]).double())
    corrector, x = AnnealedLangevin(snr=0.2), sde.prior_std() * noise.normal(Stream.PRIOR, (1,))
    predictor, order = MULTISTEP[name]
    errors, left = [], []
    for count in (20, 40, 80):
        times = grid("log_snr", sde, count)[:-1]
        exact = PredictorCorrector(ProbabilityFlow(1.0, 1e-9), corrector)
        truth = run(exact, data.denoiser(sde), sde, times, x, noise)
        for kind, found in ((PredictorCorrector, errors), (Forgetful, left)):
            got = run(kind(predictor, corrector), data.denoiser(sde), sde, times, x, noise)
            found.append(float((got - truth).square().mean().sqrt()))
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert order - 0.4 < slopes[-1] < order + 0.6, (slopes, errors)
    assert errors[-1] < left[-1] / 10, (errors, left)


class Unit(Noise):
    """Row k has a one in the k-th draw of a chain, x_N first, and zeros in the others."""

    def normal(self, stream, shape=(), draw=0):
        k = {Stream.PRIOR: 0, Stream.CORRECTOR: 1 + self.step}[stream]
        return (self.index == k).double().view(-1, 1).expand(-1, *shape)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", MULTISTEP)
def test_the_law_with_corrections_is_the_recursions(name, process):
    """On N(0, c^2) all is linear, so rows of unit noise give the variance with no Monte Carlo.

    Langevin: V -> (1 - h / V_t)^2 V + 2 h, h = 2 (a snr sigma_t)^2; the flow: V -> V V_s / V_t.
    """
    sde, snr, c = PROCESSES[process], 0.2, 0.5
    data = gaussian(torch.zeros(1).double(), torch.tensor([[c**2]]).double())
    predictor, order = MULTISTEP[name]
    errors = []
    for count in (20, 40, 80):
        times = grid("log_snr", sde, count)[:-1]
        noise = Unit(0, torch.arange(len(times) + 1))
        x = sde.prior_std() * noise.normal(Stream.PRIOR, (1,))
        sampler = PredictorCorrector(predictor, AnnealedLangevin(snr))
        found = run(sampler, data.denoiser(sde), sde, times, x, noise).square().sum()
        marginal = sde.alpha(times) ** 2 * c**2 + sde.variance(times)
        variance = sde.prior_std() ** 2
        for k, (t, s) in enumerate(itertools.pairwise(times)):
            h = 2 * (sde.alpha(t) / sde.alpha(s) * snr * sde.sigma(t)) ** 2
            variance = (1 - h / marginal[k]) ** 2 * variance + 2 * h
            variance = variance * marginal[k + 1] / marginal[k]
        errors.append(abs(float(found / variance - 1)))
    assert errors[-1] < 0.02, errors
    assert math.log2(errors[-2] / errors[-1]) > order - 0.5, errors
