"""What a U-Net keeps of a training step for the way back, where norms are one kernel each.

Such a norm costs its reading and writing alone, so it is computed again only where memory asks for
that: where all that would be kept takes more than half of the device's. The other half is for
weights, gradients, the optimiser's moments, and what a convolution needs beside its images.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scoreflow.models.unet_blocks import Attention, ResidualBlock
from scoreflow.runtime.memory import total_memory

SHARE = 0.5
"""Of a device's memory, for what is kept."""


def numbers_kept(modules: Sequence[tuple[nn.Module, int]], stem: int, pixels: int) -> int:
    """Numbers that are kept of an image if nothing is computed again.

    To a tenth; a fourth short where images are resized by the filter.

    Args:
        modules: blocks and what resizes, in order, with the pixels of what comes out of each.
        stem: channels of the stem.
        pixels: of an image.
    """
    channels, size, found = stem, pixels, stem * pixels
    for module, size_of_result in modules:
        larger = max(size, size_of_result)
        parts = [part for part in module.modules() if isinstance(part, ResidualBlock | Attention)]
        for part in parts:
            if isinstance(part, Attention):  # what is normed, q k v, what is mixed, and the sum
                found += 6 * channels * larger
                continue
            inputs, outputs = part.conv_1.in_channels, part.conv_1.out_channels
            found += max(inputs - channels, 0) * larger  # joined with a skip, in one copy
            found += inputs * larger + 3 * outputs * size_of_result  # around its convolutions
            channels = outputs
        if not parts:  # a convolution that resizes, and halving's zeros at the border
            found += channels * (size_of_result + (size if size > size_of_result else 0))
        size = size_of_result
    return found + channels * size


def all_fits(numbers: int, x: Tensor) -> bool:
    """Whether so many numbers an image are kept of these images."""
    size, kind = x.element_size(), x.device.type
    if torch.is_autocast_enabled(kind):
        size = torch.get_autocast_dtype(kind).itemsize
    return numbers * len(x) * size <= SHARE * total_memory(x.device)
