"""GroupNorm, SiLU and dropout in Triton: one kernel forward, one and a sum over the batch back.

    x = h + added                               v = (x - mean) / std of the group
    u = v A + S                                 y = SiLU(u) * kept / (1 - probability)

with A = weight (1 + scale), S = bias (1 + scale) + shift. A program has some groups of one image,
whose pixels it walks through in tiles: once for mean and variance, by Welford's recurrence in
each place of the tile (1962), whose places are then added as Chan et al. do (1983); and once more
for the answer, when they lie in the cache still. Channels that are adjacent in memory are read
side by side, so it takes as many groups as fill whole sectors of memory; where pixels are adjacent
it reads along those. All arithmetic is in float32, whatever the dtype of what comes and goes.

The way back has z = SiLU'(u) dy kept / (1 - probability) and, over the pixels of each channel,
P = sum z v and Q = sum z; the sums of A P and A Q over a group then give

    dx = (A z - (sum A Q + v sum A P) / count) / std

TOLD is 0 where the embedding tells nothing, 1 where `told` (B, C) is added to h, and 2 where it is
scale and shift (B, 2 C). This module needs triton: it is imported on a GPU alone.
"""

# ruff: noqa: ANN001, ANN201, ANN202
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

import triton
import triton.language as tl


@triton.jit
def _over_groups(value, PER_GROUP: tl.constexpr, TAKEN: tl.constexpr, LANES: tl.constexpr):
    """Sums over the channels of each group, for each of its channels: (LANES,)."""
    if TAKEN == 1:
        return tl.sum(value, 0) + tl.zeros((LANES,), tl.float32)
    group = tl.arange(0, LANES) // PER_GROUP
    alike = group[:, None] == group[None, :]
    return tl.sum(tl.where(alike, value[None, :], 0.0), 1)


@triton.jit
def _factors(first, second, unit, threshold, factor):
    """Dropout's factor of each unit, to the bit that of `scoreflow.models.dropout`."""
    x = unit.to(tl.uint32) + first
    x = (x ^ (x >> 16)) * 0x85EBCA6B + second
    x = (x ^ (x >> 13)) * 0xC2B2AE35
    x = x ^ (x >> 16)
    return tl.where(x.to(tl.int32, bitcast=True) >= threshold, factor, 0.0)


@triton.jit
def _affine(weight, bias, told, row, channel, inside, channels, told_row, TOLD: tl.constexpr):
    """A and S, and what is added to h, of each channel of an image; (1 + scale) as well."""
    a = tl.load(weight + channel, inside, 0.0).to(tl.float32)
    s = tl.load(bias + channel, inside, 0.0).to(tl.float32)
    added, one = tl.zeros_like(a), tl.zeros_like(a) + 1.0
    at = told + row * told_row + channel
    if TOLD == 1:
        added = tl.load(at, inside, 0.0).to(tl.float32)
    if TOLD == 2:
        one = 1.0 + tl.load(at, inside, 0.0).to(tl.float32)
        s = s * one + tl.load(at + channels, inside, 0.0).to(tl.float32)
    return a * one, s, added, one


@triton.jit
def forward_kernel(
    y,
    mean,
    rstd,
    h,
    weight,
    bias,
    told,
    words,
    channels,
    pixels,
    eps,
    threshold,
    factor,
    h_row,
    h_channel,
    h_pixel,
    told_row,
    words_row,
    PER_GROUP: tl.constexpr,
    TAKEN: tl.constexpr,
    LANES: tl.constexpr,
    TILE: tl.constexpr,
    TOLD: tl.constexpr,
    ACTIVE: tl.constexpr,
    DROPS: tl.constexpr,
):
    """Y, and mean and 1 / std of each group; y lies in memory as h does."""
    blocks = channels // (PER_GROUP * TAKEN)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    lane = tl.arange(0, LANES)
    inside = lane < PER_GROUP * TAKEN
    channel = tl.program_id(0) % blocks * (PER_GROUP * TAKEN) + lane
    a, s, added, _ = _affine(weight, bias, told, row, channel, inside, channels, told_row, TOLD)
    at_row = row * h_row + channel[None, :] * h_channel
    place = tl.arange(0, TILE)

    count = tl.zeros((TILE, 1), tl.float32)
    centre = tl.zeros((TILE, LANES), tl.float32)
    spread = tl.zeros((TILE, LANES), tl.float32)
    for start in range(0, pixels, TILE):
        pixel = (start + place)[:, None]
        there = (pixel < pixels) & inside[None, :]
        x = tl.load(h + at_row + pixel * h_pixel, there, 0.0).to(tl.float32) + added[None, :]
        count += tl.where(pixel < pixels, 1.0, 0.0)
        away = tl.where(there, x - centre, 0.0)
        centre += away / tl.maximum(count, 1.0)
        spread += away * (x - centre)
    size = pixels * PER_GROUP * 1.0
    of_group = _over_groups(tl.sum(centre * count, 0), PER_GROUP, TAKEN, LANES) / size
    away = tl.where(inside[None, :], centre - of_group[None, :], 0.0)
    spread = tl.sum(spread + count * away * away, 0)
    variance = _over_groups(spread, PER_GROUP, TAKEN, LANES) / size
    over_std = 1.0 / tl.sqrt_rn(variance + eps)
    first_of_group = inside & (lane % PER_GROUP == 0)
    at_group = row * (channels // PER_GROUP) + channel // PER_GROUP
    tl.store(mean + at_group, of_group, first_of_group)
    tl.store(rstd + at_group, over_std, first_of_group)

    if DROPS:
        first = tl.load(words + row * words_row).to(tl.uint32)
        second = tl.load(words + row * words_row + 1).to(tl.uint32)
    for start in range(0, pixels, TILE):
        pixel = (start + place)[:, None]
        there = (pixel < pixels) & inside[None, :]
        x = tl.load(h + at_row + pixel * h_pixel, there, 0.0).to(tl.float32) + added[None, :]
        u = (x - of_group[None, :]) * (over_std * a)[None, :] + s[None, :]
        if ACTIVE:
            u = u / (1.0 + tl.exp(-u))
        if DROPS:
            u *= _factors(first, second, channel[None, :] * pixels + pixel, threshold, factor)
        tl.store(y + at_row + pixel * h_pixel, u.to(y.dtype.element_ty), there)


@triton.jit
def _slope(
    u, dy, first, second, unit, threshold, factor, ACTIVE: tl.constexpr, DROPS: tl.constexpr
):
    """Gradient by u, from that by y."""
    if DROPS:
        dy *= _factors(first, second, unit, threshold, factor)
    if ACTIVE:
        sigmoid = 1.0 / (1.0 + tl.exp(-u))
        dy *= sigmoid * (1.0 + u * (1.0 - sigmoid))
    return dy


@triton.jit(do_not_specialize=["batch"])  # a last, smaller batch is no other kernel
def backward_kernel(
    dh,
    sums,
    dtold,
    dy,
    h,
    mean,
    rstd,
    weight,
    bias,
    told,
    words,
    channels,
    pixels,
    batch,
    threshold,
    factor,
    h_row,
    h_channel,
    h_pixel,
    dy_row,
    dy_channel,
    dy_pixel,
    told_row,
    words_row,
    PER_GROUP: tl.constexpr,
    TAKEN: tl.constexpr,
    LANES: tl.constexpr,
    TILE: tl.constexpr,
    TOLD: tl.constexpr,
    ACTIVE: tl.constexpr,
    DROPS: tl.constexpr,
):
    """Gradients by h, by what was told, and an image's part of those by weight and bias.

    sums: (2, batch, channels), the parts of weight and bias.
    """
    blocks = channels // (PER_GROUP * TAKEN)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    lane = tl.arange(0, LANES)
    inside = lane < PER_GROUP * TAKEN
    channel = tl.program_id(0) % blocks * (PER_GROUP * TAKEN) + lane
    a, s, added, one = _affine(weight, bias, told, row, channel, inside, channels, told_row, TOLD)
    at_group = row * (channels // PER_GROUP) + channel // PER_GROUP
    of_group = tl.load(mean + at_group, inside, 0.0)
    over_std = tl.load(rstd + at_group, inside, 0.0)
    at_row = row * h_row + channel[None, :] * h_channel
    dy_at_row = row * dy_row + channel[None, :] * dy_channel
    place = tl.arange(0, TILE)
    first, second = tl.full((), 0, tl.uint32), tl.full((), 0, tl.uint32)
    if DROPS:
        first = tl.load(words + row * words_row).to(tl.uint32)
        second = tl.load(words + row * words_row + 1).to(tl.uint32)

    p = tl.zeros((TILE, LANES), tl.float32)
    q = tl.zeros((TILE, LANES), tl.float32)
    r = tl.zeros((TILE, LANES), tl.float32)
    for start in range(0, pixels, TILE):
        pixel = (start + place)[:, None]
        there = (pixel < pixels) & inside[None, :]
        x = tl.load(h + at_row + pixel * h_pixel, there, 0.0).to(tl.float32) + added[None, :]
        z = tl.load(dy + dy_at_row + pixel * dy_pixel, there, 0.0).to(tl.float32)
        v = tl.where(there, (x - of_group[None, :]) * over_std[None, :], 0.0)
        unit = channel[None, :] * pixels + pixel
        u = v * a[None, :] + s[None, :]
        z = _slope(u, z, first, second, unit, threshold, factor, ACTIVE, DROPS)
        p += z * v
        q += z
        if TOLD == 1:
            r += v
    p, q = tl.sum(p, 0), tl.sum(q, 0)
    size = pixels * PER_GROUP * 1.0
    by_scale = _over_groups(a * p, PER_GROUP, TAKEN, LANES) / size
    by_shift = _over_groups(a * q, PER_GROUP, TAKEN, LANES) / size
    at_sum = row * channels + channel
    tl.store(sums + at_sum, p * one, inside)
    tl.store(sums + batch * channels + at_sum, q * one, inside)
    if TOLD == 1:  # the sum of dh over the pixels
        found = over_std * (a * q - pixels * by_shift - by_scale * tl.sum(r, 0))
        tl.store(dtold + at_sum, found.to(dtold.dtype.element_ty), inside)
    if TOLD == 2:
        w = tl.load(weight + channel, inside, 0.0).to(tl.float32)
        b = tl.load(bias + channel, inside, 0.0).to(tl.float32)
        at_told = dtold + 2 * row * channels + channel
        tl.store(at_told, (w * p + b * q).to(dtold.dtype.element_ty), inside)
        tl.store(at_told + channels, q.to(dtold.dtype.element_ty), inside)

    for start in range(0, pixels, TILE):
        pixel = (start + place)[:, None]
        there = (pixel < pixels) & inside[None, :]
        x = tl.load(h + at_row + pixel * h_pixel, there, 0.0).to(tl.float32) + added[None, :]
        z = tl.load(dy + dy_at_row + pixel * dy_pixel, there, 0.0).to(tl.float32)
        v = (x - of_group[None, :]) * over_std[None, :]
        unit = channel[None, :] * pixels + pixel
        u = v * a[None, :] + s[None, :]
        z = _slope(u, z, first, second, unit, threshold, factor, ACTIVE, DROPS)
        dx = (z * a[None, :] - by_shift[None, :] - v * by_scale[None, :]) * over_std[None, :]
        tl.store(dh + at_row + pixel * h_pixel, dx.to(dh.dtype.element_ty), there)
