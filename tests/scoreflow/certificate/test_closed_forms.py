"""Processes, steps and the other parts are their formulas, and a wrong one is caught.

Breaks of the code itself are in `tests/breaks/`; here the formulas are held against other things.
"""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from scoreflow.certificate import one_flow
from scoreflow.certificate.chain_is_sde import chain
from scoreflow.certificate.closed_forms import methods, numbers, processes, sampler_steps
from scoreflow.certificate.closed_forms.estimates import estimates
from scoreflow.certificate.coverage import LOOKED_AT, NOT_LOOKED_AT
from scoreflow.certificate.flow_matching.preconditioning import preconditioned
from scoreflow.certificate.flow_matching.times import time_laws
from scoreflow.cli.modes.equivalence import _log_density
from scoreflow.models.mlp import MLP
from scoreflow.models.score_model import ScoreModel
from scoreflow.samplers import DDIM, Sampler, grid
from scoreflow.schema.samplers import SAMPLERS
from scoreflow.sde import (
    EDMSDE,
    VESDE,
    VPSDE,
    Noise,
    RectifiedSDE,
    Rescaled,
    Stream,
    SubVPSDE,
)
from scoreflow.sde.analytic import gaussian
from scoreflow.sde.base import Ended

OWN = [
    VPSDE.cosine(40),
    VPSDE.linear_continuous(40),
    SubVPSDE.log_linear(40, 5e-4),
    VESDE(2, 0.01, 50.0),
    Rescaled(Ended(VESDE(40, 1e-3, 50.0), 25), 255 / 256),
    RectifiedSDE(40),
    RectifiedSDE(1),
    Ended(RectifiedSDE(40), 38),
    EDMSDE(40),
    EDMSDE(2, 0.01, 50.0, 3.0),
]


def failed(rows):
    return [(row.name, row.residual) for row in rows if not row.passed]


@pytest.mark.parametrize("sde", OWN, ids=lambda sde: type(sde).__name__)
def test_any_run_is_its_formulas(sde):
    own = [processes.of(sde)]
    assert failed(processes.processes(own)) == []
    assert failed(sampler_steps.sampler_steps(own)) == []
    few = replace(own[0], name="VP")
    rows = [*numbers.numbers([few]), *estimates([few], _log_density)]
    # guidance converts to x_0 and back, which where alpha is small loses more than half the digits
    assert failed(row for row in rows if "guidance" not in row.name) == []
    assert failed([*time_laws(own), *preconditioned(own)]) == []


def test_every_sampler_of_the_command_line_has_a_row():
    assert {each.of for each in sampler_steps.VARIANTS} == set(SAMPLERS)
    known = processes.every_process()
    for each in sampler_steps.VARIANTS:
        assert type(each.build(known[0])).__name__ == SAMPLERS[each.of].method


def test_every_group_says_what_it_looked_at():
    assert [number for number, _ in LOOKED_AT] == list(range(1, len(LOOKED_AT) + 1))
    assert len(NOT_LOOKED_AT) > 5


def test_the_formulas_estimates_are_those_of_the_exact_denoiser():
    known = processes.every_process()[5]  # its scale is not 1
    world = methods.World(known, Noise.of(0, 0, 6), [], [])
    x, t = world.noise.normal(Stream.DATA, (3,)), torch.tensor(7.3, dtype=torch.float64)
    mean = torch.tensor(methods.MEAN, dtype=torch.float64)
    law = gaussian(mean, methods.SPREAD**2 * torch.eye(3, dtype=torch.float64))
    for exact in (law.denoiser(known.sde), sampler_steps.exact(known.sde)):
        found = exact(x, t)
        torch.testing.assert_close(found.x_0, world.x_0(x, float(t)))
        torch.testing.assert_close(found.eps, world.eps(x, float(t)))
        torch.testing.assert_close(found.score, -world.pull(x, float(t)))


def test_quadrature_is_exact_for_an_exponential():
    """The integral of e^lambda over a step is e^end - e^start, whatever constant is kept."""
    one = [(0.3, torch.ones(1, dtype=torch.float64))]
    found = methods._integral(one, -2.0, 7.0, lambda at: methods.np.exp(at))
    assert float(found) == pytest.approx(math.exp(7) - math.exp(-2), rel=1e-13)
    line = [(1.0, torch.ones(1).double()), (3.0, 3 * torch.ones(1).double())]  # y = x
    assert float(methods._integral(line, 0.0, 2.0, methods.np.ones_like)) == pytest.approx(2)


def test_grids_have_every_end():
    for n in (1, 2, 3, 30, 1000):
        for times in sampler_steps.grids(n):
            assert times[0] == n
            assert times[-1] == 0
            assert all(a > b for a, b in itertools.pairwise(times))
    assert numbers.WHOLE["quadratic"] == grid("quadratic", VPSDE.linear(30), 6).tolist()


class Late(DDIM):
    """A step that ends a thousandth too early."""

    def step(self, x_t, step):
        return super().step(x_t, replace(step, s=step.s + 1e-3 * (step.t - step.s)))


class Nan(DDIM):
    def step(self, x_t, step):
        return torch.nan * x_t


@pytest.mark.parametrize("sampler", [Late(), Nan()], ids=lambda each: type(each).__name__)
def test_a_wrong_step_is_caught(sampler: Sampler):
    known = processes.every_process()[:1]
    wrong = sampler_steps.Variant("ddim", lambda _: sampler, methods.ddim(0.0))
    row = sampler_steps._row("ddim", [wrong], known, "cpu")
    assert not row.passed


def test_a_wrong_process_is_caught():
    known = processes.every_process()
    mixed = replace(known[0], sde=known[2].sde)
    (row,) = processes.processes([mixed])
    assert not row.passed
    shifted = replace(known[6], variance=lambda t: known[6].variance(max(t, 0.5)))
    assert not processes.processes([shifted])[0].passed


def test_a_process_of_one_step_has_no_row_between_two_times(monkeypatch):
    sde = VPSDE(torch.tensor([0.5]))
    assert failed(estimates([processes.of(sde)], _log_density)) == []
    assert failed(chain(sde)) == []
    monkeypatch.setattr(one_flow, "_clocks", lambda _: [])
    model = ScoreModel(MLP(2, 8, 1), sde, "v")
    assert failed(one_flow.flows(model, sde, model.t_min, Noise.of(0, 0, 4, "cpu"), (2,))) == []


def test_an_unknown_process_is_said():
    class Other(VPSDE):
        pass

    assert failed(processes.processes([processes.of(Other.linear(30))])) == []
    with pytest.raises(AssertionError, match="closed forms of object are not known"):
        processes.of(object())
