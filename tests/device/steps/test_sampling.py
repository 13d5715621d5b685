"""Samplers on a GPU: no mixture of devices, no wait in a step, and one in a solver's round."""

from collections import Counter

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
from scoreflow.sde.ode.dopri5 import Dopri5
from scoreflow.sde.processes.edm import EDMSDE
from scoreflow.sde.processes.rectified import RectifiedSDE
from scoreflow.sde.processes.subvp import SubVPSDE
from scoreflow.sde.processes.ve import VESDE
from scoreflow.sde.processes.vp import VPSDE
from tests.device.pretend import pretending
from tests.device.watch import watching
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
    "rectified": lambda: RectifiedSDE(N),
    "edm": lambda: EDMSDE(N, 0.01, 20.0),
    "rescaled": lambda: Rescaled(VPSDE.cosine(N), 0.8),
}
METHODS = [name for name in (*SAMPLERS, OPTIMAL) if name != "ode"]


pytestmark = pytest.mark.usefixtures("needs_python_device")
FEW = ["pc", "ddim-half", "heun-churn", "pc-unipc"]


@pytest.mark.parametrize("process", PROCESSES)
def test_no_step_of_a_sampler_waits(process):
    """All samplers on one process, and one of each kind on the others; with the CPU's numbers."""
    sde = PROCESSES[process]()
    names = METHODS if process == "linear" else FEW
    kind = "v" if process == "rectified" else "eps"  # which says nothing of x_0 at its end
    times = grid("uniform", sde, 4)

    def draw(name, where, after=lambda _k, _x: None):
        noise = Noise.of(0, 0, 3, where)
        return sample(of(name, sde), exact(sde, kind), sde, times, noise, (2,), after)

    expected = {name: draw(name, CPU) for name in names}
    with pretending() as device, watching() as seen:
        for name in names:
            ends = []
            drawn = draw(name, device, lambda _k, _x, ends=ends: ends.append(len(seen.waits)))
            assert drawn.device == device, name
            assert ends[0] == ends[-1], f"{name}: {seen.waits[ends[0] :]}"
            assert torch.equal(drawn.cpu(), expected[name]), name


def test_the_langevin_of_each_samples_norm_does_not_wait(device, seen):
    sde, ends = VPSDE.linear(N), []
    sampler = PredictorCorrector(Ancestral("beta"), Langevin(snr=0.1, corrections=2))
    noise = Noise.of(0, 0, 3, device)
    after = lambda _k, _x: ends.append(len(seen.waits))  # noqa: E731
    sample(sampler, exact(sde, "eps"), sde, grid("uniform", sde, 4), noise, (2,), after)
    assert ends[0] == ends[-1]


def noting(method, counts):
    def noted(*given):
        counts[method.__name__] += 1
        return method(*given)

    return noted


@pytest.mark.parametrize("process", ["linear", "ve", "rectified"])
def test_the_adaptive_flow_waits_once_a_round(process, monkeypatch):
    """And once where rows have come to the end; all else waits as often in every solution."""
    sde, counts = PROCESSES[process](), Counter()
    for name in ("advance", "solution"):
        monkeypatch.setattr(Dopri5, name, noting(getattr(Dopri5, name), counts))

    def draw(where, tolerance):
        sampler, noise = ProbabilityFlow(1.0, tolerance=tolerance), Noise.of(0, 0, 3, where)
        return sample(sampler, exact(sde, "v"), sde, sampler.times(N), noise, (2,))

    found = []
    for tolerance in (1e-3, 1e-6):
        expected = draw(CPU, tolerance)
        with pretending() as device, watching() as seen:
            counts.clear()
            drawn = draw(device, tolerance)
            waits = list(seen.waits)
            torch.testing.assert_close(drawn.cpu(), expected, rtol=1e-9, atol=1e-9)
        in_rounds = [wait for wait in waits if "nonzero" in wait]
        assert len(in_rounds) == counts["advance"] + counts["solution"]
        found.append((counts["advance"], Counter(waits) - Counter(in_rounds)))
    (few, once), (many, again) = found
    assert 3 <= few < many
    assert once == again
    assert once.total() <= FOR_ITS_TABLES


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
    "dpm, guided": (
        {"model__conditional": True},
        {"sampler": "dpm", "label": "1,2", "guidance": 2.0},
    ),
    "unipc, thresholded": ({}, {"sampler": "unipc", "dynamic_threshold": 0.9, "clip": False}),
    "learned variance": (
        {"training__objective": "hybrid", "model__learned_variance": True},
        {"sampler": "ancestral", "variance": "learned"},
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_no_step_of_a_network_waits(name, experiment_of):
    keys, sampling = NETWORKS[name]

    def drawing(where):
        made = experiment_of("digits", where, **keys)
        made.network.eval()
        noise = Noise.of(0, 0, 2, where)

        def draw(steps):
            made.config.sampling.update(steps=steps, **sampling)
            method = sampling["sampler"]
            plan = build_drawing(made.config, method, made.model, made.data)
            return draw_samples(plan, made.model.sde, noise, (1, 8, 8), 2, method)

        return draw

    expected = drawing(CPU)(3)
    with pretending() as device, watching() as seen:
        draw = drawing(device)
        few = draw(3)
        seen.clear()
        draw(3)
        waits = list(seen.waits)
        seen.clear()
        draw(5)
        assert len(seen.waits) == len(waits), seen.waits
        torch.testing.assert_close(few.cpu(), expected, rtol=1e-4, atol=1e-4)
