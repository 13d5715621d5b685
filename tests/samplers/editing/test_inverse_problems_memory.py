"""Samplers that remember, inside steps that move the sample: their memory goes with it."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from scoreflow.samplers import (
    DDIM,
    DEIS,
    DPS,
    Ancestral,
    AnnealedLangevin,
    Counted,
    DPMSolver,
    Heun,
    Masked,
    Measurement,
    PredictorCorrector,
    ProbabilityFlow,
    Replaced,
    Step,
    UniPC,
    grid,
    sample,
)
from scoreflow.sde.analytic import gaussian
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.processes.subvp import SubVPSDE
from scoreflow.sde.processes.ve import VESDE
from scoreflow.sde.processes.vp import VPSDE

MULTISTEP = {
    "dpm": DPMSolver(2),
    "dpm-3": DPMSolver(3),
    "dpm_sde": DPMSolver(2, stochastic=True),
    "deis": DEIS(3),
    "unipc": UniPC(2),
    "pc": PredictorCorrector(DPMSolver(2), AnnealedLangevin()),
}
WRAPPERS = {
    "dps": lambda inner, measurement: DPS(inner, measurement, 0.1),
    "replace": Replaced,
}
PROCESSES = {
    "vp": VPSDE.log_linear(1000, 1e-2, 1e-2),
    "subvp": SubVPSDE.log_linear(1000, 1e-1, 1e-2),
    "ve": VESDE(1000, 1e-2, 50.0),
}
FAST_FIRST = ["vp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("subvp", "ve"))]

HALF = Measurement(
    Masked(torch.tensor([True, False])), torch.tensor([[0.7]], dtype=torch.float64), 0.1
)
NOTHING = Measurement(
    Masked(torch.tensor([False, False])), torch.zeros(1, 0, dtype=torch.float64), 0.1
)
MEAN = torch.tensor([0.4, -0.2], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.3, 0.2], [0.2, 0.25]], dtype=torch.float64)


def draw(sampler, denoiser, sde, count=12, n=4):
    return sample(sampler, denoiser, sde, grid("uniform", sde, count), Noise.of(0, 0, n), (2,))


@pytest.mark.parametrize("name", MULTISTEP)
@pytest.mark.parametrize(
    "idle",
    [
        lambda inner: DPS(inner, HALF, 0.0),
        lambda s: DPS(s, NOTHING),
        lambda s: Replaced(s, NOTHING),
    ],
    ids=["dps of no weight", "dps of nothing", "replacing nothing"],
)
def test_where_nothing_is_asked_it_is_the_bare_sampler_to_the_bit(name, idle):
    sde = VPSDE.linear(100)
    denoiser = gaussian(MEAN, COVARIANCE).denoiser(sde)
    bare, wrapped = MULTISTEP[name], idle(MULTISTEP[name])
    assert torch.equal(draw(wrapped, denoiser, sde), draw(bare, denoiser, sde))
    first_order = draw(idle(DDIM()), denoiser, sde)
    assert (draw(wrapped, denoiser, sde) - first_order).abs().max() > 1e-3


@pytest.mark.parametrize("method", WRAPPERS)
@pytest.mark.parametrize(("inner", "more"), [(DPMSolver(2), 11), (DPMSolver(1), 11), (DDIM(), 0),
                                             (Heun(), 0), (Ancestral(), 0)])  # fmt: skip
def test_a_memory_costs_an_evaluation_in_every_step_but_the_first(method, inner, more):
    sde = VPSDE.linear(100)
    bare, counted = (Counted(gaussian(MEAN, COVARIANCE).denoiser(sde)) for _ in range(2))
    draw(inner, bare, sde)
    draw(WRAPPERS[method](inner, HALF), counted, sde)
    assert counted.calls - bare.calls == more


class Forgetful:
    """What would be wrong: the memory of the path that was left."""

    def __init__(self, sampler):
        self.step, self.advance = sampler.step, sampler.advance

    def moved(self, memory, step, before, after):
        return memory


def run(sampler, denoiser, sde, times, x, noise):
    memory = None
    for k, (t, s) in enumerate(itertools.pairwise(times)):
        x, memory = sampler.advance(x, Step(denoiser, sde, t, s, noise.at(k)), memory)
    return x


@pytest.mark.slow
@pytest.mark.parametrize("process", FAST_FIRST)
@pytest.mark.parametrize(
    "around", [lambda inner, far: DPS(inner, far, 0.02), Replaced], ids=["dps", "replace"]
)
def test_a_sampler_keeps_its_order(around, process):
    """Against the flow itself moved likewise: the paths differ by the sampler alone."""
    sde, noise = PROCESSES[process], Noise.of(0, 0, 16)
    denoiser = gaussian(MEAN, COVARIANCE).denoiser(sde)
    far = replace(HALF, value=torch.tensor([[5.0]], dtype=torch.float64))  # DPS has a kink at y
    x = sde.prior_std() * noise.normal(Stream.PRIOR, (2,))
    orders = {DPMSolver(2): 2, DEIS(3): 3}
    errors, left = ({inner: [] for inner in orders} for _ in range(2))
    for count in (20, 40, 80):
        times = grid("log_snr", sde, count)[:-1]
        truth = run(around(ProbabilityFlow(1.0, 1e-9), far), denoiser, sde, times, x, noise)
        for inner in orders:
            for sampler, found in ((inner, errors), (Forgetful(inner), left)):
                got = run(around(sampler, far), denoiser, sde, times, x, noise)
                found[inner].append(float((got - truth).square().mean().sqrt()))
    for inner, order in orders.items():
        slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors[inner])]
        assert order - 0.5 < slopes[-1] < order + 0.6, (slopes, errors)
        assert errors[inner][-1] < left[inner][-1] / 5, (errors, left)


@pytest.mark.parametrize("method", WRAPPERS)
def test_a_corrector_around_the_step_moves_the_memory_once(method):
    """Corrected and then moved, or moved by a sampler that corrects: the same predictor's order.

    A wrapper's own `moved` leaves the move to its next step, which makes it whole.
    """
    sde, noise = VPSDE.linear(100), Noise.of(3, 0, 5)
    denoiser = gaussian(MEAN, COVARIANCE).denoiser(sde)
    wrapper = WRAPPERS[method](DPMSolver(2), NOTHING)
    t, s, r = torch.tensor([60.0, 50.0, 40.0], dtype=torch.float64)
    x = noise.normal(Stream.PRIOR, (2,))
    both = []
    for sampler in (DPMSolver(2), wrapper):
        around = PredictorCorrector(sampler, AnnealedLangevin())
        x_s, memory = around.advance(x, Step(denoiser, sde, t, s, noise.at(0)), None)
        both.append(around.advance(x_s, Step(denoiser, sde, s, r, noise.at(1)), memory)[0])
    torch.testing.assert_close(*both, rtol=1e-12, atol=1e-13)
