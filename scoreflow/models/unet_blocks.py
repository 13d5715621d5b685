"""Blocks of DDPM's U-Net: residual blocks, self-attention, down- and upsampling.

In training a block of a wide network keeps what goes into its norms, and computes what lies
between norm and convolution again on the way back: cheap next to wide convolutions, and it was the
larger part of all that was kept.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scoreflow.models.dropout import dropout
from scoreflow.models.layers import ZERO_ISH, convolution, dense

Image = Float[Tensor, "batch channels height width"]
Remapped = Float[Tensor, "batch outputs height width"]  # the same pixels, other channels
Embedding = Float[Tensor, "batch embedding"]
Words = Int[Tensor, "batch 2"]  # the randomness of a block's dropout


class Block(nn.Module):
    """A residual block and, where the level has it, the attention that follows.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        attends: whether attention follows.
        embedding, dropout, num_groups, sparing: as in `ResidualBlock`.
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
        sparing: bool,
    ) -> None:
        super().__init__()
        self.residual = ResidualBlock(inputs, outputs, embedding, dropout, num_groups, sparing)
        self.attention = Attention(outputs, num_groups) if attends else nn.Identity()

    def forward(self, h: Image, embedding: Embedding, words: Words | None = None) -> Remapped:
        """Apply both, (B, inputs, H, W) -> (B, outputs, H, W)."""
        found: Tensor = self.attention(self.residual(h, embedding, words))
        return found


class ResidualBlock(nn.Module):
    """h + conv(dropout(SiLU(norm(conv(SiLU(norm(h))) + Dense(embedding))))).

    Args:
        inputs: channels of h.
        outputs: channels of the answer; where they differ, a 1 x 1 convolution carries h over.
        embedding: size of the (already activated) embedding of the index.
        dropout: probability, in [0, 1].
        num_groups: groups of each GroupNorm.
        sparing: in training, compute norms, SiLU and dropout again on the way back.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        dropout: float,
        num_groups: int,
        sparing: bool = False,
    ) -> None:
        super().__init__()
        self.dropout, self.sparing = dropout, sparing
        self.norm_1 = nn.GroupNorm(num_groups, inputs, eps=1e-6)
        self.conv_1 = convolution(inputs, outputs, padding=1)
        self.dense = dense(embedding, outputs)
        self.norm_2 = nn.GroupNorm(num_groups, outputs, eps=1e-6)
        self.conv_2 = convolution(outputs, outputs, padding=1, scale=ZERO_ISH)
        self.shortcut = nn.Identity() if inputs == outputs else convolution(inputs, outputs, 1)

    def forward(self, h: Image, embedding: Embedding, words: Words | None = None) -> Remapped:
        """Apply the block, (B, inputs, H, W) -> (B, outputs, H, W); no words, no dropout."""
        branch = self._spared(self._first, h)
        branch = branch + self.dense(embedding)[:, :, None, None]
        branch = self._spared(self._second, branch, words)
        carried: Tensor = self.shortcut(h)
        return carried + branch

    def _first(self, h: Image) -> Remapped:
        found: Tensor = self.conv_1(F.silu(self.norm_1(h)))
        return found

    def _second(self, h: Image, words: Words | None) -> Image:
        h = F.silu(self.norm_2(h))
        found: Tensor = self.conv_2(h if words is None else dropout(h, words, self.dropout))
        return found

    def _spared(self, half: Callable[..., Tensor], *given: Tensor | None) -> Tensor:
        """half(*given), keeping for the way back what is given alone."""
        # a compiler weighs for itself what to keep and what to compute again
        plain = torch.compiler.is_compiling() or not torch.is_grad_enabled()
        if self.sparing and self.training and not plain:
            return again(half, *given)
        return half(*given)


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
        branch: Tensor = self.proj(mixed[:, 0].transpose(1, 2).unflatten(2, h.shape[2:]))
        return h + branch


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


class Level(nn.Module):
    """The blocks of one size, and the step to the next size (None at the last level).

    It has no `forward`: `UNet.forward` calls its blocks and places the skip connections.
    """

    def __init__(self, blocks: list[Block], resize: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.resize = resize


def halving(channels: int) -> nn.Module:
    """(B, C, H, W) -> (B, C, H / 2, W / 2): a strided convolution, padded as TensorFlow's SAME.

    For an even size that is one row and column at the bottom and right. PyTorch's `padding=1`
    would put them at the top and left: another network, which loads the same weights.
    """
    return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), convolution(channels, channels, stride=2))


def again(part: Callable[..., Tensor], *given: Tensor | None) -> Tensor:
    """part(*given), of which only what is given is kept: it is computed again on the way back.

    As far as needed: a convolution that comes last is not, for its way back asks for what went in.
    Nothing in a part draws from a generator, whose state need therefore not be kept.
    """
    found: Tensor = checkpoint(
        part, *given, use_reentrant=False, preserve_rng_state=False, determinism_check="none"
    )
    return found
