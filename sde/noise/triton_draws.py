"""A draw as one Triton kernel: words to the bit as `plain_draws` has them, and what they become.

Nothing but this file knows Triton, and only a GPU (or a test, by Triton's interpreter) imports it.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCKS = 256
"""Philox blocks of four words that a program draws: two a thread."""
_KINDS = {"words": 0, "uniform": 1, "normal": 2, "rademacher": 3}

# Scalars that change between calls are int64 whatever their value, so no kernel is built anew.
_CHANGING = ["seed", "step", "lane", "samples", "rows"]


def draw(
    kind: str, index: Tensor, clock: Tensor | None, seed: int, step: int, steps: int, lane: int,
    count: int, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """What `plain_draws.DRAWS[kind]` draws at an address, in a dtype: (steps, B, count).

    Args:
        kind: of the draw.
        index: of the address, as are the next ones.
        clock: of the address.
        seed: of the address; its 64 bits as a signed number.
        step: of the address.
        steps: of the address.
        lane: of the address.
        count: of the address.
        dtype: that what is drawn is rounded to.
    """
    samples, blocks = len(index), (count + 3) // 4
    out = torch.empty(steps, samples, count, dtype=dtype, device=index.device)
    if not out.numel():
        return out
    wide, rows = min(triton.next_power_of_2(blocks), _BLOCKS), steps * samples
    tall, chunks = _BLOCKS // wide, triton.cdiv(blocks, wide)
    draw_kernel[(triton.cdiv(rows, tall) * chunks,)](
        out, index.contiguous(), index if clock is None else clock, seed, step, lane,
        samples, rows, count, chunks,
        KIND=_KINDS[kind], CLOCKED=clock is not None, TALL=tall, WIDE=wide,
    )  # fmt: skip
    return out


@triton.jit(do_not_specialize=_CHANGING)
def draw_kernel(
    out: tl.tensor,
    index: tl.tensor,
    clock: tl.tensor,
    seed: tl.int64,
    step: tl.int64,
    lane: tl.int64,
    samples: tl.int64,
    rows: tl.int64,
    count: tl.int64,
    chunks: tl.int64,
    KIND: tl.constexpr,
    CLOCKED: tl.constexpr,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
) -> None:
    """A tile of TALL rows and WIDE blocks; a row is a sample at a step.

    Args:
        out: (rows, count) of any dtype.
        index: (samples,) int64.
        clock: () int64; read only if CLOCKED.
        seed: the key's 64 bits.
        step: the first.
        lane: the counter's last word.
        samples: B.
        rows: steps times samples, the samples of a step side by side.
        count: numbers of a row.
        chunks: tiles side by side.
        KIND: of `_KINDS`.
        CLOCKED: whether the clock is added to the step.
        TALL: rows of a tile.
        WIDE: blocks of a tile's row.
    """
    tile = tl.program_id(0).to(tl.int64)
    row = tile // chunks * TALL + tl.arange(0, TALL)
    there = row < rows
    block = tile % chunks * WIDE + tl.arange(0, WIDE)
    sample = tl.load(index + row % samples, there, 0)
    at_step = step + row // samples
    if CLOCKED:
        at_step += tl.load(clock)
    none = tl.zeros((TALL, WIDE), tl.uint32)
    a, b, c, d = tl.philox(
        seed,
        none + block[None, :].to(tl.uint32),
        none + sample[:, None].to(tl.uint32),
        none + at_step[:, None].to(tl.uint32),
        none + lane.to(tl.uint32),
    )
    if KIND == 0:
        a, b, c, d = a.to(tl.int64), b.to(tl.int64), c.to(tl.int64), d.to(tl.int64)
    elif KIND == 1:
        a, b, c, d = _uniform(a), _uniform(b), _uniform(c), _uniform(d)
    elif KIND == 2:
        a, b = _normals(a, b)
        c, d = _normals(c, d)
    else:
        a, b, c, d = _sign(a), _sign(b), _sign(c), _sign(d)
    # a thread's four words lie side by side, as they do in memory
    drawn = tl.interleave(tl.interleave(a, c), tl.interleave(b, d))
    place = tile % chunks * (4 * WIDE) + tl.arange(0, 4 * WIDE)
    inside = there[:, None] & (place < count)[None, :]
    tl.store(out + row[:, None] * count + place[None, :], drawn, inside)


@triton.jit
def _uniform(word: tl.tensor) -> tl.tensor:
    return word.to(tl.float64) * 2.0**-32


@triton.jit
def _sign(word: tl.tensor) -> tl.tensor:
    return (word >> 31).to(tl.float64) * 2 - 1


_TURN: tl.constexpr = tl.constexpr(2.0**-32 * 2 * math.pi)


@triton.jit
def _normals(first: tl.tensor, second: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Box-Muller in float64."""
    inside = (first.to(tl.float64) + 0.5) * 2.0**-32  # strictly in (0, 1): log stays finite
    radius = tl.sqrt(tl.log(inside) * -2)
    turn = (second.to(tl.float64) + 0.5) * _TURN
    return radius * tl.cos(turn), radius * tl.sin(turn)
