"""The U-Net of DDPM (Ho et al. 2020, Appendix B, and its published TensorFlow code).

    stem
    down    per level `blocks` times [residual, attention?], then halve the size
    middle  residual, attention, residual
    up      per level `blocks` + 1 times [residual of (h, skip), attention?], then double the size
    head

Every output of the stem, of a block and of a halving on the way down is a skip connection; the
way up takes them back in reverse, one a block. Attention follows each residual block at the sizes
named in `attention_sizes`. The index reaches every residual block, and with it the class, if the
network is told of classes. The paper's CIFAR-10 network is `UNet(image_size=32, in_channels=3,
out_channels=3)`: 35.7 million parameters.

No layer changes the memory format, so the network runs channels-last if its weights and input are;
none looks at a value, so it compiles whole and never waits for the device.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scoreflow.layers import ZERO_ISH, IndexEmbedding, convolution, dense

Image = Float[Tensor, "batch channels height width"]
Remapped = Float[Tensor, "batch outputs height width"]  # the same pixels, other channels
Embedding = Float[Tensor, "batch embedding"]


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
        num_classes: K, classes that it can be told of; 0 for none.
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
        block = partial(Block, embedding=4 * channels, dropout=dropout, num_groups=num_groups)

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

    def forward(
        self,
        x: Image,
        index: Float[Tensor, " batch"],
        label: Int[Tensor, " batch"] | None = None,
    ) -> Remapped:
        """Evaluate the network.

        Args:
            x: images, (B, in_channels, image_size, image_size).
            index: DDPM's 0-based timestep, t - 1 for time t in steps; any real number, (B,).
            label: classes 0..K-1, or -1 for no class, (B,) int64; None for no class in any row.

        Returns:
            The raw estimate, (B, out_channels, image_size, image_size); under autocast it has
            autocast's dtype.
        """
        if x.shape[1:] != self.x_shape or index.shape != x.shape[:1]:
            raise ValueError(
                f"x must be (B, {', '.join(map(str, self.x_shape))}) and index (B,), "
                f"got {tuple(x.shape)} and {tuple(index.shape)}"
            )
        embedding = self.embedding(index, label)
        skips = [self.stem(x)]
        for level in self.down:
            for block in level.blocks:
                skips.append(self._through(block, skips[-1], embedding))
            if level.resize is not None:
                skips.append(level.resize(skips[-1]))
        h = skips[-1]
        for block in self.middle:
            h = self._through(block, h, embedding)
        for level in self.up:
            for block in level.blocks:
                h = self._through(block, torch.cat((h, skips.pop()), dim=1), embedding)
            if level.resize is not None:
                h = level.resize(h)
        return self.head(h)

    def _through(self, block: nn.Module, h: Image, embedding: Embedding) -> Remapped:
        """block(h, embedding), its activations kept for the way back or not."""
        if self.recompute and self.training and torch.is_grad_enabled():
            return checkpoint(block, h, embedding, use_reentrant=False)
        return block(h, embedding)


class Block(nn.Module):
    """A residual block and, where the level has it, the attention that follows.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        attends: whether attention follows.
        embedding, dropout, num_groups: as in `ResidualBlock`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        attends: bool,
        *,
        embedding: int,
        dropout: float,
        num_groups: int,
    ) -> None:
        super().__init__()
        self.residual = ResidualBlock(inputs, outputs, embedding, dropout, num_groups)
        self.attention = Attention(outputs, num_groups) if attends else nn.Identity()

    def forward(self, h: Image, embedding: Embedding) -> Remapped:
        """Apply both, (B, inputs, H, W) -> (B, outputs, H, W)."""
        return self.attention(self.residual(h, embedding))


class ResidualBlock(nn.Module):
    """h + conv(dropout(SiLU(norm(conv(SiLU(norm(h))) + Dense(embedding))))).

    Args:
        inputs: channels of h.
        outputs: channels of the answer; where they differ, a 1 x 1 convolution carries h over.
        embedding: size of the (already activated) embedding of the index.
        dropout: probability, in [0, 1].
        num_groups: groups of each GroupNorm.
    """

    def __init__(
        self, inputs: int, outputs: int, embedding: int, dropout: float, num_groups: int
    ) -> None:
        super().__init__()
        self.norm_1 = nn.GroupNorm(num_groups, inputs, eps=1e-6)
        self.conv_1 = convolution(inputs, outputs, padding=1)
        self.dense = dense(embedding, outputs)
        self.norm_2 = nn.GroupNorm(num_groups, outputs, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.conv_2 = convolution(outputs, outputs, padding=1, scale=ZERO_ISH)
        self.shortcut = nn.Identity() if inputs == outputs else convolution(inputs, outputs, 1)

    def forward(self, h: Image, embedding: Embedding) -> Remapped:
        """Apply the block, (B, inputs, H, W) -> (B, outputs, H, W)."""
        branch = self.conv_1(F.silu(self.norm_1(h)))
        branch = branch + self.dense(embedding)[:, :, None, None]
        branch = self.conv_2(self.dropout(F.silu(self.norm_2(branch))))
        return self.shortcut(h) + branch


class Attention(nn.Module):
    """h + proj(softmax(q k^T / sqrt(C)) v), one head over the H W pixels; q, k, v from norm(h).

    Args:
        channels: C.
        num_groups: groups of the GroupNorm.
    """

    def __init__(self, channels: int, num_groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(num_groups, channels, eps=1e-6)
        # Three C -> C layers in one product. Its fan_avg is 2 C and theirs is C: hence scale 2.
        self.qkv = convolution(channels, 3 * channels, 1, scale=2.0)
        self.proj = convolution(channels, channels, 1, scale=ZERO_ISH)

    def forward(self, h: Image) -> Image:
        """Apply the attention, (B, C, H, W) -> (B, C, H, W)."""
        # (B, 3 C, H, W) -> (B, 1, H W, 3 C): one head, pixels as tokens. No copy if channels-last.
        tokens = self.qkv(self.norm(h)).flatten(2).transpose(1, 2)[:, None]
        q, k, v = tokens.chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(q, k, v)  # its scale is C^-0.5
        return h + self.proj(mixed[:, 0].transpose(1, 2).unflatten(2, h.shape[2:]))


class Level(nn.Module):
    """The blocks of one size, and the step to the next size (None at the last level).

    `UNet.forward` walks through it: what goes between the blocks is the skip connections' matter.
    """

    def __init__(self, blocks: list[Block], resize: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.resize = resize


def _halving(channels: int) -> nn.Module:
    """(B, C, H, W) -> (B, C, H / 2, W / 2): a strided convolution, padded as TensorFlow's SAME.

    For an even size that is one row and column at the bottom and right. PyTorch's `padding=1`
    would put them at the top and left: another network, which loads the same weights.
    """
    return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), convolution(channels, channels, stride=2))


def _doubling(channels: int) -> nn.Module:
    """(B, C, H, W) -> (B, C, 2 H, 2 W): each pixel repeated, then a convolution."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"), convolution(channels, channels, padding=1)
    )


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
        resize = None if last else _halving(outputs)
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
        resize = _doubling(outputs) if level > 0 else None
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
