"""Blocks of DDPM's U-Net: residual blocks, which may resize, and self-attention.

In training a block of a wide network keeps what goes into its norms, and computes what lies
between norm and convolution again on the way back: cheap next to wide convolutions, and it was the
larger part of all that was kept.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scoreflow.models.kernels.fused import fuses, norm_act_drop
from scoreflow.models.layers import ZERO_ISH, Image, Remapped, convolution, dense, group_norm

Embedding = Float[Tensor, "batch embedding"]
Words = Int[Tensor, "batch 2"]  # the randomness of a block's dropout


@dataclass(frozen=True)
class Style:
    """What all blocks of a network share; DDPM's, but for the groups.

    Attributes:
        num_groups, channels_per_group, norm_eps: of each norm, as in `group_norm`.
        scale_shift: the embedding scales and shifts the second norm's output.
        rescaled: the sum of h and a branch is divided by sqrt 2.
        heads: heads of each attention.
        head_channels: channels of a head instead, 0 for none.
    """

    num_groups: int
    channels_per_group: int = 0
    norm_eps: float = 1e-6
    scale_shift: bool = False
    rescaled: bool = False
    heads: int = 1
    head_channels: int = 0

    def norm(self, channels: int) -> nn.GroupNorm:
        """A GroupNorm of so many channels."""
        return group_norm(channels, self.num_groups, self.channels_per_group, self.norm_eps)

    def joined(self, h: Tensor, branch: Tensor) -> Tensor:
        """H + branch, or (h + branch) / sqrt 2."""
        found = h + branch
        return found * 2**-0.5 if self.rescaled else found

    def heads_of(self, channels: int) -> int:
        """Heads of an attention over so many channels."""
        heads = channels // self.head_channels if self.head_channels > 0 else self.heads
        if heads < 1 or channels % heads or channels % max(self.head_channels, 1):
            raise ValueError(
                "attention needs a multiple of its heads (heads, head_channels) in channels, got "
                f"{channels} for {self.head_channels or self.heads}"
            )
        return heads


class Block(nn.Module):
    """A residual block and, where the level has it, the attention that follows.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        attends: whether attention follows.
        embedding, dropout, style, sparing: as in `ResidualBlock`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        attends: bool,
        *,
        embedding: int,
        dropout: float,
        style: Style,
        sparing: bool,
    ) -> None:
        super().__init__()
        self.residual = ResidualBlock(inputs, outputs, embedding, dropout, style, sparing)
        self.attention = Attention(outputs, style) if attends else nn.Identity()

    def forward(self, h: Image, embedding: Embedding, words: Words | None = None) -> Remapped:
        """Apply both, (B, inputs, H, W) -> (B, outputs, H, W)."""
        found: Tensor = self.attention(self.residual(h, embedding, words))
        return found


class ResidualBlock(nn.Module):
    """h + conv(dropout(SiLU(norm(conv(SiLU(norm(h))) + Dense(embedding))))).

    With `style.scale_shift` the embedding comes after the second norm, as in ADM:
    norm(conv(...)) (1 + scale) + shift, [scale, shift] = Dense(embedding). One that resizes does
    so before the first convolution, conv(resize(SiLU(norm(h)))), and resizes h alike.

    Args:
        inputs: channels of h.
        outputs: channels of the answer; where they differ, a 1 x 1 convolution carries h over.
        embedding: size of the (already activated) embedding of the index.
        dropout: probability, in [0, 1].
        style: norms, and how embedding and branch are added.
        sparing: in training, compute norms, SiLU and dropout again on the way back.
        resize: what halves or doubles the size; None for a block that keeps it.
        weighted: a 1 x 1 convolution carries h over also where inputs and outputs are alike.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        dropout: float,
        style: Style,
        sparing: bool = False,
        resize: Callable[[Tensor], Tensor] | None = None,
        weighted: bool = False,
    ) -> None:
        super().__init__()
        self.dropout, self.sparing, self.style, self.resize = dropout, sparing, style, resize
        self.norm_1 = style.norm(inputs)
        self.conv_1 = convolution(inputs, outputs, padding=1)
        self.dense = dense(embedding, (2 if style.scale_shift else 1) * outputs)
        self.norm_2 = style.norm(outputs)
        self.conv_2 = convolution(outputs, outputs, padding=1, scale=ZERO_ISH)
        plain = inputs == outputs and not weighted
        self.shortcut = nn.Identity() if plain else convolution(inputs, outputs, 1)

    def forward(self, h: Image, embedding: Embedding, words: Words | None = None) -> Remapped:
        """Apply the block, (B, inputs, H, W) -> (B, outputs, H, W); no words, no dropout."""
        branch = self._spared(self._first, h)
        told: Tensor | None = self.dense(embedding)
        if told is not None and not (self.style.scale_shift or fuses(branch)):
            branch, told = branch + told[:, :, None, None], None  # the sum alone is kept
        branch = self._spared(self._second, branch, told, words)
        carried: Tensor = self.shortcut(h if self.resize is None else self.resize(h))
        return self.style.joined(carried, branch)

    def _first(self, h: Image) -> Remapped:
        h = norm_act_drop(self.norm_1, h)
        found: Tensor = self.conv_1(h if self.resize is None else self.resize(h))
        return found

    def _second(self, h: Image, told: Embedding | None, words: Words | None) -> Image:
        found: Tensor = self.conv_2(norm_act_drop(self.norm_2, h, told, words, self.dropout))
        return found

    def _spared(self, half: Callable[..., Tensor], *given: Tensor | None) -> Tensor:
        """half(*given), keeping for the way back what is given alone."""
        # a compiler weighs for itself what to keep and what to compute again
        plain = torch.compiler.is_compiling() or not torch.is_grad_enabled()
        if self.sparing and self.training and not plain:
            return again(half, *given)
        return half(*given)


class Attention(nn.Module):
    """h + proj(softmax(q k^T / sqrt(D)) v) over the H W pixels; q, k, v from norm(h).

    With several heads each has D = C / heads of the channels, in order; with one, D = C. The rows
    of the weights of q, k and v are ordered (3, head, channel).

    Args:
        channels: C.
        style: heads, norm, and how the branch is added.
    """

    def __init__(self, channels: int, style: Style) -> None:
        super().__init__()
        self.style, self.heads = style, style.heads_of(channels)
        self.norm = style.norm(channels)
        # Three C -> C layers in one product. Its fan_avg is 2 C and theirs is C: hence scale 2.
        self.qkv = convolution(channels, 3 * channels, 1, scale=2.0)
        self.proj = convolution(channels, channels, 1, scale=ZERO_ISH)

    def forward(self, h: Image) -> Image:
        """Apply the attention, (B, C, H, W) -> (B, C, H, W)."""
        # (B, 3 C, H, W) -> (3, B, heads, H W, D): pixels as tokens. No copy if channels-last.
        tokens = self.qkv(norm_act_drop(self.norm, h, active=False)).flatten(2).transpose(1, 2)
        q, k, v = tokens.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)  # its scale is D^-0.5
        mixed = mixed.transpose(1, 2).flatten(2)  # (B, H W, C)
        branch: Tensor = self.proj(mixed.transpose(1, 2).unflatten(2, h.shape[2:]))
        return self.style.joined(h, branch)


def again(part: Callable[..., Tensor], *given: Tensor | None) -> Tensor:
    """part(*given), of which only what is given is kept: it is computed again on the way back.

    As far as needed: a convolution that comes last is not, for its way back asks for what went in.
    Nothing in a part draws from a generator, whose state need therefore not be kept.
    """
    found: Tensor = checkpoint(
        part, *given, use_reentrant=False, preserve_rng_state=False, determinism_check="none"
    )
    return found
