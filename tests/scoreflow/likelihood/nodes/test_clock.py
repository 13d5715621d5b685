"""The clock of the nodes: from end to end, increasing, with its derivative, for any ends."""

import math

import pytest
import torch

from scoreflow.likelihood.nodes.clock import Clock
from scoreflow.sde import EDMSDE, VPSDE, RectifiedSDE

F64 = torch.float64


def angle(sde, t):
    return float(sde.angle(torch.tensor(float(t), dtype=F64)))


PROCESSES = {
    "vp": VPSDE.linear(1000),
    "cosine": VPSDE.cosine(1000),
    "rectified": RectifiedSDE(1000),
    "edm": EDMSDE(1000),
}
ENDS = [
    (angle(sde, t), angle(sde, sde.num_steps))
    for sde in PROCESSES.values()
    for t in (1e-3, 1, 900)
] + [(1e-9, math.pi / 2), (1.5, math.pi / 2), (1e-6, 1e-5)]


@pytest.mark.parametrize(("start", "end"), ENDS)
def test_the_clock_goes_from_end_to_end(start, end):
    clock = Clock(start, end)
    q = torch.linspace(0, 1, 2001, dtype=F64)
    angles, rates = clock.angles(q)
    assert angles.min() >= start
    assert angles.max() <= end
    assert float(angles[0]) == pytest.approx(start, rel=1e-11)
    assert float(angles[-1]) == pytest.approx(end, rel=1e-11)
    assert (angles.diff() >= 0).all()
    assert (angles.diff() > 0).float().mean() > 0.99
    assert (rates > 0).all()
    # a closed form's integral over [0, 1] by Simpson's rule, itself of order 4
    weights = torch.ones(2001, dtype=F64)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    assert float((weights * rates).sum() / 6000) == pytest.approx(end - start, rel=1e-7)


@pytest.mark.parametrize(("start", "end"), ENDS)
def test_the_rate_is_the_derivative(start, end):
    q = torch.linspace(0.01, 0.99, 99, dtype=F64, requires_grad=True)
    angles, rates = Clock(start, end).angles(q)
    (derivative,) = torch.autograd.grad(angles.sum(), q)
    torch.testing.assert_close(rates.detach(), derivative, rtol=1e-9, atol=0)


def test_angles_have_the_same_bits_anywhere_in_a_tensor():
    clock = Clock(1e-3, math.pi / 2)
    q = torch.rand(101, dtype=F64, generator=torch.Generator().manual_seed(0))
    for whole, each in zip(
        clock.angles(q), zip(*(clock.angles(one) for one in q.split(1)), strict=True), strict=True
    ):
        assert torch.equal(whole, torch.cat(each))


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, 1.0), (1.2, 0.3)])
def test_a_start_without_noise_is_refused(start, end):
    with pytest.raises(ValueError, match="0 < start < end"):
        Clock(start, end)
