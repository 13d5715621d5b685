"""Quantization: integer levels of images to points in [-1, 1) and back."""

from typing import Literal, get_args

import torch
from torch import Tensor

from scoreflow.data.dataset import Data
from scoreflow.errors import RunError
from scoreflow.sde.noise import Noise, Stream

Embedding = Literal["uniform", "centre"]
"""The point of a level's bin that a network is trained on: a random one, or the centre."""
EMBEDDINGS: tuple[str, ...] = get_args(Embedding)


MOST_LEVELS = 65536
"""Of a channel: what 16 bits hold."""


def dtype_of(num_levels: int) -> torch.dtype:
    """What levels 0..L-1 are kept in: uint8, and int32 where they are more than 256.

    Torch does not compute in uint16, which would hold as many.
    """
    return torch.uint8 if num_levels <= 256 else torch.int32


def dequantize(levels: Tensor, u: Tensor, num_levels: int) -> Tensor:
    """The point 2 (levels + u) / L - 1, in the precision of u.

    Args:
        levels: integers in 0..L-1, any shape.
        u: uniform in [0, 1), the same shape or one that broadcasts; 0.5 is the centre of the bin.
        num_levels: L.

    Returns:
        Points in [-1, 1).
    """
    return 2 * (levels.to(u.dtype) + u) / num_levels - 1


def centres(levels: Tensor, num_levels: int) -> Tensor:
    """Centres of the levels' bins: points in (-1, 1), float64, shaped like the levels."""
    return dequantize(levels, torch.tensor(0.5, dtype=torch.float64), num_levels)


def points(
    values: Tensor,
    num_levels: int | None,
    noise: Noise,
    stream: Stream,
    embedding: Embedding = "uniform",
) -> Tensor:
    """Data as the real-valued x_0 of a process, float64.

    Args:
        values: levels in 0..L-1, (B, ...); or vectors, which stay what they are.
        num_levels: L; None for vectors.
        noise: addresses the places within the bins, a sample index a datum.
        stream: of the noise.
        embedding: a random place of a level's bin, or its centre.

    Returns:
        Points shaped like the values.
    """
    if num_levels is None:
        return values.double()
    if embedding == "centre":
        return centres(values, num_levels)
    return dequantize(values, noise.uniform(stream, tuple(values.shape[1:])), num_levels)


def quantize(x: Tensor, num_levels: int) -> Tensor:
    """The level whose bin holds x: floor((x + 1) / 2 * L), clamped to 0..L-1.

    A bin's lower edge, such as 2*3/17 - 1, is seldom a floating-point number. What lies below an
    edge by no more than the rounding error of `dequantize` is on it, so u = 0 comes back exactly.
    """
    if not x.isfinite().all():
        count = int((~x.isfinite()).sum())
        raise RunError(f"cannot quantize: {count} of {x.numel()} values are not finite")
    rounding = 2 * num_levels * torch.finfo(x.dtype).eps
    levels = ((x + 1) / 2 * num_levels + rounding).floor()
    return levels.clamp(0, num_levels - 1).to(dtype_of(num_levels))


def to_uint8(levels: Tensor, num_levels: int) -> Tensor:
    """Levels 0..L-1 spread over the 0..255 of a picture, to the nearest integer."""
    return spread(levels, num_levels, 255).to(torch.uint8)


def spread(levels: Tensor, num_levels: int, white: int) -> Tensor:
    """Levels 0..L-1 over the 0..white of a picture, to the nearest integer, int64."""
    top = num_levels - 1
    return (levels.to(torch.int64) * 2 * white + top) // (2 * top)


def values_of(samples: Tensor, data: Data) -> Tensor:
    """Samples as the data are: levels, or vectors."""
    return samples if data.num_levels is None else quantize(samples, data.num_levels)


def from_uint8(pixels: Tensor, num_levels: int) -> Tensor:
    """Levels 0..L-1 of the 0..255 of a picture, to the nearest: `to_uint8` undone up to 256."""
    return gathered(pixels, num_levels, 255)


def gathered(pixels: Tensor, num_levels: int, white: int) -> Tensor:
    """Levels 0..L-1 of the 0..white of a picture, to the nearest: up to L = white + 1 exact."""
    top = num_levels - 1
    return ((pixels.to(torch.int64) * 2 * top + white) // (2 * white)).to(dtype_of(num_levels))
