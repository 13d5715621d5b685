"""What the budget says of nodes, probes and trajectory, against closed forms, many times over."""

import math

import pytest
import torch

from scoreflow.data.dataset import Data
from scoreflow.likelihood.dataset_likelihood import LikelihoodSettings, measure
from scoreflow.likelihood.error_budget import Budget, budget_of
from scoreflow.likelihood.flow_likelihood import Solver, log_likelihood
from scoreflow.models.score_model import ScoreModel
from scoreflow.sde import VPSDE, Noise
from scoreflow.sde.analytic import gaussian

F64 = torch.float64
SDE = VPSDE.log_linear(1000, sigma_min=1e-3, alpha_min=1e-4)
T = 1.0
SQUARE = torch.randn(6, 6, dtype=F64, generator=torch.Generator().manual_seed(0)) / 3
TRUTH = gaussian(torch.linspace(-0.3, 0.3, 6, dtype=F64), SQUARE @ SQUARE.T + torch.eye(6) / 100)
MEASUREMENTS, IMAGES, AGAIN = 200, 40, 32


def points(count):
    t, noise = torch.tensor(T, dtype=F64), Noise.of(5, 0, count)
    return SDE.alpha(t) * TRUTH.sample(noise), noise


def nats(solver, x, noise):
    found = log_likelihood(TRUTH.denoiser(SDE), SDE, x, T, noise, solver)
    assert (found.status == 0).all()
    return found.log_prob


@pytest.mark.parametrize(("probes", "nodes"), [(1, 16), (2, 12)])
def test_the_part_of_probes_and_nodes_is_the_scatter_about_the_closed_form(probes, nodes):
    """z = (mean - truth) / part has variance 1: that of t with 32 degrees of freedom, 32 / 30.

    Three steps from a node to the next, so that the trajectory adds nothing to speak of.
    """
    x, noise = points(MEASUREMENTS * IMAGES)
    t = torch.tensor(T, dtype=F64)
    solver = Solver(method="nodes", probes=probes, nodes=nodes, substeps=3)
    first = nats(solver, x, noise).view(MEASUREMENTS, IMAGES, -1)
    other = Solver(method="nodes", probes=probes, nodes=nodes, substeps=3, repeat=1)
    second = nats(other, x, noise).mean(1).view(MEASUREMENTS, IMAGES)[:, :AGAIN]
    exact = TRUTH.log_prob(x, SDE.alpha(t), SDE.sigma(t)).view(MEASUREMENTS, IMAGES)
    z = []
    for values, again, truth in zip(first, second, exact, strict=True):
        found = budget_of(
            values,
            probes=probes,
            sign_set=8,
            local=[],
            finer={},
            per_nat=1.0,
            truncation_at_most=None,
            nodes=True,
            repeated=dict(enumerate(again.tolist())),
        )
        z.append((float(values.mean()) - float(truth.mean())) / found.probes)
    scatter = torch.tensor(z).std() / math.sqrt(AGAIN / (AGAIN - 2))
    assert float(scatter) == pytest.approx(1, abs=3.5 / math.sqrt(2 * MEASUREMENTS))
    assert abs(sum(z) / len(z)) < 3.5 / math.sqrt(MEASUREMENTS)


def test_the_part_of_the_trajectory_is_its_error():
    """z = (what a finer one moves 16 images by - the mean error of all) / its standard error.

    The error is to 16 times the steps, of the same nodes and probes.
    """
    count = MEASUREMENTS // 2
    x, noise = points(count * 16)
    solver = Solver(method="nodes", nodes=16, trajectory_tolerance=1e9)
    rough, finer, fine = (
        nats(each, x, noise)[:, 0]
        for each in (solver, solver.finer(10.0), solver.finer(10.0).finer(10.0))
    )
    moved, error = (finer - rough).view(count, 16), float((fine - rough).mean())
    z = (moved.mean(1) - error) / (moved.std(1) / 4)
    assert abs(float((finer - fine).mean())) < abs(error) / 10
    scatter = float(z.std()) / math.sqrt(15 / 13)  # t with 15 degrees of freedom
    assert scatter == pytest.approx(1, abs=3.5 / math.sqrt(2 * count))
    assert abs(float(z.mean())) < 3.5 * float(z.std()) / math.sqrt(count)


class Exact(ScoreModel):
    """The closed form, with the little of a model that a measurement asks."""

    def __init__(self):
        super().__init__(torch.nn.Identity(), SDE, "v", T)
        self.denoise = TRUTH.denoiser(SDE)

    def in_precision(self, _precision):
        return self

    def __call__(self, x_t, t):
        return self.denoise(x_t, t)


@pytest.mark.parametrize("probes", [0, 1, 2])
def test_a_measurement_solves_some_data_at_other_nodes_and_says_so(probes):
    x, noise = points(9)
    data = Data("normal", x, x, None, None, None)
    solver = Solver(method="nodes", nodes=12, probes=probes)
    result = measure(Exact(), data, 0, LikelihoodSettings(solver, seed=5, checked=3)).result
    budget = Budget(**result["error_budget"])
    other = Solver(method="nodes", nodes=12, probes=probes, repeat=1)
    apart = (nats(solver, x, noise) - nats(other, x, noise)).mean(1)[:6]
    assert budget.probes == pytest.approx(math.sqrt(float(apart.square().mean()) / 2 / 9))
    assert budget.repeated == 6
    assert budget.random == ("probes and nodes" if probes else "nodes")
    finer = (nats(solver.finer(10.0), x, noise) - nats(solver, x, noise)).mean(1)[:3]
    moved = math.hypot(float(finer.mean()), float(finer.std()) / math.sqrt(3))
    assert budget.solver == pytest.approx(moved)
    assert f" ({budget.random}" in str(budget) or budget.too_few
    unchecked = measure(Exact(), data, 0, LikelihoodSettings(solver, seed=5, checked=0)).result
    assert unchecked["error_budget"]["probes"] is None
    assert unchecked["value"] == result["value"]
