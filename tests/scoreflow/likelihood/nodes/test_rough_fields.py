"""Fields that no step resolves, or that carry a state away: each has an answer, and its error."""

import math

import pytest
import torch

from scoreflow.data.dataset import Data
from scoreflow.likelihood.dataset_likelihood import CHECK_FACTOR, LikelihoodSettings, measure
from scoreflow.likelihood.flow_likelihood import Solver, log_likelihood
from scoreflow.models.score_model import ScoreModel
from scoreflow.sde import VPSDE, Noise, Status, Stream
from scoreflow.sde.prediction import predict

F64 = torch.float64
VP = VPSDE.log_linear(1000, sigma_min=1e-3, alpha_min=1e-4)
SOLVER = Solver(probes=0, method="nodes", nodes=8)
T, SIZE = 1.0, 8
FIRST, LAST = (float(VP.angle(torch.tensor(t, dtype=F64))) for t in (T, 1000.0))


def points(count):
    return Noise.of(3, 0, count).normal(Stream.DATA, (SIZE,))


def solved(field, x, solver=SOLVER, first=0):
    def denoiser(x_t, t):
        angle = VP.angle(t).reshape(-1, 1) if t.ndim else VP.angle(t)
        return predict(VP, x_t, t, "v", field(angle, x_t))

    noise = Noise.of(3, first, first + len(x))
    return log_likelihood(denoiser, VP, x, T, noise, solver)


def nats(latent):
    return torch.distributions.Normal(0, 1).log_prob(latent).sum(1)


@pytest.mark.parametrize("power", [5, 20])
def test_a_state_that_grows_out_of_all_bounds_is_solved_to_relative_errors(power):
    """v = a x: x e^(a angle), as of a barely trained network; div v = a D. To 1e13 here.

    A local error of a part c of the state moves the end by that part: by tolerance in all.
    """
    x, grown = points(6), math.exp(power * (LAST - FIRST))
    found = solved(lambda _angle, x_t: power * x_t, x)
    assert (found.status == Status.DONE).all()
    assert found.evaluations.max() < 1000
    off = (found.latent / (x * grown)).log().abs()
    assert float(off.max()) < 2 * SOLVER.trajectory_tolerance
    exact = nats(x * grown)
    assert float((found.log_prob[:, 0] / exact - 1).abs().max()) < 5 * SOLVER.trajectory_tolerance


def wave(swing):
    """A sawtooth in time, faster than any step, on N(0, 1), whose own flow stands still.

    It moves the end by no more than its last period's half: the density is that of the start.
    """

    def field(angle, x_t):
        return (swing * (SPEED * angle % 1 - 0.5)).expand_as(x_t) + 0 * x_t

    return field


SPEED = 1e5


def attempts(most):
    """Evaluations of attempts at 1, 2, 4 ... most substeps."""
    return sum(1 + 9 * 2**k for k in range(int(math.log2(most)) + 1))


@pytest.mark.parametrize(("swing", "most"), [(0.8, 8), (10.0, 16)])
def test_a_wave_that_no_step_resolves_is_taken(swing, most):
    """A small one when three doublings did not help, and a large one at 16 times the substeps."""
    found = solved(wave(swing), points(64))
    assert (found.status == Status.DONE).all()
    rough = found.solver_error / math.sqrt(SIZE) > SOLVER.trajectory_tolerance
    assert float(rough.double().mean()) > 0.9
    assert float((found.evaluations == attempts(most)).double().mean()) > 0.7
    assert found.evaluations.max() <= attempts(16)


def test_the_error_of_rough_rows_is_in_the_part_of_the_solver():
    x = points(64)
    found, finer = (
        solved(wave(0.8), own, solver)
        for own, solver in ((x, SOLVER), (x[:16], SOLVER.finer(CHECK_FACTOR)))
    )
    assert (finer.status == Status.DONE).all()
    error = found.log_prob[:, 0] - nats(x)
    moved = (finer.log_prob - found.log_prob[:16])[:, 0]
    part = math.hypot(float(moved.mean()), float(moved.std()) / 4)
    assert abs(float(error.mean())) < 3 * part
    assert float(error.std()) < 3 * float(moved.std())


def test_rough_rows_are_bitwise_the_same_in_any_batch():
    x = points(9)
    together = solved(wave(0.8), x)
    for first, last in ((0, 1), (1, 3), (3, 9)):
        found = solved(wave(0.8), x[first:last], first=first)
        for name in ("log_prob", "latent", "evaluations", "solver_error"):
            assert torch.equal(getattr(found, name), getattr(together, name)[first:last]), name


def test_a_state_beyond_all_numbers_ends_early():
    """E^(1e40 angle) is no float64: no number of steps helps, and few are tried."""
    found = solved(lambda _angle, x_t: 1e40 * x_t, points(2))
    assert (found.status == Status.NOT_FINITE).all()
    assert (found.evaluations == attempts(16)).all()


class Wave(ScoreModel):
    """The wave, with the little of a model that a measurement asks."""

    def __init__(self, swing):
        super().__init__(torch.nn.Identity(), VP, "v", T)
        self.field = wave(swing)

    def in_precision(self, _precision):
        return self

    def __call__(self, x_t, t):
        return predict(VP, x_t, t, "v", self.field(VP.angle(t).reshape(-1, 1), x_t))


@pytest.mark.parametrize("swing", [0.0, 0.8])
def test_a_measurement_says_that_trajectories_are_rough(swing):
    x = points(6)
    data = Data("normal", x, x, None, None, None)
    measured = measure(Wave(swing), data, 0, LikelihoodSettings(SOLVER, seed=3, checked=0))
    said = measured.result.get("warning", "")
    assert ("6 of 6 trajectories are rough" in said) == (swing > 0)
    assert ("likelihood.trajectory_tolerance = 0.05" in measured.line) == (swing > 0)
