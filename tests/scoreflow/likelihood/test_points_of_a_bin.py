"""A point of a level lies in that level's bin, and points lie in all of it."""

import pytest
import torch

from scoreflow.data.levels import centres
from scoreflow.likelihood.dequantization import Dequantizer
from scoreflow.sde import VPSDE, Noise


@pytest.mark.parametrize("name", ["uniform", "truncated_normal"])
@pytest.mark.parametrize("t", [1.0, 30.0])
def test_points_keep_to_their_own_bin_and_fill_it(name, t):
    sde, count = VPSDE.linear(100), 5
    levels = torch.arange(count)[:, None].expand(count, 4000)
    embedding = "uniform" if name == "uniform" else "centre"
    x_t, _ = Dequantizer(name, count, t, embedding).place(None, sde, levels, Noise.of(0, 0, count))
    alpha, sigma = (f(torch.tensor(t, dtype=torch.float64)) for f in (sde.alpha, sde.sigma))
    offset = (x_t / alpha - centres(levels, count)).abs() * count  # 1 at a bin's edge
    assert offset.max() <= 1 + 1e-12
    assert offset.max() > min(0.99, 3 * float(sigma / alpha) * count)
