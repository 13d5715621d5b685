"""Which rows forget their first slopes, and why at a shift of half an interval.

The end of a trajectory is a sum of weights times slopes. Where the first points stand close
together beside the next step, the polynomial through them has weights of both signs, whose sum of
absolute values exceeds the length of the way: what is wrong with a slope, as a network's rounding,
is carried farther than it came. Where they stand wide enough apart no weight is negative, and a
restart would cost accuracy for nothing.
"""

import pytest
import torch

from scoreflow.likelihood.nodes.trajectories import Group, Nodes
from scoreflow.sde import Noise

F64 = torch.float64
COUNT, ROWS = 8, 300


class Even:
    """A clock whose rate is 1."""

    def angles(self, q):
        return q, torch.ones_like(q)


NODES = Nodes(Even(), COUNT, tolerance=1e9, max_evaluations=1000, columns=1, repeat=0)


def solved(slope, size, substeps):
    """States at the end from 0, and the shift of each row; slope (number of the point, angle)."""
    noise, number = Noise.of(7, 0, ROWS), torch.arange(ROWS)
    group = Group.begin(number, torch.zeros(ROWS, size, dtype=F64), noise, substeps)
    calls = iter(range(size + 1000))

    def field(angle, x, node):
        v = slope(next(calls), angle).expand(x.shape)
        return v, None if node is None else x.new_zeros(ROWS, 1)

    ended, rest = NODES.solve(group, field, number * 0)
    assert rest is None
    return ended.state, NODES._grid(group)[0][:, substeps] * COUNT


@pytest.mark.parametrize("substeps", [1, 2, 3])
def test_an_error_of_a_slope_is_never_carried_farther_than_it_came(substeps):
    points = NODES.evaluations(substeps)
    unit = torch.eye(points, dtype=F64)
    weights, shift = solved(lambda k, _angle: unit[k], points, substeps)
    torch.testing.assert_close(weights.sum(1), torch.ones(ROWS, dtype=F64))
    assert shift.min() < 0.02
    assert float(weights.min()) > -1e-12


@pytest.mark.parametrize("substeps", [2, 3])
def test_slopes_that_stand_wide_enough_apart_are_kept(substeps):
    """A restart makes a trapezium of the next step, which leaves f'' h^3 / 12 of a cubic f."""
    end, shift = solved(lambda _k, angle: angle[:, None] ** 3, 1, substeps)
    trapezium = (6 * shift / COUNT) / (12 * (COUNT * substeps) ** 3)
    lost = (end[:, 0] - 1 / 4).abs() / trapezium
    assert (lost[shift > 0.5] < 0.6).all()
    assert (lost[shift < 0.5] > 1).all()
