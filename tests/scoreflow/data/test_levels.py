"""Levels as points: the centres of their bins, and random places within them."""

import pytest
import torch

from scoreflow.data.levels import (
    centres,
    dequantize,
    dtype_of,
    from_uint8,
    gathered,
    points,
    quantize,
    spread,
    to_uint8,
)
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


@pytest.mark.parametrize("num_levels", [2, 17, 256, 257, 4096, 65536])
def test_every_level_comes_back_from_its_bin_and_its_edges(num_levels):
    levels = torch.arange(num_levels).to(dtype_of(num_levels))
    assert dtype_of(num_levels) == (torch.uint8 if num_levels <= 256 else torch.int32)
    for u in (0.0, 0.5, 1 - 2**-20):
        place = torch.full((num_levels,), u, dtype=torch.float64)
        found = quantize(dequantize(levels, place, num_levels), num_levels)
        assert found.dtype == levels.dtype
        assert torch.equal(found, levels)
    beyond = quantize(torch.tensor([-7.0, -1.0, 1.0, 9.0]), num_levels)
    assert beyond.tolist() == [0, 0, num_levels - 1, num_levels - 1]


@pytest.mark.parametrize("num_levels", [2, 17, 256, 4096, 65536])
def test_pictures_go_from_black_to_white_to_the_nearest(num_levels):
    levels = torch.arange(num_levels).to(dtype_of(num_levels))
    for white in (255, 65535):
        exact = [k * white / (num_levels - 1) for k in range(num_levels)]
        found = spread(levels, num_levels, white)
        assert (found.double() - torch.tensor(exact, dtype=torch.float64)).abs().max() <= 0.5
        if num_levels <= white + 1:
            assert torch.equal(gathered(found, num_levels, white), levels)
    assert torch.equal(to_uint8(levels, num_levels).long(), spread(levels, num_levels, 255))
    if num_levels <= 256:
        assert torch.equal(from_uint8(to_uint8(levels, num_levels), num_levels), levels)
