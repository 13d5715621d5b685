"""Samplers on a GPU: no mixture of devices, no wait in a step, and one in a solver's round."""

import pytest
import torch

from scoreflow.factory.sampling import build_drawing
from scoreflow.generation.generate import draw_samples
from scoreflow.samplers import (
    Ancestral,
    Langevin,
    PredictorCorrector,
    ProbabilityFlow,
    grid,
    sample,
)
from scoreflow.sde.base import Rescaled
from scoreflow.sde.noise import Noise
from scoreflow.sde.ode import odeint
from scoreflow.sde.subvp import SubVPSDE
from scoreflow.sde.ve import VESDE
from scoreflow.sde.vp import VPSDE
from tests.samplers.test_matrix import OPTIMAL, SAMPLERS, exact, of

CPU = torch.device("cpu")
N = 100
PROCESSES = {
    "linear": lambda: VPSDE.linear(N),
    "cosine": lambda: VPSDE.cosine(N),
    "log_linear": lambda: VPSDE.log_linear(N),
    "linear_continuous": lambda: VPSDE.linear_continuous(N),
    "subvp": lambda: SubVPSDE.linear(N),
    "ve": lambda: VESDE(N, 0.01, 20.0),
    "rescaled": lambda: Rescaled(VPSDE.cosine(N), 0.8),
}
METHODS = [name for name in (*SAMPLERS, OPTIMAL) if name != "ode"]


@pytest.mark.parametrize("process", PROCESSES)
def test_no_step_of_a_sampler_waits(process, device, seen):
    sde = PROCESSES[process]()
    names = METHODS if process in ("linear", "ve") else ["pc", "ddim-half", "heun", "pc-unipc"]
    for name in names:
        if name == OPTIMAL and process == "ve":
            continue
        sampler, times, ends = of(name, sde), grid("uniform", sde, 4), []

        def after(k, x, ends=ends):
            ends.append(len(seen.waits))

        def draw(where, sampler=sampler, times=times, after=after):
            noise = Noise.of(0, 0, 3, where)
            return sample(sampler, exact(sde, "eps"), sde, times, noise, (2,), after)

        drawn = draw(device)
        assert drawn.device == device, name
        assert ends[0] == ends[-1], f"{name}: {seen.waits[ends[0] :]}"
        assert torch.equal(drawn.cpu(), draw(CPU)), name


def test_the_langevin_of_each_samples_norm_does_not_wait(device, seen):
    sde, ends = VPSDE.linear(N), []
    sampler = PredictorCorrector(Ancestral("beta"), Langevin(snr=0.1, corrections=2))
    noise = Noise.of(0, 0, 3, device)
    after = lambda _k, _x: ends.append(len(seen.waits))  # noqa: E731
    sample(sampler, exact(sde, "eps"), sde, grid("uniform", sde, 4), noise, (2,), after)
    assert ends[0] == ends[-1]


@pytest.mark.parametrize("process", ["linear", "cosine", "ve"])
def test_the_adaptive_flow_waits_once_a_round(process, device, seen):
    sde = PROCESSES[process]()
    sampler, calls = ProbabilityFlow(1.0, tolerance=1e-4), []
    denoiser = exact(sde, "v")

    def counted(x_t, t):
        calls.append(len(x_t))
        return denoiser(x_t, t)

    def draw(where):
        noise = Noise.of(0, 0, 3, where)
        return sample(sampler, counted, sde, sampler.times(N), noise, (2,))

    expected = draw(CPU)
    rounds = (len(calls) - 2 - 1) // 6  # of six evaluations, after two, and one at the end
    assert rounds > 3
    calls.clear()
    seen.waits.clear()
    drawn = draw(device)
    torch.testing.assert_close(drawn.cpu(), expected, rtol=1e-9, atol=1e-9)
    rounds = (len(calls) - 2 - 1) // 6
    in_rounds = [wait for wait in seen.waits if "nonzero" in wait]
    assert len(in_rounds) <= rounds + 2 * 3, "two more where rows have come to the end"
    assert len(seen.waits) - len(in_rounds) <= FOR_ITS_TABLES


FOR_ITS_TABLES = 12
"""Waits of a solution, however long it is: constants that are copied to the device, its status."""


def test_the_solver_waits_as_often_for_many_rows_as_for_one(device, seen):
    def waits(rows):
        seen.waits.clear()
        start = torch.ones(rows, 3, dtype=torch.float64).to(device)
        odeint(lambda _t, y, _rows: (-y[0],), (start,), 0.0, 1.0, rtol=1e-6, atol=1e-6)
        return len(seen.waits)

    assert waits(1) == waits(7)


NETWORKS = {
    "plain": ({}, {}),
    "dpm, guided": (
        {"model__conditional": True},
        {"sampler": "dpm", "label": "1,2", "guidance": 2.0},
    ),
    "unipc, thresholded": ({}, {"sampler": "unipc", "dynamic_threshold": 0.9, "clip": False}),
    "learned variance": (
        {"training__objective": "hybrid", "model__learned_variance": True},
        {"sampler": "ancestral", "variance": "learned"},
    ),
    "sub-VP": ({"sde__name": "subvp"}, {"sampler": "reverse_diffusion"}),
    "mean": ({"model__prediction": "mean"}, {"sampler": "deis", "grid": "uniform"}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_no_step_of_a_network_waits(name, experiment_of, device, seen, monkeypatch):
    keys, sampling = NETWORKS[name]

    def drawn(where, steps):
        made = experiment_of("digits", where, **keys)
        made.network.eval()
        method = sampling.get("sampler", "ddim")
        made.config.sampling.update(steps=steps, **sampling)
        plan = build_drawing(made.config, method, made.model, made.data)
        seen.waits.clear()
        return draw_samples(plan, made.model.sde, Noise.of(0, 0, 2, where), (1, 8, 8), 2, method)

    few = drawn(device, 3)
    waits = list(seen.waits)
    torch.testing.assert_close(few.cpu(), drawn(CPU, 3), rtol=1e-4, atol=1e-4)
    drawn(device, 5)
    assert len(seen.waits) == len(waits), seen.waits[len(waits) :]
