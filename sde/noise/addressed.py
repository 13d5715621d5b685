"""Addressed randomness: noise as a pure function of where it is used.

A draw is named by (seed, stream, step, global sample index, element), not by what was drawn before
it. So image k of a seed is the same in any batch, on any number of processes and after any resume,
and two models can be compared under the same noise. The bits come from Philox 4x32-10, a
counter-based generator (Salmon et al. 2011): ten rounds of multiply and exclusive-or turn a
128-bit counter and a 64-bit key into four 32-bit words. The integers are the same on every device;
normals, made from them by Box-Muller in float64, agree to the last bits of each device's log, sin
and cos.

    counter = (element block, sample index, step, stream | draw << 8)       key = seed
"""

import math
from dataclasses import dataclass, field, replace
from enum import IntEnum

import torch
from torch import Tensor

from scoreflow.sde.types import Rows

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


class Stream(IntEnum):
    """The purpose of a draw; two streams of one seed are independent."""

    PRIOR = 0
    PREDICTOR = 1
    CORRECTOR = 2
    TRAIN_TIME = 3
    TRAIN_EPS = 4
    DEQUANTIZE = 5
    PROBE = 6
    DATA = 7
    TRAIN_DEQUANTIZE = 8
    TRAIN_FLIP = 9
    TRAIN_LABEL = 10
    TRAIN_DROPOUT = 11
    SAMPLE_CLASS = 12
    MEASUREMENT = 16


@dataclass(frozen=True)
class Noise:
    """The randomness of a batch.

    Attributes:
        seed: 0 <= seed < 2**64.
        index: (B,) int64 global sample indices, each in [0, 2**32), on the device of the draws.
        step: which step of a loop is drawing, in [0, 2**32).
        ahead: see `reading_ahead`.
    """

    seed: int
    index: Rows
    step: int = 0
    ahead: "_Ahead | None" = field(default=None, repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must lie in [0, 2**64), got {self.seed}")
        if not 0 <= self.step < 2**32:
            raise ValueError(f"step must lie in [0, 2**32), got {self.step}")

    @classmethod
    def of(cls, seed: int, start: int, stop: int, device: torch.device | str = "cpu") -> "Noise":
        """Samples start..stop-1 of a seed."""
        if not 0 <= start <= stop <= 2**32:
            raise ValueError(f"sample indices must lie in [0, 2**32), got {start}..{stop - 1}")
        return cls(seed, torch.arange(start, stop, device=device))

    def at(self, step: int) -> "Noise":
        """The same samples at another step."""
        return replace(self, step=step)

    def rows(self, rows: Rows) -> "Noise":
        """Some of the samples."""
        return replace(self, index=self.index[rows], ahead=None)

    def reading_ahead(self, stop: int) -> "Noise":
        """The same draws, made for several steps at once, of those before `stop`.

        For a loop over steps: a draw is two hundred operations, whose cost on a small batch is
        that of starting them. Normals are views of what is kept, so they must not be written to.
        """
        return replace(self, ahead=_Ahead(stop))

    def uniform(self, stream: Stream, shape: tuple[int, ...] = (), draw: int = 0) -> Tensor:
        """Uniform on [0, 1) in multiples of 2^-32: (B, *shape) float64."""
        return self.words(stream, shape, draw).double() * 2.0**-32

    def normal(self, stream: Stream, shape: tuple[int, ...] = (), draw: int = 0) -> Tensor:
        """Standard normal: (B, *shape) float64. Not to be written to: it may be kept."""
        if self.ahead is None:
            return self._normals(stream, shape, draw, 1)[0]
        return self.ahead.normal(self, stream, shape, draw)

    def _normals(self, stream: Stream, shape: tuple[int, ...], draw: int, steps: int) -> Tensor:
        """Standard normals of this step and the next steps - 1: (steps, B, *shape)."""
        count = math.prod(shape)
        lanes = self._lanes(stream, draw, count, steps)
        out = self.index.new_empty((*lanes[0].shape, 4), dtype=torch.float64)
        for k in (0, 2):  # two words of a block make two normals
            # strictly inside (0, 1): log stays finite
            radius = lanes[k].double().add_(0.5).mul_(2.0**-32).log_().mul_(-2).sqrt_()
            turn = lanes[k + 1].double().add_(0.5).mul_(2.0**-32 * 2 * math.pi)
            torch.mul(radius, turn.cos(), out=out[..., k])
            torch.mul(radius, turn.sin_(), out=out[..., k + 1])
        return out.flatten(2)[:, :, :count].reshape(steps, len(self.index), *shape)

    def rademacher(self, stream: Stream, shape: tuple[int, ...] = (), draw: int = 0) -> Tensor:
        """Minus or plus one with equal probability: (B, *shape) float64."""
        return (self.words(stream, shape, draw) >> 31).double() * 2 - 1

    def words(self, stream: Stream, shape: tuple[int, ...] = (), draw: int = 0) -> Tensor:
        """32 random bits each: (B, *shape) int64 in [0, 2**32)."""
        count = math.prod(shape)
        words = torch.stack(self._lanes(stream, draw, count, 1), dim=-1)[0]  # (B, blocks, 4)
        return words.flatten(1)[:, :count].reshape(-1, *shape)

    def _lanes(self, stream: Stream, draw: int, count: int, steps: int) -> tuple[Tensor, ...]:
        """Four words of each block, (steps, B, blocks) each: at least `count` elements a row."""
        if not 0 <= draw < 2**24:
            raise ValueError(f"draw must lie in [0, 2**24), got {draw}")
        block = torch.arange((count + 3) // 4, device=self.index.device)
        counter = block.new_empty(4, steps, len(self.index), len(block))
        counter[0] = block
        counter[1] = self.index[:, None]
        counter[2] = torch.arange(self.step, self.step + steps, device=block.device)[:, None, None]
        counter[3] = int(stream) | draw << 8
        return _philox(self.seed, *counter.unbind())


_READ_AHEAD = 2**16
"""Elements that are drawn at once, where more than one step's fit: half a megabyte of doubles."""


class _Ahead:
    """Draws of the steps to come, kept until they are used.

    Args:
        stop: the step after the last.
    """

    def __init__(self, stop: int) -> None:
        self.stop = stop
        self._kept: dict[tuple[Stream, tuple[int, ...], int], tuple[int, Tensor]] = {}

    def normal(self, noise: Noise, stream: Stream, shape: tuple[int, ...], draw: int) -> Tensor:
        """As `noise.normal`, (B, *shape)."""
        key = (stream, shape, draw)
        first, kept = self._kept.get(key, (0, None))
        if kept is None or not first <= noise.step < first + len(kept):
            size = max(len(noise.index) * math.prod(shape), 1)
            left, most = max(1, self.stop - noise.step), max(1, _READ_AHEAD // size)
            steps = -(-left // -(-left // most))  # what is left in as few draws, all of a size
            first, kept = noise.step, noise._normals(stream, shape, draw, steps)
            self._kept[key] = (first, kept)
        return kept[noise.step - first]


def philox(counter: Tensor, seed: int) -> Tensor:
    """Philox 4x32-10 (Salmon et al. 2011).

    Args:
        counter: (4, ...) int64 words in [0, 2**32).
        seed: the 64-bit key.

    Returns:
        (4, ...) int64 words in [0, 2**32).
    """
    return torch.stack(_philox(seed, *counter.clone().unbind()))


def _philox(seed: int, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, ...]:
    """The same for four words apart; a and c are overwritten."""
    for k in range(_ROUNDS):
        low, high = ((seed >> 32 * i) + k * _KEY_INCREMENTS[i] & _MASK for i in (0, 1))
        # An int64 product wraps modulo 2^64, which keeps all 64 bits of a 32 x 32 bit product. Its
        # low word is only ever exclusive-ored into what is then masked, so it keeps its rubbish.
        left, right = a.mul_(_MULTIPLIERS[0]), c.mul_(_MULTIPLIERS[1])
        a = (right >> 32).bitwise_xor_(b).bitwise_xor_(low).bitwise_and_(_MASK)
        c = (left >> 32).bitwise_xor_(d).bitwise_xor_(high).bitwise_and_(_MASK)
        b, d = right, left
    return a, b.bitwise_and_(_MASK), c, d.bitwise_and_(_MASK)
