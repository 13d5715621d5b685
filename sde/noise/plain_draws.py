"""Philox 4x32-10 and what its words become, in operations of torch: what a draw means.

A counter-based generator (Salmon et al. 2011): ten rounds of multiply and exclusive-or turn a
128-bit counter and a 64-bit key into four 32-bit words. Integers are the same on every device;
normals, made of them by Box-Muller in float64, agree to the last bits of each device's log, sin
and cos. On CUDA `triton_draws` does the same in one kernel.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


@dataclass(frozen=True)
class Address:
    """Where numbers are drawn: `count` of each sample, at each of `steps` steps.

    Attributes:
        index: (B,) int64 sample indices in [0, 2**32).
        clock: () int64 on the index's device, added to each step; None for 0.
        seed: the 64-bit key, in [0, 2**64).
        step: the first, in [0, 2**32).
        steps: how many.
        lane: the counter's last word, in [0, 2**32).
        count: numbers of a sample.
    """

    index: Tensor
    clock: Tensor | None
    seed: int
    step: int
    steps: int
    lane: int
    count: int


def words(at: Address) -> Tensor:
    """32 random bits each: (steps, B, count) int64 in [0, 2**32)."""
    return torch.stack(_lanes(at), dim=-1).flatten(2)[:, :, : at.count]


def uniform(at: Address) -> Tensor:
    """Uniform on [0, 1) in multiples of 2^-32: (steps, B, count) float64."""
    return words(at).double() * 2.0**-32


def normal(at: Address) -> Tensor:
    """Standard normal: (steps, B, count) float64."""
    lanes = _lanes(at)
    out = at.index.new_empty((*lanes[0].shape, 4), dtype=torch.float64)
    for k in (0, 2):  # two words of a block make two normals
        # strictly inside (0, 1): log stays finite
        radius = lanes[k].double().add_(0.5).mul_(2.0**-32).log_().mul_(-2).sqrt_()
        turn = lanes[k + 1].double().add_(0.5).mul_(2.0**-32 * 2 * math.pi)
        torch.mul(radius, turn.cos(), out=out[..., k])
        torch.mul(radius, turn.sin_(), out=out[..., k + 1])
    return out.flatten(2)[:, :, : at.count]


def rademacher(at: Address) -> Tensor:
    """Minus or plus one with equal probability: (steps, B, count) float64."""
    return (words(at) >> 31).double() * 2 - 1


DRAWS = {"words": words, "uniform": uniform, "normal": normal, "rademacher": rademacher}


def _lanes(at: Address) -> tuple[Tensor, ...]:
    """Four words of each block, (steps, B, blocks) each: at least `count` elements a row."""
    block = torch.arange((at.count + 3) // 4, device=at.index.device)
    counter = block.new_empty(4, at.steps, len(at.index), len(block))
    counter[0] = block
    counter[1] = at.index[:, None]
    counter[2] = _step_numbers(at)
    counter[3] = at.lane
    return _philox(at.seed, *counter.unbind())


def _step_numbers(at: Address) -> Tensor | int:
    """(steps, 1, 1), or one number."""
    if at.steps == 1:
        return at.step if at.clock is None else at.clock + at.step
    numbers = torch.arange(at.step, at.step + at.steps, device=at.index.device)[:, None, None]
    return numbers if at.clock is None else numbers + at.clock


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
