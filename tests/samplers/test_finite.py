"""No number but a number: every sampler and order, 1 to 50 steps, every process and grid."""

import pytest
import torch

from scoreflow.samplers import (
    DDIM,
    DEIS,
    GRIDS,
    Ancestral,
    AnnealedLangevin,
    DPMSolver,
    EulerMaruyama,
    Heun,
    Langevin,
    PredictorCorrector,
    ReverseDiffusion,
    UniPC,
    grid,
    least_cost,
    sample,
    step_costs,
)
from scoreflow.samplers.sampler import FINALS
from scoreflow.sde.analytic import GaussianMixture
from scoreflow.sde.noise import Noise
from scoreflow.sde.processes.edm import EDMSDE
from scoreflow.sde.processes.rectified import RectifiedSDE
from scoreflow.sde.processes.subvp import SubVPSDE
from scoreflow.sde.processes.ve import VESDE
from scoreflow.sde.processes.vp import VPSDE

STEPS, MOST = 60, 50
SDES = {
    "linear": VPSDE.linear(STEPS),
    "cosine": VPSDE.cosine(STEPS),
    "log_linear": VPSDE.log_linear(STEPS),
    "subvp": SubVPSDE.linear(STEPS),
    "ve": VESDE(STEPS, 0.01, 20.0),
    "rectified": RectifiedSDE(STEPS),
    "edm": EDMSDE(STEPS, 0.01, 20.0),
}
WIDE = AnnealedLangevin(snr=0.1)
SAMPLERS = {
    "ancestral-beta": Ancestral("beta"),
    "ancestral-posterior": Ancestral("posterior"),
    "ancestral-optimal": Ancestral("optimal", lambda t: torch.full_like(t, 0.3)),
    "ddim": DDIM(),
    "ddim-1": DDIM(1.0),
    "reverse": ReverseDiffusion(),
    "euler": EulerMaruyama(),
    "heun": Heun(),
    "heun-churn": Heun(0.3),
    "dpm-1": DPMSolver(1),
    "dpm-2": DPMSolver(2),
    "dpm-3": DPMSolver(3),
    "dpm_sde-1": DPMSolver(1, stochastic=True),
    "dpm_sde-2": DPMSolver(2, stochastic=True),
    "deis-1": DEIS(1),
    "deis-2": DEIS(2),
    "deis-3": DEIS(3),
    "deis-4": DEIS(4),
    "unipc-1": UniPC(1),
    "unipc-2": UniPC(2),
    "unipc-3": UniPC(3),
    "unip-3": UniPC(3, correct=False),
    "pc": PredictorCorrector(Ancestral(), Langevin()),
    "pc-dpm": PredictorCorrector(DPMSolver(3), WIDE),
    "pc-deis": PredictorCorrector(DEIS(4), WIDE),
    "pc-unipc": PredictorCorrector(UniPC(3), WIDE),
}
DATA = GaussianMixture(
    torch.tensor([0.6, 0.4]).double(),
    torch.tensor([[-0.8], [0.7]]).double(),
    torch.tensor([[[0.02]], [[0.0]]]).double(),  # a bump, and a point: no denoiser is sharper
)
COSTS = {name: step_costs(sde, lambda t: 0.3 + 0 * t) for name, sde in SDES.items()}


def grid_of(name, process, count):
    if name == "least_cost":
        return least_cost(COSTS[process], count)
    return grid(name, SDES[process], count)


@pytest.mark.parametrize("part", [3, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("process", SDES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_one_to_fifty_steps_are_finite(name, process, part):
    """One, two and three steps, and a part of the other counts, others on each process.

    The long test has a fifth of them on each, all together; the quick one a third of that.

    Each count is on the next of the grids, from another one for each sampler and process. Every
    step's state is looked at, so final = "none" is the state before the last and "mean" the last;
    the three finals themselves are asked for at one to three steps.
    """
    sde, denoiser, grids = SDES[process], DATA.denoiser(SDES[process]), [*GRIDS, "least_cost"]
    place = list(SDES).index(process)
    shift = list(SAMPLERS).index(name) + 3 * place

    def check(k, x):
        assert x.isfinite().all(), (k, x)

    for count in (1, 2, 3, *range(4 + place, MOST + 1, part * len(SDES))):
        times = grid_of(grids[(count + shift) % len(grids)], process, count)
        for final in FINALS if count < 4 else ("mean",):
            x = sample(SAMPLERS[name], denoiser, sde, times, Noise.of(0, 0, 2), (1,), check, final)
            assert x.isfinite().all()


@pytest.mark.parametrize("name", ["ancestral-beta", "pc", "ddim", "ddim-1", "reverse", "euler"])
def test_one_to_fifty_steps_stay_near_the_data(name, elementwise):
    sde = VPSDE.linear(1000)
    for count in range(1, 51):
        times = grid("uniform", sde, count)
        x = sample(SAMPLERS[name], elementwise(sde), sde, times, Noise.of(0, 0, 8), (2,))
        assert x.isfinite().all()
        assert x.abs().max() < (40 if name == "euler" else 4)  # the data are N(0.3, 0.25)


SCHEDULES = ("linear", "cosine", "log_linear", "linear_continuous", "scaled_linear")


@pytest.mark.parametrize("t_min", [1.0, 1e-2, 1e-6, 1e-12])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_noise_drawn_anew_is_finite_down_to_any_time(schedule, t_min):
    """DDIM's eta = 1 under a sub-VP: sigma_s^2 less nearly all of itself."""
    sde = getattr(SubVPSDE, schedule)(STEPS)
    for name in ("log_snr", "karras", "angle"):
        for count in (2, 3, 10):
            times = grid(name, sde, count, t_min)
            x = sample(DDIM(1.0), DATA.denoiser(sde), sde, times, Noise.of(0, 0, 2), (1,))
            assert x.isfinite().all(), (name, count)


def test_every_grid_and_count_is_met():
    """By some sampler on some process, and on every process by some sampler."""
    grids = len(GRIDS) + 1
    for process in range(len(SDES)):
        met = {(k + 3 * process) % grids for k in range(len(SAMPLERS))}
        assert len(met) == grids
