"""Layers of the score networks: DDPM's initialisation, and norms over groups.

Every dense and convolutional layer starts as in DDPM (Ho et al. 2020, its TensorFlow code):
weights uniform with variance scale / fan_avg, fan_avg = (fan_in + fan_out) / 2, biases zero. Where
DDPM asks for zeros, the scale is 1e-10 ("zero-ish"): the layer answers nearly 0 at the start, yet
what lies before it gets a gradient that is not exactly 0.
"""

import math

from torch import nn

ZERO_ISH = 1e-10
"""Variance scale of a layer that has to answer (nearly) nothing at the start."""


def dense(inputs: int, outputs: int, scale: float = 1.0) -> nn.Linear:
    """A linear layer with DDPM's start; `scale` is fan_avg times the variance of its weights."""
    layer = nn.Linear(inputs, outputs)
    _initialise(layer, scale)
    return layer


def convolution(
    inputs: int, outputs: int, size: int = 3, stride: int = 1, padding: int = 0, scale: float = 1.0
) -> nn.Conv2d:
    """A size x size convolution with DDPM's start; `scale` as in `dense`."""
    layer = nn.Conv2d(inputs, outputs, size, stride=stride, padding=padding)
    _initialise(layer, scale)
    return layer


def _initialise(layer: nn.Linear | nn.Conv2d, scale: float) -> None:
    # Xavier's uniform law has variance gain^2 / fan_avg.
    nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(scale))
    assert layer.bias is not None, "every layer of the score networks has a bias"
    nn.init.zeros_(layer.bias)


def group_norm(
    channels: int, num_groups: int, channels_per_group: int = 0, eps: float = 1e-6
) -> nn.GroupNorm:
    """GroupNorm over min(channels // channels_per_group, num_groups) groups.

    Args:
        channels: channels of what it normalises.
        num_groups: groups, or the most of them.
        channels_per_group: least channels of a group; 0 for num_groups groups whatever comes in.
        eps: added to the variance of each group.
    """
    groups = num_groups
    if channels_per_group > 0:
        groups = min(channels // channels_per_group, num_groups)
    if groups < 1 or channels % groups:
        raise ValueError(
            f"channels must be a multiple of the groups of their norm, got {channels} in {groups} "
            "(num_groups, channels_per_group)"
        )
    return nn.GroupNorm(groups, channels, eps=eps)
