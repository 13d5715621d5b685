"""Launches of the norms' kernels: how the work is cut, and where in memory it lies."""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from scoreflow.models.kernels.triton_norm import backward_kernel, forward_kernel

NONE, ADDED, SCALE_SHIFT = 0, 1, 2
"""What the embedding tells a norm: nothing, what is added to h, or a scale and a shift."""

SECTOR = 32
"""Bytes that a GPU's memory hands out at once."""
FEW_PROGRAMS = 128
"""Below so many, a program takes fewer channels: about one for each multiprocessor."""


@dataclass(frozen=True)
class Tiling:
    """How the work on a layer is cut.

    Attributes:
        taken: groups that a program has, a divisor of all groups.
        lanes: channels that it reads side by side, a power of two and at least those of `taken`.
        tile: pixels that it reads at once, a power of two.
        warps: of a program.
    """

    taken: int
    lanes: int
    tile: int
    warps: int


def tiling(
    batch: int, channels: int, groups: int, pixels: int, adjacent: bool, size: int
) -> Tiling:
    """How the work on a layer is cut: 8 numbers a thread, 16 bytes of half.

    Args:
        batch: images.
        channels: of each.
        groups: of the norm.
        pixels: of an image.
        adjacent: whether an image's channels are adjacent in memory, rather than its pixels.
        size: bytes of a number.
    """
    per_group = channels // groups
    divisors = [n for n in range(1, groups + 1) if groups % n == 0]

    def least(wanted: int) -> int:
        return next((n for n in divisors if n * per_group >= wanted), groups)

    taken = least(SECTOR)  # channels: one or two sectors of half, four of float32
    if batch * (groups // taken) < FEW_PROGRAMS:
        taken = least(SECTOR // size)
    if not adjacent and pixels >= 256:
        taken = 1
    lanes = triton.next_power_of_2(taken * per_group)
    warps = 8 if pixels >= 512 else 4
    return Tiling(taken, lanes, max(1, 8 * 32 * warps // lanes), warps)


def threshold_of(probability: float) -> int:
    """The least number, of all int32, of a unit that is kept."""
    return round(probability * 2**32) - 2**31


def of_told(told: Tensor | None, channels: int) -> int:
    """What the embedding tells: NONE, ADDED (B, C) or SCALE_SHIFT (B, 2 C)."""
    if told is None:
        return NONE
    return ADDED if told.shape[1] == channels else SCALE_SHIFT


def forward(
    h: Tensor,
    weight: Tensor,
    bias: Tensor,
    told: Tensor | None,
    words: Tensor | None,
    groups: int,
    eps: float,
    active: bool,
    probability: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Y in this dtype, and mean and 1 / std of each group, (2, B, groups) float32."""
    h = _dense(h)
    batch, channels, *_ = h.shape
    pixels = h.shape[2] * h.shape[3]
    y = torch.empty_like(h, dtype=dtype)
    moments = h.new_empty(2, batch, groups, dtype=torch.float32)
    told, words = _rows(told), _rows(words)
    cut = tiling(batch, channels, groups, pixels, h.stride(1) == 1, h.element_size())
    forward_kernel[(batch * (groups // cut.taken),)](
        y,
        *moments.unbind(),
        h,
        weight,
        bias,
        h if told is None else told,
        h if words is None else words,
        channels,
        pixels,
        eps,
        threshold_of(probability),
        1 / (1 - probability),
        h.stride(0),
        h.stride(1),
        _step(h),
        0 if told is None else told.stride(0),
        0 if words is None else words.stride(0),
        PER_GROUP=channels // groups,
        TAKEN=cut.taken,
        LANES=cut.lanes,
        TILE=cut.tile,
        TOLD=of_told(told, channels),
        ACTIVE=active,
        DROPS=words is not None,
        num_warps=cut.warps,
    )
    return y, moments


def backward(
    dy: Tensor,
    h: Tensor,
    weight: Tensor,
    bias: Tensor,
    told: Tensor | None,
    words: Tensor | None,
    moments: Tensor,
    groups: int,
    eps: float,
    active: bool,
    probability: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by h, by weight and bias (2, C), and by told (empty if there is none)."""
    h, told, words = _dense(h), _rows(told), _rows(words)
    batch, channels, *_ = h.shape
    pixels = h.shape[2] * h.shape[3]
    if dy.shape[3] > 1 and dy.stride(2) != dy.stride(3) * dy.shape[3]:
        dy = dy.contiguous(memory_format=torch.channels_last)
    dh = torch.empty_like(h)
    sums = h.new_empty(2, batch, channels, dtype=torch.float32)
    dtold = h.new_empty(0) if told is None else h.new_empty(told.shape, dtype=told.dtype)
    cut = tiling(batch, channels, groups, pixels, h.stride(1) == 1, h.element_size())
    backward_kernel[(batch * (groups // cut.taken),)](
        dh,
        sums,
        dtold,
        dy,
        h,
        *moments.unbind(),
        weight,
        bias,
        h if told is None else told,
        h if words is None else words,
        channels,
        pixels,
        batch,
        threshold_of(probability),
        1 / (1 - probability),
        h.stride(0),
        h.stride(1),
        _step(h),
        dy.stride(0),
        dy.stride(1),
        _step(dy),
        0 if told is None else told.stride(0),
        0 if words is None else words.stride(0),
        PER_GROUP=channels // groups,
        TAKEN=cut.taken,
        LANES=cut.lanes,
        TILE=cut.tile,
        TOLD=of_told(told, channels),
        ACTIVE=active,
        DROPS=words is not None,
        num_warps=cut.warps,
    )
    return dh, sums.sum(1).to(weight.dtype), dtold


def _dense(h: Tensor) -> Tensor:
    """H with its pixels a fixed distance apart, and nothing between its numbers."""
    if h.is_contiguous() or h.is_contiguous(memory_format=torch.channels_last):
        return h
    return h.contiguous()


def _rows(each: Tensor | None) -> Tensor | None:
    """Rows of adjacent numbers, at any distance."""
    return each if each is None or each.stride(1) == 1 else each.contiguous()


def _step(h: Tensor) -> int:
    """Numbers from a pixel to the next: what is one wide may have any stride that way."""
    return h.stride(3) if h.shape[3] > 1 else h.stride(2)
