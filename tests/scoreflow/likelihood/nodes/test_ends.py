"""The sum over nodes of an integrand that is not 0 at its ends."""

import math

import pytest
import torch

from scoreflow.likelihood.nodes import clock
from scoreflow.likelihood.nodes.trajectories import Group, Nodes
from scoreflow.sde import Noise


def q_of(angle, low, high):
    """The clock's inverse, from its definition."""
    s = -torch.log(1 / angle.tan() + math.exp(-5))
    place = torch.asinh((s - clock.CENTRE) / clock.WIDTH)
    ends = [
        math.asinh((-math.log(1 / math.tan(a) + math.exp(-5)) - clock.CENTRE) / clock.WIDTH)
        for a in (low, high)
    ]
    return (place - ends[0]) / (ends[1] - ends[0])


@pytest.mark.parametrize("substeps", [1, 3])
def test_a_line_in_the_clock_is_summed_exactly_whatever_the_shift(substeps):
    low, high, rows = 0.3, 1.2, 6
    own = clock.Clock(low, high)

    def field(angle, x, node):
        q = q_of(angle, low, high)
        found = None if node is None else ((2 - 5 * q) / own.angles(q)[1])[:, None]
        return torch.zeros_like(x), found

    nodes = Nodes(own, count=8, tolerance=1.0, max_evaluations=1000, columns=1, repeat=0)
    state = torch.zeros(rows, 2, dtype=torch.float64)
    number = torch.arange(rows)
    group = Group.begin(number, state, Noise.of(3, 0, rows), substeps)
    ended, again = nodes.solve(group, field, torch.zeros_like(number))
    assert again is None
    assert (ended.divergence - (2 - 2.5)).abs().max() < 1e-9  # roundings of the clock's inverse
