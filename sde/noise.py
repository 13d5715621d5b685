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
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache

import torch
from torch import Tensor

from sde.types import Rows

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


class Stream(IntEnum):
    """What a draw is for; two streams of one seed are independent."""

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


@dataclass(frozen=True)
class Noise:
    """The randomness of a batch.

    Attributes:
        seed: 0 <= seed < 2**64.
        index: (B,) int64 global sample indices, each in [0, 2**32), on the device of the draws.
        step: which step of a loop is drawing, in [0, 2**32).
    """

    seed: int
    index: Rows
    step: int = 0

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
        return replace(self, index=self.index[rows])

    def uniform(self, stream: Stream, shape: tuple[int, ...] = (), draw: int = 0) -> Tensor:
        """Uniform on [0, 1) in multiples of 2^-32: (B, *shape) float64."""
        return self._words(stream, draw, shape).double() * 2.0**-32

    def normal(self, stream: Stream, shape: tuple[int, ...] = (), draw: int = 0) -> Tensor:
        """Standard normal: (B, *shape) float64."""
        count = math.prod(shape)
        words = self._words(stream, draw, (count + count % 2,))
        u = (words.double() + 0.5) * 2.0**-32  # strictly inside (0, 1): log stays finite
        radius = torch.sqrt(-2 * u[:, 0::2].log())
        turn = 2 * math.pi * u[:, 1::2]
        pairs = torch.stack([radius * turn.cos(), radius * turn.sin()], dim=-1)
        return pairs.flatten(1)[:, :count].reshape(-1, *shape)

    def rademacher(self, stream: Stream, shape: tuple[int, ...] = (), draw: int = 0) -> Tensor:
        """Minus or plus one with equal probability: (B, *shape) float64."""
        return (self._words(stream, draw, shape) >> 31).double() * 2 - 1

    def _words(self, stream: Stream, draw: int, shape: tuple[int, ...]) -> Tensor:
        """(B, *shape) int64 words in [0, 2**32)."""
        if not 0 <= draw < 2**24:
            raise ValueError(f"draw must lie in [0, 2**24), got {draw}")
        count = math.prod(shape)
        block = torch.arange((count + 3) // 4, device=self.index.device)
        counter = torch.empty(
            4, len(self.index), len(block), dtype=torch.int64, device=block.device
        )
        counter[0] = block
        counter[1] = self.index[:, None]
        counter[2] = self.step
        counter[3] = int(stream) | draw << 8
        words = philox(counter, self.seed)  # (4, B, blocks)
        return words.permute(1, 2, 0).flatten(1)[:, :count].reshape(-1, *shape)


def philox(counter: Tensor, seed: int) -> Tensor:
    """Philox 4x32-10 (Salmon et al. 2011).

    Args:
        counter: (4, ...) int64 words in [0, 2**32).
        seed: the 64-bit key.

    Returns:
        (4, ...) int64 words in [0, 2**32).
    """
    shape = (2, *[1] * (counter.ndim - 1))
    multipliers, keys = _constants(seed, counter.device)
    multipliers = multipliers.view(shape)
    even, odd = counter[0::2], counter[1::2]
    for key in keys:
        # An int64 product wraps modulo 2^64, which keeps all 64 bits of a 32 x 32 bit product.
        product = even * multipliers
        high, low = (product >> 32) & _MASK, product & _MASK
        even, odd = high.flip(0) ^ odd ^ key.view(shape), low.flip(0)
    return torch.stack([even, odd], dim=1).flatten(0, 1)


@lru_cache(maxsize=64)
def _constants(seed: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The multipliers (2,) and the key of each round (rounds, 2).

    Kept on the device: to bring them there anew would have every draw wait for it.
    """
    words = (seed & _MASK, seed >> 32)
    keys = [
        [
            (word + k * increment) & _MASK
            for word, increment in zip(words, _KEY_INCREMENTS, strict=True)
        ]
        for k in range(_ROUNDS)
    ]
    return torch.tensor(_MULTIPLIERS, device=device), torch.tensor(keys, device=device)
