"""The levels of the U-Net: which blocks each has, how it is left, and what cannot be had."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from scoreflow.models.layers import Doubling, Padding, convolution, doubled, halved, halving
from scoreflow.models.unet_blocks import Block, ResidualBlock, Style


@dataclass(frozen=True)
class Plan:
    """The network between stem and head.

    Attributes:
        widths: channels of the levels, finest first.
        attends: whether each has attention.
        blocks: residual blocks a level on the way down.
        last_only: on the way up, attention after the last block of a level only.
        embedding, dropout, style, sparing: of every block, as in `ResidualBlock`.
        resample, padding, fir: how a level is left, as in `UNet`.
        pyramid: channels of the input, if it is added at each halving; 0 otherwise.
    """

    widths: Sequence[int]
    attends: Sequence[bool]
    blocks: int
    last_only: bool
    embedding: int
    dropout: float
    style: Style
    sparing: bool
    resample: str
    padding: Padding
    fir: bool
    pyramid: int

    def block(self, inputs: int, outputs: int, attends: bool) -> Block:
        """A block of the network."""
        return Block(
            inputs,
            outputs,
            attends,
            embedding=self.embedding,
            dropout=self.dropout,
            style=self.style,
            sparing=self.sparing,
        )

    def halving(self, channels: int) -> nn.Module:
        """The step to the next coarser level."""
        if self.resample == "conv":
            return halving(channels, self.padding)
        return self._resizing(channels, partial(halved, fir=self.fir))

    def doubling(self, channels: int) -> nn.Module:
        """The step to the next finer level."""
        if self.resample == "conv":
            return Doubling(channels)
        return self._resizing(channels, partial(doubled, fir=self.fir))

    def _resizing(self, channels: int, resize: Callable[[Tensor], Tensor]) -> ResidualBlock:
        return ResidualBlock(
            channels,
            channels,
            self.embedding,
            self.dropout,
            self.style,
            self.sparing,
            resize,
            weighted=self.resample == "residual_conv",
        )


class Level(nn.Module):
    """The blocks of one size, and the step to the next size (None at the last level).

    It has no `forward`: `UNet.forward` calls its blocks and places the skip connections.

    Args:
        blocks: its blocks, in order.
        resize: the step to the next size: a residual block, or layers that take h alone.
        pyramid: the convolution of the input pyramid beside a halving, if there is one.
    """

    def __init__(
        self, blocks: list[Block], resize: nn.Module | None, pyramid: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.resize = resize
        self.pyramid = pyramid


def way_down(plan: Plan, stem: int) -> tuple[nn.ModuleList, list[int]]:
    """The levels from fine to coarse, and the channels of the skips that they leave behind."""
    levels, skips, pyramid = nn.ModuleList(), [stem], plan.pyramid
    for level, outputs in enumerate(plan.widths):
        last = level == len(plan.widths) - 1
        resize = None if last else plan.halving(outputs)
        inputs = [skips[-1]] + [outputs] * (plan.blocks - 1)
        blocks = [plan.block(i, outputs, plan.attends[level]) for i in inputs]
        step = None
        if plan.pyramid and not last:
            step, pyramid = convolution(pyramid, outputs, stride=2), outputs
        levels.append(Level(blocks, resize, step))
        skips += [outputs] * (plan.blocks if last else plan.blocks + 1)
    return levels, skips


def way_up(plan: Plan, skips: list[int]) -> nn.ModuleList:
    """The levels from coarse to fine; each block takes one skip more, the last left first."""
    levels, skips, width = nn.ModuleList(), list(skips), plan.widths[-1]
    for level, outputs in reversed(list(enumerate(plan.widths))):
        inputs = [width] + [outputs] * plan.blocks
        attends = [plan.attends[level]] * len(inputs)
        if plan.last_only:
            attends[:-1] = [False] * plan.blocks
        resize = plan.doubling(outputs) if level > 0 else None
        blocks = [
            plan.block(i + skips.pop(), outputs, attend)
            for i, attend in zip(inputs, attends, strict=True)
        ]
        levels.append(Level(blocks, resize))
        width = outputs
    assert not skips, "the way up must take every skip of the way down"
    return levels


def refuse_bad_channels(
    channels: int, multipliers: Sequence[int], num_groups: int, channels_per_group: int
) -> None:
    """Refuse multipliers that are none, and channels that do not fall into groups."""
    if not multipliers or any(not isinstance(m, int) or m < 1 for m in multipliers):
        raise ValueError(f"multipliers must be whole numbers >= 1, got {list(multipliers)}")
    # Every level, and every concatenation of two on the way up, is a whole multiple of `channels`,
    # so this one division covers every GroupNorm of the network that has num_groups groups.
    if num_groups < 1 or (channels_per_group == 0 and channels % num_groups):
        raise ValueError(
            f"channels must be a multiple of num_groups, got {channels} and {num_groups}"
        )


def refuse_bad_levels(
    image_size: int | tuple[int, int], levels: int, blocks: int, attention_sizes: Sequence[int]
) -> list[int]:
    """The larger side of each level's images, if there can be such levels; refuse otherwise."""
    if blocks < 1:
        raise ValueError(f"blocks must be at least 1, got {blocks}")
    sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(sides) != 2 or any(side < 1 or side % 2 ** (levels - 1) for side in sides):
        raise ValueError(
            f"image_size must be a multiple of 2^(levels - 1) = {2 ** (levels - 1)}, one halving "
            f"between two of its {levels} multipliers, got {image_size}"
        )
    sizes = [max(sides) >> level for level in range(levels)]
    if unknown := sorted(set(attention_sizes) - set(sizes)):
        raise ValueError(f"attention_sizes must be among the levels' sizes {sizes}, got {unknown}")
    return sizes


MOST_ATTENDED = 64
"""Larger side, in pixels, of the images that `fitting` gives attention at most."""


def fitting(
    image_size: tuple[int, int], multipliers: Sequence[int], attention_sizes: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...], bool]:
    """What is nearest to the levels asked for and can be had for images of a size.

    Args:
        image_size: height and width in pixels.
        multipliers: of the levels asked for; as many as there can be are kept, finest first.
        attention_sizes: asked for; each becomes the nearest of the levels' sizes.

    Returns:
        multipliers, attention_sizes, and whether the middle can have attention: where the images
        are above `MOST_ATTENDED` there is none.
    """
    halvings = 0
    while all(side % 2 ** (halvings + 1) == 0 for side in image_size):
        halvings += 1
    kept = tuple(multipliers[: halvings + 1])
    sizes = [max(image_size) >> level for level in range(len(kept))]
    small = [size for size in sizes if size <= MOST_ATTENDED]
    near = {min(small, key=lambda s: abs(math.log(s / size))) for size in attention_sizes if small}
    return kept, tuple(sorted(near, reverse=True)), bool(small)


def refuse_bad_choices(given: dict[str, tuple[str, Sequence[str]]]) -> None:
    """Refuse an argument, by its name, that is none of its choices."""
    for name, (value, choices) in given.items():
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
