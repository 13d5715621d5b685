"""Operators against their matrices: the adjoint, the gain, and the pseudo-inverse."""

import pytest
import torch

from scoreflow.samplers import BlockMean, ChannelMean, Masked, Measurement
from scoreflow.samplers.editing.linear_operators import middle_square
from scoreflow.sde.noise import Noise, Stream

SHAPE = (3, 4, 6)
OPERATORS = {
    "mask": Masked(middle_square(SHAPE)),
    "grey": ChannelMean(3),
    "blocks": BlockMean(2),
}


def matrix(operator):
    """A, (M, D), by the images of the unit vectors."""
    units = torch.eye(72, dtype=torch.float64).view(72, *SHAPE)
    return operator.apply(units).flatten(1).T


def normal(shape, draw=0):
    return Noise.of(3, 0, 5).normal(Stream.DATA, tuple(shape), draw)


def test_what_the_operators_are():
    x = normal(SHAPE)
    known = x[:, torch.tensor(middle_square(SHAPE).tolist())]
    torch.testing.assert_close(OPERATORS["mask"].apply(x), known)
    assert not middle_square(SHAPE)[:, 1:3, 1:4].any()
    assert middle_square(SHAPE).sum() == 72 - 18
    torch.testing.assert_close(OPERATORS["grey"].apply(x)[:, 0], (x[:, 0] + x[:, 1] + x[:, 2]) / 3)
    pooled = torch.nn.functional.avg_pool2d(x, 2)
    torch.testing.assert_close(OPERATORS["blocks"].apply(x), pooled)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_adjoint_is_the_transpose(name):
    a = matrix(OPERATORS[name])
    y = normal(OPERATORS[name].apply(normal(SHAPE)).shape[1:], draw=1)
    expected = (y.flatten(1) @ a).view(-1, *SHAPE)
    torch.testing.assert_close(OPERATORS[name].adjoint(y), expected)


@pytest.mark.parametrize("name", OPERATORS)
def test_rows_are_orthogonal_and_of_one_length(name):
    a = matrix(OPERATORS[name])
    gain = OPERATORS[name].gain * torch.eye(len(a), dtype=torch.float64)
    torch.testing.assert_close(a @ a.T, gain, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", OPERATORS)
def test_a_projection_fits_and_is_the_nearest_point_that_does(name):
    operator, a = OPERATORS[name], matrix(OPERATORS[name])
    x, target = normal(SHAPE), normal(SHAPE, draw=2)
    measurement = Measurement(operator, operator.apply(target)[:1], 0.1)
    projected = measurement.projected(x, measurement.value)
    assert (measurement.misfit(projected) < 1e-14).all()
    expected = x.flatten(1) + measurement.residual(x).flatten(1) @ torch.linalg.pinv(a).T
    torch.testing.assert_close(projected.flatten(1), expected)
