"""Adams' method with a grid of its own for each row, against polynomials and exact solutions."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from scoreflow.sde.ode import adams as module
from scoreflow.sde.ode.adams import adams, integral_weights

F64 = torch.float64


def random_points(rows=200, count=4):
    generator = torch.Generator().manual_seed(0)
    gaps = torch.rand(rows, count + 1, dtype=F64, generator=generator) + 0.05
    return gaps.cumsum(1).T


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_weights_integrate_the_polynomials_of_their_points(count):
    """Within the points (a correction) and ahead of them (a prediction)."""
    points = random_points(count=count)
    points, ahead = points[:-1], points[-1]
    valid = torch.ones_like(points, dtype=torch.bool)
    for low, high in ((points[-1], ahead), (points[0], points[-1])):
        weights = integral_weights(points, valid, low, high)
        for degree in range(count):
            exact = (high ** (degree + 1) - low ** (degree + 1)) / (degree + 1)
            found = (weights * points**degree).sum(0)
            torch.testing.assert_close(found, exact, rtol=0, atol=1e-9)


def test_points_that_do_not_count_have_no_weight_and_no_effect():
    points = random_points()[:4]
    valid = torch.tensor([False, True, False, True])[:, None].expand_as(points)
    low, high = points[3], points[3] + 0.3
    weights = integral_weights(points, valid, low, high)
    fewer = integral_weights(points[1::2], valid[1::2], low, high)
    assert torch.equal(weights[1::2], fewer)
    assert not weights[::2].any()


def decay(points):
    """dy/dq = -2 sin(6 q) y from y = 1."""
    return torch.exp((torch.cos(6 * points) - 1) / 3)


def shifted(steps, shift):
    nodes = (torch.arange(steps, dtype=F64) + shift) / steps
    return torch.cat((torch.zeros(1, dtype=F64), nodes, torch.ones(1, dtype=F64)))[None]


def worst(grid, restart, slope, exact, after=1):
    def at(k, y):
        return slope(grid[:, k : k + 1], y)

    forget = torch.full((len(grid),), restart)
    steps = adams(at, exact(grid[:, :1]), grid, forget, after)
    errors = [
        float((step.state - exact(grid[:, k + 1 : k + 2])).abs().max())
        for k, step in enumerate(steps)
    ]
    return max(errors), errors[-1]


@pytest.mark.parametrize(
    ("shift", "restart"), [(0.0, False), (0.5, False), (0.99, False), (0.3, True), (1e-10, True)]
)
def test_order_three_from_its_own_start_and_four_from_a_flat_one(shift, restart):
    """The start's second-order correction leaves h^3, unless the slope vanishes there."""

    def smooth(q, y):
        return -2 * torch.sin(6 * q + 1) * y

    def smooth_exact(q):
        return torch.exp((torch.cos(6 * q + 1) - math.cos(1)) / 3)

    def flat(q, y):
        return 40 * q**4 * (1 - q) * y

    def flat_exact(q):
        return torch.exp(8 * q**5 - 20 * q**6 / 3)

    for slope, exact, order in ((smooth, smooth_exact, 3), (flat, flat_exact, 4)):

        def error(steps, slope=slope, exact=exact):
            grid = shifted(steps, shift) if shift else torch.linspace(0, 1, steps + 1)[None]
            return worst(grid.double(), restart, slope, exact)[0]

        coarse, fine = error(128), error(512)
        measured = math.log(coarse / fine) / math.log(4)
        assert measured > order - 0.3  # the last steps still have a little of the next order


def test_a_tiny_first_interval_needs_the_restart():
    """Where rounding in a slope of 1e-7, a float32 network's, would be carried far."""
    grid = shifted(32, 1e-9)

    def rough(q, y):
        k = int((grid[0] == q[0]).nonzero())
        return -2 * torch.sin(6 * q) * y + 1e-7 * (-1) ** k

    assert worst(grid, True, rough, decay)[1] < 1e-3
    assert worst(grid, False, rough, decay)[0] > 1


def test_the_estimate_follows_the_error():
    """Its sum is above the error and within a few orders, and falls at least with the square."""
    totals = []
    for steps in (32, 128):
        grid = shifted(steps, 0.7)

        def at(k, y, grid=grid):
            return -2 * torch.sin(6 * grid[:, k : k + 1]) * y

        found = list(adams(at, decay(grid[:, :1]), grid, torch.tensor([False]), 1))
        error = float((found[-1].state - decay(grid[:, -1:])).abs().max())
        totals.append(float(sum(step.error for step in found)))
        assert error < totals[-1]
    assert totals[1] < totals[0] / 4**1.9


def test_rows_are_bitwise_the_same_in_any_batch():
    generator = torch.Generator().manual_seed(1)
    shifts = torch.rand(17, dtype=F64, generator=generator)
    grid = torch.cat([shifted(8, float(u)) for u in shifts])
    start = torch.randn(17, 5, dtype=F64, generator=generator)

    def last(rows):
        own = grid[rows]

        def at(k, y):
            return (0.5 - own[:, k : k + 1]) * y * y

        return list(adams(at, start[rows], own, shifts[rows] < 0.5, 1))[-1]

    together = last(torch.arange(17))
    for row in (0, 5, 16):
        alone = last(torch.tensor([row]))
        assert torch.equal(alone.state[0], together.state[row])
        assert torch.equal(alone.error[0], together.error[row])


@pytest.mark.parametrize("block", [1, 3, 8])
def test_steps_are_the_same_however_many_weights_are_found_together(block, monkeypatch):
    grid = torch.cat([shifted(8, u) for u in (0.1, 0.4, 0.9)])

    def found():
        def at(k, y):
            return (0.5 - grid[:, k : k + 1]) * y * y

        forget = torch.tensor([True, False, False])
        return [step.state for step in adams(at, torch.ones(3, 2, dtype=F64), grid, forget, 2)]

    together = found()
    monkeypatch.setattr(module, "BLOCK", block)
    assert all(map(torch.equal, together, found()))


class Counted(TorchDispatchMode):
    """How many operations are run."""

    operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations += not func.is_view
        return func(*args, **(kwargs or {}))


def test_a_step_takes_few_operations():
    """8 of its two sums of four slopes and 7 of its error; on a GPU each is a launch."""

    def operations(steps):
        grid, slope = shifted(steps, 0.5), torch.ones(1, 2, dtype=F64)
        with Counted() as counted:
            list(adams(lambda k, y: slope, slope, grid, torch.tensor([True]), 1))
        return counted.operations

    assert operations(41) - operations(21) <= 20 * 16
