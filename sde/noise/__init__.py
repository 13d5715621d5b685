"""Addressed randomness: noise as a pure function of where it is used.

A draw is named by (seed, stream, step, global sample index, element), not by what was drawn before
it. So image k of a seed is the same in any batch, on any number of processes and after any resume,
and two models can be compared under the same noise. The bits come from Philox 4x32-10
(`plain_draws`):

    counter = (element block, sample index, step, stream | draw << 8)       key = seed

On CUDA a draw is one kernel (`fused`, `triton_draws`), elsewhere some operations of torch, with
the same words.
"""

import math
from dataclasses import dataclass, field, replace
from enum import IntEnum

import torch
from torch import Tensor

from scoreflow.sde.noise.fused import fused_draw
from scoreflow.sde.noise.kernels import fused_on
from scoreflow.sde.noise.plain_draws import DRAWS, Address, philox
from scoreflow.sde.types import Rows

__all__ = ["Noise", "Stream", "philox"]


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
    NODES = 13
    MEASUREMENT = 16


@dataclass(frozen=True)
class Noise:
    """The randomness of a batch.

    Attributes:
        seed: 0 <= seed < 2**64.
        index: (B,) int64 global sample indices, each in [0, 2**32), on the device of the draws.
        step: which step of a loop is drawing, in [0, 2**32).
        clock: () int64 on the index's device, added to the step: a recorded CUDA graph reads it
            anew at each replay; None for 0.
        ahead: see `reading_ahead`.
    """

    seed: int
    index: Rows
    step: int = 0
    clock: Tensor | None = field(default=None, repr=False, compare=False, kw_only=True)
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
        if type(self) is not Noise:  # of another kind, with fields or draws of its own
            return replace(self, step=step)
        # by name: `replace` looks at each field, which takes longer than reading ahead
        return Noise(self.seed, self.index, step, clock=self.clock, ahead=self.ahead)

    def rows(self, rows: Rows) -> "Noise":
        """Some of the samples."""
        return replace(self, index=self.index[rows], ahead=None)

    def reading_ahead(self, stop: int) -> "Noise":
        """The same draws, made for several steps at once, of those before `stop`.

        For a loop over steps: a draw is two hundred operations (on CUDA one), whose cost on a
        small batch is that of starting them. Normals are views of what is kept, so they must not
        be written to.
        """
        return replace(self, ahead=_Ahead(stop))

    def uniform(self, stream: Stream, shape: tuple[int, ...] = (), draw: int = 0) -> Tensor:
        """Uniform on [0, 1) in multiples of 2^-32: (B, *shape) float64."""
        return self._drawn("uniform", stream, shape, draw)[0]

    def normal(
        self,
        stream: Stream,
        shape: tuple[int, ...] = (),
        draw: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """Standard normal: (B, *shape). Not to be written to: it may be kept.

        Args:
            stream: the purpose.
            shape: of a sample.
            draw: which of the purpose's draws, in [0, 2**24).
            dtype: that a float64 is rounded to.
        """
        if self.ahead is None or self.clock is not None:
            return self._drawn("normal", stream, shape, draw, dtype)[0]
        kept = self.ahead.normal(self, stream, shape, draw)
        return kept if dtype is torch.float64 else kept.to(dtype)

    def rademacher(self, stream: Stream, shape: tuple[int, ...] = (), draw: int = 0) -> Tensor:
        """Minus or plus one with equal probability: (B, *shape) float64."""
        return self._drawn("rademacher", stream, shape, draw)[0]

    def words(self, stream: Stream, shape: tuple[int, ...] = (), draw: int = 0) -> Tensor:
        """32 random bits each: (B, *shape) int64 in [0, 2**32)."""
        return self._drawn("words", stream, shape, draw, torch.int64)[0]

    def _drawn(
        self,
        kind: str,
        stream: Stream,
        shape: tuple[int, ...],
        draw: int,
        dtype: torch.dtype = torch.float64,
        steps: int = 1,
    ) -> Tensor:
        """What `plain_draws.DRAWS` has of a kind, of this step and the next steps - 1.

        Returns:
            (steps, B, *shape), in this dtype.
        """
        if not 0 <= draw < 2**24:
            raise ValueError(f"draw must lie in [0, 2**24), got {draw}")
        lane, count = int(stream) | draw << 8, math.prod(shape)
        at = Address(self.index, self.clock, self.seed, self.step, steps, lane, count)
        if fused_on(self.index.device):
            drawn = fused_draw(kind, at, dtype)
        else:
            drawn = DRAWS[kind](at).to(dtype)
        return drawn.reshape(steps, len(self.index), *shape)


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
            first, kept = noise.step, noise._drawn("normal", stream, shape, draw, steps=steps)
            self._kept[key] = (first, kept)
        return kept[noise.step - first]
