"""Levels as points: the centres of their bins, and random places within them."""

import pytest
import torch

from scoreflow.data.levels import centres, dequantize, points, quantize
from scoreflow.sde.noise import Noise, Stream

LEVELS = torch.arange(17, dtype=torch.uint8).expand(3, 17)


def test_centres_are_half_a_bin_above_the_edges():
    found = centres(LEVELS, 17)
    assert found.dtype == torch.float64
    assert found.tolist() == [[2 * (k + 0.5) / 17 - 1 for k in range(17)]] * 3


def test_points_are_where_the_noise_says_or_at_the_centres():
    noise = Noise.of(3, 5, 8)
    u = noise.uniform(Stream.DEQUANTIZE, (17,))
    found = points(LEVELS, 17, noise, Stream.DEQUANTIZE)
    assert torch.equal(found, dequantize(LEVELS, u, 17))
    assert torch.equal(quantize(found, 17), LEVELS)
    assert torch.equal(points(LEVELS, 17, noise, Stream.DEQUANTIZE, "centre"), centres(LEVELS, 17))


@pytest.mark.parametrize("embedding", ["uniform", "centre"])
def test_vectors_stay_what_they_are(embedding):
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    found = points(x, None, Noise.of(0, 0, 3), Stream.DATA, embedding)
    assert found.dtype == torch.float64
    assert torch.equal(found, x.double())
