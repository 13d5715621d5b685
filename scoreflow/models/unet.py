"""The U-Net of DDPM (Ho et al. 2020, Appendix B, and its published TensorFlow code).

    stem
    down    per level `blocks` times [residual, attention?], then halve the size
    middle  residual, attention, residual
    up      per level `blocks` + 1 times [residual of (h, skip), attention?], then double the size
    head

Every output of the stem, of a block and of a halving on the way down is a skip connection; the
way up takes them back in reverse, one a block. Attention follows each residual block at the sizes
named in `attention_sizes`. The index reaches every residual block, and with it the class of a
conditional network. The paper's CIFAR-10 network is `UNet(image_size=32, in_channels=3,
out_channels=3)`: 35.7 million parameters.

No layer changes the memory format, so the network runs channels-last if its weights and input are;
none looks at a value, so it compiles whole and never waits for the device.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import repeat

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from scoreflow.models.layers import ZERO_ISH, IndexEmbedding, convolution
from scoreflow.models.unet_blocks import (
    Block,
    Doubling,
    Embedding,
    Image,
    Level,
    Remapped,
    Words,
    again,
    halving,
)

SPARED_FROM = 64
"""Channels of the stem from which residual blocks compute their norms again on the way back.

A tenth of a step at 32 channels, where there is little to save; nothing to be seen at 128.
"""


class UNet(nn.Module):
    """DDPM's network: (x_t, index) -> an estimate of the shape of x_t.

    Args:
        image_size: height and width of an image, in pixels; a multiple of 2^(levels - 1).
        in_channels: channels of x.
        out_channels: channels of the answer.
        channels: channels C of the stem; a multiple of num_groups, and even.
        multipliers: channels of each level as whole multiples of C, finest level first.
        blocks: residual blocks a level on the way down; the way up has one more.
        attention_sizes: sizes of the levels with attention; the middle always has it.
        dropout: probability inside each residual block, in [0, 1], in training only.
        num_groups: groups of each GroupNorm.
        num_classes: K, classes that it is conditioned on; 0 for none.
        recompute: in training, keep of each block only what goes in, and compute it again on the
            way back: a third more arithmetic, and memory for the largest block alone.
    """

    def __init__(
        self,
        *,
        image_size: int,
        in_channels: int,
        out_channels: int,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        attention_sizes: Sequence[int] = (16,),
        dropout: float = 0.1,
        num_groups: int = 32,
        num_classes: int = 0,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        _refuse_bad_channels(channels, multipliers, num_groups)
        _refuse_bad_levels(image_size, len(multipliers), blocks, attention_sizes)
        self.num_classes, self.recompute = num_classes, recompute
        self.x_shape = (in_channels, image_size, image_size)
        widths = [channels * multiplier for multiplier in multipliers]
        attends = [image_size >> level in attention_sizes for level in range(len(widths))]
        block = partial(
            Block,
            embedding=4 * channels,
            dropout=dropout,
            num_groups=num_groups,
            sparing=channels >= SPARED_FROM and not recompute,
        )

        self.embedding = IndexEmbedding(channels, 4 * channels, num_classes)
        self.stem = convolution(in_channels, channels, padding=1)
        self.down, skips = _way_down(channels, widths, attends, blocks, block)
        middle = widths[-1]
        self.middle = nn.ModuleList([block(middle, middle, True), block(middle, middle, False)])
        self.up = _way_up(skips, widths, attends, blocks, block)
        self.head = nn.Sequential(
            nn.GroupNorm(num_groups, widths[0], eps=1e-6),
            nn.SiLU(),
            convolution(widths[0], out_channels, padding=1, scale=ZERO_ISH),
        )
        in_all = len(self.middle) + sum(len(level.blocks) for level in (*self.down, *self.up))
        self.dropout_places = in_all if dropout > 0 else 0

    def forward(
        self,
        x: Image,
        index: Float[Tensor, " batch"],
        label: Int[Tensor, " batch"] | None = None,
        words: Int[Tensor, "batch places 2"] | None = None,
    ) -> Remapped:
        """Evaluate the network.

        Args:
            x: images, (B, in_channels, image_size, image_size).
            index: DDPM's 0-based timestep, t - 1 for time t in steps; any real number, (B,).
            label: classes 0..K-1, or -1 for no class, (B,) int64; None for no class in any row.
            words: in training, what each image's dropout is a function of: (B, dropout_places, 2)
                int64 in [0, 2^32). None to draw them from torch's generator.

        Returns:
            The raw estimate, (B, out_channels, image_size, image_size); under autocast it has
            autocast's dtype.
        """
        if x.shape[1:] != self.x_shape or index.shape != x.shape[:1]:
            raise ValueError(
                f"x must be (B, {', '.join(map(str, self.x_shape))}) and index (B,), "
                f"got {tuple(x.shape)} and {tuple(index.shape)}"
            )
        places = self._places(words, len(x), x.device)
        embedding = self.embedding(index, label)
        skips = [self.stem(x)]
        for level in self.down:
            assert isinstance(level, Level), "made above"
            for block in level.blocks:
                skips.append(self._through(block, skips[-1], embedding, next(places)))
            if level.resize is not None:
                skips.append(level.resize(skips[-1]))
        h = skips[-1]
        for block in self.middle:
            h = self._through(block, h, embedding, next(places))
        for level in self.up:
            assert isinstance(level, Level), "made above"
            for block in level.blocks:
                h = torch.cat((h, skips.pop()), dim=1)
                h = self._through(block, h, embedding, next(places))
            if level.resize is not None:
                h = level.resize(h)
        estimate: Tensor = self.head(h)
        return estimate

    def _places(
        self, words: Tensor | None, batch: int, device: torch.device
    ) -> Iterator[Words | None]:
        """The randomness of each block's dropout, in order; None where nothing drops."""
        count = self.dropout_places
        if not self.training or count == 0:
            return repeat(None)
        if words is None:
            words = torch.randint(2**32, (batch, count, 2), device=device)
        if words.shape != (batch, count, 2):
            raise ValueError(f"words must be {(batch, count, 2)}, got {tuple(words.shape)}")
        return iter(words.unbind(1))

    def _through(
        self, block: nn.Module, h: Image, embedding: Embedding, words: Words | None
    ) -> Remapped:
        """block(h, embedding, words), its activations kept for the way back or not."""
        if self.recompute and self.training and torch.is_grad_enabled():
            return again(block, h, embedding, words)
        found: Tensor = block(h, embedding, words)
        return found


def _way_down(
    width: int,
    widths: list[int],
    attends: list[bool],
    blocks: int,
    block: Callable[[int, int, bool], Block],
) -> tuple[nn.ModuleList, list[int]]:
    """The levels from fine to coarse, and the channels of the skips that they leave behind."""
    levels, skips = nn.ModuleList(), [width]
    for level, outputs in enumerate(widths):
        inputs = [skips[-1]] + [outputs] * (blocks - 1)
        last = level == len(widths) - 1
        resize = None if last else halving(outputs)
        levels.append(Level([block(i, outputs, attends[level]) for i in inputs], resize))
        skips += [outputs] * (blocks if last else blocks + 1)
    return levels, skips


def _way_up(
    skips: list[int],
    widths: list[int],
    attends: list[bool],
    blocks: int,
    block: Callable[[int, int, bool], Block],
) -> nn.ModuleList:
    """The levels from coarse to fine; each block takes one skip more, the last left first."""
    levels, skips, width = nn.ModuleList(), list(skips), widths[-1]
    for level, outputs in reversed(list(enumerate(widths))):
        inputs = [width] + [outputs] * blocks
        resize = Doubling(outputs) if level > 0 else None
        levels.append(
            Level([block(i + skips.pop(), outputs, attends[level]) for i in inputs], resize)
        )
        width = outputs
    assert not skips, "the way up must take every skip of the way down"
    return levels


def _refuse_bad_channels(channels: int, multipliers: Sequence[int], num_groups: int) -> None:
    if not multipliers or any(not isinstance(m, int) or m < 1 for m in multipliers):
        raise ValueError(f"multipliers must be whole numbers >= 1, got {list(multipliers)}")
    # Every level, and every concatenation of two on the way up, is a whole multiple of `channels`,
    # so this one division covers every GroupNorm of the network.
    if num_groups < 1 or channels % num_groups:
        raise ValueError(
            f"channels must be a multiple of num_groups, got {channels} and {num_groups}"
        )


def _refuse_bad_levels(
    image_size: int, levels: int, blocks: int, attention_sizes: Sequence[int]
) -> None:
    if blocks < 1:
        raise ValueError(f"blocks must be at least 1, got {blocks}")
    if image_size < 1 or image_size % 2 ** (levels - 1):
        raise ValueError(
            f"image_size must be a multiple of 2^(levels - 1) = {2 ** (levels - 1)}, one halving "
            f"between two of its {levels} multipliers, got {image_size}"
        )
    sizes = [image_size >> level for level in range(levels)]
    if unknown := sorted(set(attention_sizes) - set(sizes)):
        raise ValueError(f"attention_sizes must be among the levels' sizes {sizes}, got {unknown}")
