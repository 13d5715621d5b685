"""The embedding of the index against its formula in float64, and DDPM's law of initial weights."""

import math

import numpy as np
import pytest
import torch

from scoreflow.models.layers import convolution, dense
from scoreflow.models.time_embedding import IndexEmbedding, sinusoidal_embedding


@pytest.mark.parametrize("dim", [4, 32, 128])
def test_sinusoids_are_the_published_formula(dim):
    index = torch.tensor([0.0, 1.0, 0.25, 412.37, 999.0])
    half = dim // 2
    frequencies = 10000.0 ** (-np.arange(half) / (half - 1))
    angles = index.double().numpy()[:, None] * frequencies
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    # An angle of up to 999 radians has a float32 spacing of 6e-5.
    np.testing.assert_allclose(sinusoidal_embedding(index, dim).numpy(), expected, atol=2e-4)
    np.testing.assert_array_equal(sinusoidal_embedding(index, dim)[0, :half].numpy(), 0.0)


def test_sinusoids_stay_float32_under_autocast():
    index = torch.tensor([256.0, 257.0])  # one and the same number in bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        embedding = sinusoidal_embedding(index, 32)
    assert embedding.dtype == torch.float32
    assert torch.equal(embedding, sinusoidal_embedding(index, 32))
    assert (embedding[0] - embedding[1]).abs().max() > 0.5


@pytest.mark.parametrize("dim", [2, 7])
def test_a_number_of_sinusoids_without_a_formula_is_refused(dim):
    with pytest.raises(ValueError, match=f"even number of sinusoids, at least 4, got {dim}"):
        IndexEmbedding(dim, 16)


@pytest.mark.parametrize("scale", [1.0, 2.0, 1e-10])
@pytest.mark.parametrize(
    ("layer", "fan_avg"),
    [
        (lambda scale: dense(100, 300, scale), 200),
        (lambda scale: convolution(32, 64, scale=scale), 9 * 48),
        (lambda scale: convolution(64, 128, 1, scale=scale), 96),
    ],
)
def test_weights_start_uniform_with_variance_scale_over_fan_avg(layer, fan_avg, scale):
    torch.manual_seed(0)
    layer = layer(scale)
    weight = layer.weight.detach().double().flatten()
    variance = scale / fan_avg
    limit = math.sqrt(3 * variance)
    # The variance of n uniform numbers is estimated with relative standard error sqrt(0.8 / n).
    error = math.sqrt(0.8 / len(weight))
    assert weight.square().mean().item() == pytest.approx(variance, rel=5 * error)
    assert 0.999 * limit < weight.abs().max() <= 1.000001 * limit  # uniform, not normal
    assert not layer.bias.any()
