"""Layers of the score networks: DDPM's initialisation, norms over groups, other sizes.

Every dense and convolutional layer starts as in DDPM (Ho et al. 2020, its TensorFlow code):
weights uniform with variance scale / fan_avg, fan_avg = (fan_in + fan_out) / 2, biases zero. Where
DDPM asks for zeros, the scale is 1e-10 ("zero-ish"): the layer answers nearly 0 at the start, yet
what lies before it gets a gradient that is not exactly 0.

An image is halved and doubled by convolutions, by means and repeating, or by the filter
[1, 3, 3, 1] / 8 along each side (Zhang 2019, as in StyleGAN 2 and NCSN++). That is a mean of two
neighbours taken three times, [1, 1] * [1, 1] * [1, 1] / 8, and so it is computed: no weights, and
zeros beyond the border.
"""

import math
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Image = Float[Tensor, "batch channels height width"]
Remapped = Float[Tensor, "batch outputs height width"]  # other channels or another size
Padding = Literal["bottom_right", "symmetric"]

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


class Doubling(nn.Sequential):
    """(B, C, H, W) -> (B, C, 2 H, 2 W): each pixel repeated, then a 3 x 3 convolution.

    A new pixel sees 2 x 2 old ones, each of them through the sum of those weights that meet its
    copies. That is a transposed convolution of stride 2 by the 4 x 4 sums of each 2 x 2 of the
    weights: the same numbers, up to the order of sums, for 4/9 of the products.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Upsample(scale_factor=2, mode="nearest"), convolution(channels, channels, padding=1)
        )

    def forward(self, h: Image) -> Remapped:
        """Apply it; `nn.Sequential.forward(self, h)` is the definition."""
        _, layer = self
        assert isinstance(layer, nn.Conv2d), "made above"
        # transposed: inputs first, and turned around
        sums = F.pad(layer.weight.transpose(0, 1).flip(-2, -1), (1, 1, 1, 1))
        sums = sums[..., :-1, :] + sums[..., 1:, :]
        sums = sums[..., :-1] + sums[..., 1:]
        return F.conv_transpose2d(h, sums, layer.bias, stride=2, padding=1)


def halving(channels: int, padding: Padding = "bottom_right") -> nn.Module:
    """(B, C, H, W) -> (B, C, H / 2, W / 2): a 3 x 3 convolution of stride 2.

    Args:
        channels: C.
        padding: bottom_right is TensorFlow's SAME for an even size, one row and column of zeros
            below and to the right; symmetric puts one on every side, of which the convolution
            sees those at the top and left: another network, which loads the same weights.
    """
    zeros = (0, 1, 0, 1) if padding == "bottom_right" else (1, 1, 1, 1)
    return nn.Sequential(nn.ZeroPad2d(zeros), convolution(channels, channels, stride=2))


def halved(h: Image, fir: bool) -> Remapped:
    """Half the size of h: means of 2 x 2 pixels or, with `fir`, every other pixel of the filter's.

    The filter's four taps lie around each pair of pixels, zeros beyond the border.
    """
    if fir:
        h = F.avg_pool2d(F.avg_pool2d(h, 2, stride=1, padding=1), 2, stride=1)
    return F.avg_pool2d(h, 2)


def doubled(h: Image, fir: bool) -> Remapped:
    """Twice the size of h: each pixel repeated or, with `fir`, interpolated by the filter.

    The filter (times 4, for three of four pixels are zeros before it) is repeating and then two
    means of neighbours: [1, 1] * [1, 2, 1] / 4.
    """
    h = F.interpolate(h, scale_factor=2, mode="nearest")
    if not fir:
        return h
    return F.avg_pool2d(F.avg_pool2d(h, 2, stride=1, padding=1), 2, stride=1)


def filtered(h: Image) -> Remapped:
    """The filter between two zeros on each side, (B, C, H, W) -> (B, C, H + 1, W + 1)."""
    h = F.avg_pool2d(h, 2, stride=1, padding=1)
    return F.avg_pool2d(F.avg_pool2d(h, 2, stride=1, padding=1), 2, stride=1)
