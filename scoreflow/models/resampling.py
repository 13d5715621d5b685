"""Halving and doubling of an image: by convolutions, by means and repeating, and by a filter.

The filter [1, 3, 3, 1] / 8 along each side (Zhang 2019, as in StyleGAN 2 and NCSN++) is a mean of
two neighbours taken three times, [1, 1] * [1, 1] * [1, 1] / 8, and that is how it is computed:
no weights, and zeros beyond the border.
"""

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from scoreflow.models.layers import convolution

Image = Float[Tensor, "batch channels height width"]
Remapped = Float[Tensor, "batch outputs height width"]  # other channels or another size
Padding = Literal["bottom_right", "symmetric"]


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
