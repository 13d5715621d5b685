"""Spherical interpolation by what defines an arc: its ends, its length, its plane."""

import math

import pytest
import torch

from scoreflow.samplers import slerp
from scoreflow.sde.noise import Noise, Stream

SHARES = torch.linspace(0, 1, 9, dtype=torch.float64)


def two(shape=(1, 4, 4)):
    a, b = Noise.of(4, 0, 2).normal(Stream.DATA, shape)
    return a[None], b[None]


def test_the_ends_are_the_two():
    a, b = two()
    ends = slerp(a, b, SHARES[[0, -1]])
    torch.testing.assert_close(ends, torch.cat((a, b)), rtol=1e-15, atol=1e-15)


def test_of_one_length_all_between_have_it_and_share_out_the_angle():
    a, b = two()
    b = b * a.norm() / b.norm()
    arc = slerp(a, b, SHARES).flatten(1)
    torch.testing.assert_close(arc.norm(dim=1), a.norm().expand(9))
    cosines = (arc[1:] * arc[:-1]).sum(1) / a.norm() ** 2
    whole = math.acos(float((a * b).sum() / a.norm() ** 2))
    torch.testing.assert_close(cosines, torch.full_like(cosines, math.cos(whole / 8)))
    back = slerp(b, a, SHARES).flatten(1).flip(0)
    torch.testing.assert_close(arc, back)


def test_parallel_and_nearly_parallel_vectors_are_joined_by_a_line():
    a, b = two()
    for offset in (0.0, 1e-9, 1e-7):
        near = a + offset * b
        line = a + SHARES.view(-1, 1, 1, 1) * (near - a)
        torch.testing.assert_close(
            slerp(a, near, SHARES), line, rtol=0, atol=10 * offset**2 + 1e-15
        )


def test_of_independent_normals_what_lies_between_is_nearly_normal():
    n, dims = 400, 400
    noise = Noise.of(0, 0, n)
    a, b = noise.normal(Stream.DATA, (dims,)), noise.normal(Stream.DATA, (dims,), draw=1)
    middle = slerp(a, b, torch.full((n,), 0.5, dtype=torch.float64))
    assert abs(float(middle.var()) - 1) < 4 * math.sqrt(2 / (n * dims)) + 2 / dims
    assert abs(float(((a + b) / 2).var()) - 0.5) < 0.01  # which a straight line is not


def test_opposite_vectors_have_no_arc_of_their_own():
    a, _ = two()
    for other in (-a, -2 * a, 0 * a):
        with pytest.raises(ValueError, match="not opposite, nor 0"):
            slerp(a, other, SHARES)
