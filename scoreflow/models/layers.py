"""Layers of the score networks: DDPM's initialisation and the timestep embedding.

Every dense and convolutional layer starts as in DDPM (Ho et al. 2020, its TensorFlow code):
weights uniform with variance scale / fan_avg, fan_avg = (fan_in + fan_out) / 2, biases zero. Where
DDPM asks for zeros, the scale is 1e-10 ("zero-ish"): the layer answers nearly 0 at the start, yet
what lies before it gets a gradient that is not exactly 0.

The index i of a step is embedded as (transformer positions, Vaswani et al. 2017, Section 3.5)

    [sin(w_0 i), ..., sin(w_{h-1} i), cos(w_0 i), ..., cos(w_{h-1} i)],
    w_k = 10000^(-k / (h - 1)),

smooth in i, so an index between two integers is as meaningful as an integer.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

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


def sinusoidal_embedding(index: Float[Tensor, " batch"], dim: int) -> Float[Tensor, "batch dim"]:
    """Sines, then cosines, of the index at dim / 2 frequencies from 1 down to 1 / 10000.

    Args:
        index: DDPM's 0-based timestep, any real number, (B,).
        dim: even and at least 4.

    Returns:
        Values in [-1, 1], always float32 (bfloat16 cannot tell index 256 from 257), (B, dim).
    """
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=index.device)
    frequencies = torch.exp(exponents * (-math.log(10000) / (half - 1)))
    angles = index.float()[:, None] * frequencies
    return torch.cat((angles.sin(), angles.cos()), dim=1)


class IndexEmbedding(nn.Module):
    """SiLU(Dense(SiLU(Dense(sinusoids))) + class): the embedding of index and class.

    DDPM applies the last SiLU anew in every block; it is the same value, so it is taken once. The
    class is a learned vector, added as in Nichol & Dhariwal 2021 and ADM (Dhariwal & Nichol 2021);
    the first vector stands for no class, the null token of Ho & Salimans 2022.

    Args:
        dim: number of sinusoids; even and at least 4.
        width: size of the embedding that the blocks see.
        num_classes: K; 0 for an unconditional network.
    """

    def __init__(self, dim: int, width: int, num_classes: int = 0) -> None:
        super().__init__()
        if dim < 4 or dim % 2:
            raise ValueError(
                f"the index embedding needs an even number of sinusoids, at least 4, got {dim} "
                "(UNet: channels, MLP: embedding)"
            )
        self.dim, self.num_classes = dim, num_classes
        self.inner = dense(dim, width)
        self.outer = dense(width, width)
        if num_classes > 0:
            self.classes = nn.Embedding(num_classes + 1, width)

    def forward(
        self, index: Float[Tensor, " batch"], label: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch width"]:
        """Embed index and class, each (B,), -> (B, width); a label of -1, or None, is no class."""
        sinusoids = sinusoidal_embedding(index, self.dim).to(self.inner.weight.dtype)
        h = self.outer(F.silu(self.inner(sinusoids)))
        if label is not None:
            if self.num_classes == 0:
                raise ValueError("this network was not made for classes and takes no label")
            h = h + self.classes(label + 1)
        elif self.num_classes > 0:
            h = h + self.classes.weight[0]
        return F.silu(h)
