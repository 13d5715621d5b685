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

Its descendants differ in a few places, each an argument here, so that their weights can be loaded:
DDPM++ and NCSN++ (Song et al. 2021), Nichol & Dhariwal 2021, ADM (Dhariwal & Nichol 2021), EDM
(Karras et al. 2022) and the networks of diffusers. The defaults are DDPM's.

No layer changes the memory format, so the network runs channels-last if its weights and input are;
none looks at a value, so it compiles whole and never waits for the device.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from scoreflow.models.kernels.fused import fuses, norm_act_drop
from scoreflow.models.kernels.kept import all_fits, numbers_kept
from scoreflow.models.layers import ZERO_ISH, Image, Padding, Remapped, convolution, filtered
from scoreflow.models.time_embedding import IndexEmbedding, Order
from scoreflow.models.unet_blocks import Embedding, ResidualBlock, Style, Words, again
from scoreflow.models.unet_levels import (
    Level,
    Plan,
    refuse_bad_channels,
    refuse_bad_choices,
    refuse_bad_levels,
    way_down,
    way_up,
)

SPARED_FROM = 64
"""Channels of the stem from which residual blocks compute their norms again on the way back.

A tenth of a step at 32 channels, where there is little to save; nothing to be seen at 128.
"""


class Head(nn.Sequential):
    """Norm, SiLU and the last convolution."""

    def forward(self, h: Image) -> Remapped:
        """Apply it; `nn.Sequential.forward(self, h)` is the definition."""
        norm, _, last = self
        assert isinstance(norm, nn.GroupNorm), "made above"
        found: Tensor = last(norm_act_drop(norm, h))
        return found


class UNet(nn.Module):
    """DDPM's network: (x_t, index) -> an estimate of the shape of x_t.

    Args:
        image_size: height and width of an image, one number or two, in pixels; each a multiple of
            2^(levels - 1).
        in_channels: channels of x.
        out_channels: channels of the answer.
        channels: channels C; a multiple of num_groups (unless channels_per_group), and even.
        multipliers: channels of each level as whole multiples of C, finest level first.
        blocks: residual blocks a level on the way down; the way up has one more.
        attention_sizes: levels with attention, each by the larger side of its images.
        dropout: probability inside each residual block, in [0, 1], in training only.
        num_groups: groups of each GroupNorm.
        num_classes: K, classes that it is conditioned on; 0 for none.
        recompute: in training, keep of each block only what goes in, and compute it again on the
            way back: a third more arithmetic, and memory for the largest block alone.
        norm_eps: eps of each GroupNorm, (h - mean) / sqrt(variance + eps).
        channels_per_group: if not 0, a norm of c channels has min(c // this, num_groups) groups.
        heads: heads of each attention.
        head_channels: if not 0, c / this heads where there are c channels.
        attention_up: on the way up, attention after each block of a level, or its last one.
        attention_middle: whether the middle has attention.
        scale_shift: norm_2(h) (1 + scale) + shift, both from the embedding, not norm_2(h + shift).
        rescaled_skips: (h + branch) / sqrt 2 after each residual block and each attention.
        resample: halve and double by a convolution, or by a residual block, conv_1(resize(SiLU(
            norm_1(h)))), whose shortcut is resize(h) or a 1 x 1 convolution of it.
        padding: zeros that a halving convolution gets: below and to the right, or on every side.
        fir: residual blocks resize by the filter [1, 3, 3, 1], not by means and repeating.
        input_pyramid: at each halving p <- conv(filter(p)), of stride 2 and first of x itself, is
            added: h <- (h + p) / sqrt 2, p <- h.
        stem_multiplier: channels of the stem as a multiple of C.
        embedding_channels: E, of which the embedding has 4 E; 0 for C.
        time_embedding: E sinusoids at fixed frequencies, or 2 E at random ones,
            sin(2 pi W index), W stored as `embedding.frequencies`.
        embedding_order: sines or cosines first.
        frequency_shift: fixed frequencies 10000^(-k / (E / 2 - shift)), 1 or 0.
        class_embedding: a class is a vector added after the second dense layer, or to the
            sinusoids before the first.
        null_class: whether there is a vector for no class; a network without needs a label.
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int],
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
        norm_eps: float = 1e-6,
        channels_per_group: int = 0,
        heads: int = 1,
        head_channels: int = 0,
        attention_up: Literal["each", "last"] = "each",
        attention_middle: bool = True,
        scale_shift: bool = False,
        rescaled_skips: bool = False,
        resample: Literal["conv", "residual", "residual_conv"] = "conv",
        padding: Padding = "bottom_right",
        fir: bool = False,
        input_pyramid: bool = False,
        stem_multiplier: int = 1,
        embedding_channels: int = 0,
        time_embedding: Literal["positional", "fourier"] = "positional",
        embedding_order: Order = "sin_cos",
        frequency_shift: int = 1,
        class_embedding: Literal["after", "before"] = "after",
        null_class: bool = True,
    ) -> None:
        super().__init__()
        refuse_bad_choices(
            {
                "attention_up": (attention_up, ("each", "last")),
                "resample": (resample, ("conv", "residual", "residual_conv")),
                "padding": (padding, ("bottom_right", "symmetric")),
                "time_embedding": (time_embedding, ("positional", "fourier")),
                "embedding_order": (embedding_order, ("sin_cos", "cos_sin")),
                "class_embedding": (class_embedding, ("after", "before")),
            }
        )
        refuse_bad_channels(channels, multipliers, num_groups, channels_per_group)
        sizes = refuse_bad_levels(image_size, len(multipliers), blocks, attention_sizes)
        if fir and resample == "conv":
            raise ValueError("fir needs resample = residual or residual_conv, got conv")
        self.num_classes, self.null_class, self.recompute = num_classes, null_class, recompute
        sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        self.x_shape = (in_channels, *sides)
        style = Style(
            num_groups,
            channels_per_group,
            norm_eps,
            scale_shift,
            rescaled_skips,
            heads,
            head_channels,
        )
        base = embedding_channels or channels
        plan = Plan(
            widths=[channels * multiplier for multiplier in multipliers],
            attends=[size in attention_sizes for size in sizes],
            blocks=blocks,
            last_only=attention_up == "last",
            embedding=4 * base,
            dropout=dropout,
            style=style,
            sparing=channels >= SPARED_FROM and not recompute,
            resample=resample,
            padding=padding,
            fir=fir,
            pyramid=in_channels if input_pyramid else 0,
        )
        fourier, stem = time_embedding == "fourier", channels * stem_multiplier
        self.embedding = IndexEmbedding(
            2 * base if fourier else base,
            4 * base,
            num_classes,
            order=embedding_order,
            shift=frequency_shift,
            fourier=fourier,
            null_class=null_class,
            before=class_embedding == "before",
        )
        self.stem = convolution(in_channels, stem, padding=1)
        self.down, skips = way_down(plan, stem)
        middle, finest = plan.widths[-1], plan.widths[0]
        self.middle = nn.ModuleList(
            [plan.block(middle, middle, attention_middle), plan.block(middle, middle, False)]
        )
        self.up = way_up(plan, skips)
        self.head = Head(
            style.norm(finest),
            nn.SiLU(),
            convolution(finest, out_channels, padding=1, scale=ZERO_ISH),
        )
        in_all = sum(isinstance(module, ResidualBlock) for module in self.modules())
        self.dropout_places = in_all if dropout > 0 else 0
        self.sparing = self._spares = plan.sparing
        self.numbers_kept = numbers_kept(
            list(self._sizes(math.prod(sides))), stem, math.prod(sides)
        )

    def forward(
        self,
        x: Image,
        index: Float[Tensor, " batch"],
        label: Int[Tensor, " batch"] | None = None,
        words: Int[Tensor, "batch places 2"] | None = None,
    ) -> Remapped:
        """Evaluate the network.

        Args:
            x: images, (B, in_channels, H, W).
            index: DDPM's 0-based timestep, t - 1 for time t in steps; any real number, (B,).
            label: classes 0..K-1, or -1 for no class, (B,) int64; None for no class in any row.
            words: in training, what each image's dropout is a function of: (B, dropout_places, 2)
                int64 in [0, 2^32). None to draw them from torch's generator.

        Returns:
            The raw estimate, (B, out_channels, H, W); under autocast it has
            autocast's dtype.
        """
        if x.shape[1:] != self.x_shape or index.shape != x.shape[:1]:
            raise ValueError(
                f"x must be (B, {', '.join(map(str, self.x_shape))}) and index (B,), "
                f"got {tuple(x.shape)} and {tuple(index.shape)}"
            )
        places = self._places(words, len(x), x.device)
        self._spare(x)
        embedding = self.embedding(index, label)
        skips, pyramid = [self.stem(x)], x
        for level in self.down:
            assert isinstance(level, Level), "made above"
            for block in level.blocks:
                skips.append(self._through(block, skips[-1], embedding, next(places)))
            if level.resize is not None:
                h = self._resized(level.resize, skips[-1], embedding, places)
                if level.pyramid is not None:
                    h = pyramid = (h + level.pyramid(filtered(pyramid))) * 2**-0.5
                skips.append(h)
        h = skips[-1]
        for block in self.middle:
            h = self._through(block, h, embedding, next(places))
        for level in self.up:
            assert isinstance(level, Level), "made above"
            for block in level.blocks:
                h = torch.cat((h, skips.pop()), dim=1)
                h = self._through(block, h, embedding, next(places))
            if level.resize is not None:
                h = self._resized(level.resize, h, embedding, places)
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

    def _spare(self, x: Image) -> None:
        """Let norms be computed again on the way back, but on a GPU whose memory has room."""
        if torch.compiler.is_compiling() or not (self.sparing and self.training):
            return
        spares = not (fuses(x) and all_fits(self.numbers_kept, x))
        if spares != self._spares:
            self._spares = spares
            for module in self.modules():
                if isinstance(module, ResidualBlock):
                    module.sparing = spares

    def _sizes(self, pixels: int) -> Iterator[tuple[nn.Module, int]]:
        """Each block and what resizes, in order, and the pixels of what comes out of it."""
        for levels, factor in ((self.down, 0.25), (self.middle, 1.0), (self.up, 4.0)):
            for level in levels:
                if not isinstance(level, Level):
                    yield level, pixels
                    continue
                yield from ((block, pixels) for block in level.blocks)
                if level.resize is not None:
                    pixels = int(pixels * factor)
                    yield level.resize, pixels

    def _through(
        self, block: nn.Module, h: Image, embedding: Embedding, words: Words | None
    ) -> Remapped:
        """block(h, embedding, words), its activations kept for the way back or not."""
        if self.recompute and self.training and torch.is_grad_enabled():
            return again(block, h, embedding, words)
        found: Tensor = block(h, embedding, words)
        return found

    def _resized(
        self, resize: nn.Module, h: Image, embedding: Embedding, places: Iterator[Words | None]
    ) -> Remapped:
        """The image at the next level's size, by a residual block or by layers that take h."""
        if isinstance(resize, ResidualBlock):
            return self._through(resize, h, embedding, next(places))
        found: Tensor = resize(h)
        return found
