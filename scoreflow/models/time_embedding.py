"""The embedding of a network's time label, and with it of the class.

A label i (DDPM's is the index of a step) is embedded as (transformer positions, Vaswani et al.
2017, Section 3.5)

    [sin(w_0 i), ..., sin(w_{h-1} i), cos(w_0 i), ..., cos(w_{h-1} i)],
    w_k = 10000^(-k / (h - 1)),

smooth in i, so a label between two integers is as meaningful as an integer. Other codebases put
the cosines first, or take w_k = 10000^(-k / h). Fourier features (Tancik et al. 2020, as in
NCSN++, Song et al. 2021) have random frequencies, drawn once and stored: w_k = 2 pi W_k.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from scoreflow.models.layers import dense

Order = Literal["sin_cos", "cos_sin"]
FOURIER_SCALE = 16.0
"""Standard deviation of the random frequencies at the start, as in NCSN++."""
NO_NULL = "this network has no row for no class"


def sinusoidal_embedding(
    index: Float[Tensor, " batch"], dim: int, order: Order = "sin_cos", shift: int = 1
) -> Float[Tensor, "batch dim"]:
    """Sines, then cosines, of the index at dim / 2 frequencies from 1 down to 1 / 10000.

    Args:
        index: DDPM's 0-based timestep, or another label; any real number, (B,).
        dim: even and at least 4.
        order: cos_sin for the cosines first.
        shift: w_k = 10000^(-k / (dim / 2 - shift)); with 0 the last is above 1 / 10000.

    Returns:
        Values in [-1, 1], always float32 (bfloat16 cannot tell index 256 from 257), (B, dim).
    """
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=index.device)
    frequencies = torch.exp(exponents * (-math.log(10000) / (half - shift)))
    return _waves(index.float()[:, None] * frequencies, order)


def _waves(angles: Float[Tensor, "batch half"], order: Order) -> Float[Tensor, "batch dim"]:
    waves = (angles.sin(), angles.cos())
    return torch.cat(waves if order == "sin_cos" else waves[::-1], dim=1)


class IndexEmbedding(nn.Module):
    """SiLU(Dense(SiLU(Dense(sinusoids))) + class): the embedding of index and class.

    DDPM applies the last SiLU anew in every block; it is the same value, so it is taken once. The
    class is a learned vector, added as in Nichol & Dhariwal 2021 and ADM (Dhariwal & Nichol 2021);
    the first vector stands for no class, the null token of Ho & Salimans 2022.

    Args:
        dim: number of sinusoids; even and at least 4.
        width: size of the embedding that the blocks see.
        num_classes: K; 0 for an unconditional network.
        order: which sinusoids come first.
        shift: 1 or 0, as in `sinusoidal_embedding`.
        fourier: sinusoids of 2 pi W index, W the buffer `frequencies` of dim / 2 numbers. They are
            as exact as W is, float32 at least.
        null_class: whether there is a vector for no class.
        before: the class's vector is added to the sinusoids instead: Dense(sinusoids + class).
    """

    frequencies: Tensor

    def __init__(
        self,
        dim: int,
        width: int,
        num_classes: int = 0,
        *,
        order: Order = "sin_cos",
        shift: int = 1,
        fourier: bool = False,
        null_class: bool = True,
        before: bool = False,
    ) -> None:
        super().__init__()
        if dim < 4 or dim % 2:
            raise ValueError(
                f"the index embedding needs an even number of sinusoids, at least 4, got {dim} "
                "(UNet: channels, MLP: embedding)"
            )
        self.dim, self.num_classes = dim, num_classes
        self.order, self.shift, self.fourier = order, shift, fourier
        self.null_class, self.before = null_class, before
        if fourier:
            self.register_buffer("frequencies", FOURIER_SCALE * torch.randn(dim // 2))
        self.inner = dense(dim, width)
        self.outer = dense(width, width)
        if num_classes > 0:
            self.classes = nn.Embedding(num_classes + null_class, dim if before else width)

    def forward(
        self, index: Float[Tensor, " batch"], label: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch width"]:
        """Embed index and class, each (B,), -> (B, width); a label of -1, or None, is no class."""
        h, told = self._sinusoids(index), self._class(label)
        if self.before and told is not None:
            h = h + told
        h = self.outer(F.silu(self.inner(h)))
        if not self.before and told is not None:
            h = h + told
        return F.silu(h)

    def _sinusoids(self, index: Tensor) -> Tensor:
        if not self.fourier:
            found = sinusoidal_embedding(index, self.dim, self.order, self.shift)
            return found.to(self.inner.weight.dtype)
        exact = torch.promote_types(self.frequencies.dtype, torch.float32)
        turns = index.to(exact)[:, None] * self.frequencies.to(exact)
        return _waves(2 * math.pi * turns, self.order).to(self.inner.weight.dtype)

    def _class(self, label: Tensor | None) -> Tensor | None:
        """The vector of each row's class, (B, ...), or of none at all, (...)."""
        if self.num_classes == 0:
            if label is not None:
                raise ValueError("this network was not made for classes and takes no label")
            return None
        if self.null_class:
            none: Tensor = self.classes.weight[0]
            return none if label is None else self.classes(label + 1)
        if label is None:
            raise ValueError(f"{NO_NULL}, got none: give one of 0..{self.num_classes - 1}")
        try:
            return self.classes(label)  # type: ignore[no-any-return]
        except IndexError as error:  # a GPU stops by itself, and is not waited for here
            raise ValueError(f"{NO_NULL} or above {self.num_classes - 1}") from error
