"""Indices and counts of parts in a range code, under laws that both sides learn alike.

A number v >= 0 is the magnitude floor(log2(v + 1)) under a law, and as many bits as that leaves
open, which are as good as even. The index of a candidate (`relative_entropy`) has the law that
theory gives it: of the least tau_i / w(z_i) that quotient is exponential of mean 1 and independent
of z (Li & El Gamal 2018), so tau is w times it, and the candidates before are at most Poisson with
mean tau: geometric with mean w, where log w is nearly normal under q, with mean D and variance 2 D
in nats. The D of the parts of a state is told first, in few bits; what is seen corrects the law.

The code is read in the order in which it was written, so whoever has its first words has the first
numbers.
"""

import importlib.util
import math
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np

from scoreflow.errors import RequestError

MAGNITUDES = 26
"""Of numbers below 2^25: more than `relative_entropy.MOST`."""
FROM_THEORY = 16.0
"""Numbers that the law of an index is worth before any was seen."""
STEPS, GREATEST = 15, 16.0
"""Nonzero values in which the bits of a part are told, and the greatest of them."""
PIECE = 12
"""Bits that are coded at once."""


def refuse_without() -> None:
    """Refuse where the entropy coder is not installed."""
    if importlib.util.find_spec("constriction") is None:
        raise RequestError("compress needs constriction: pip install scoreflow-sde[compress]")


@dataclass
class Frequencies:
    """Of values seen so far, and what was thought of them before.

    Attributes:
        counts: positive, (values,).
    """

    counts: np.ndarray[Any, Any]

    @classmethod
    def of_indices(cls, code: int) -> "Frequencies":
        """Of the magnitudes of indices, where a part has `told_bits(code)`."""
        return cls(FROM_THEORY * _magnitude_law(code) + 1e-3)

    @classmethod
    def around(cls, value: int, values: int) -> "Frequencies":
        """Of whole numbers of which a typical one is known."""
        away = np.abs(np.arange(values) - value)
        return cls(4 * 0.35 ** np.minimum(away, 8.0) + 1e-3 / (1 + away))

    def model(self) -> Any:  # noqa: ANN401  (constriction has no types)
        """As the range code takes it."""
        import constriction

        shares = self.counts / self.counts.sum()
        return constriction.stream.model.Categorical(shares, perfect=False)

    def saw(self, value: int) -> None:
        """Learn from one."""
        self.counts[value] += 1


def told_as(bits: float) -> int:
    """A number of bits as it is told, 0..`STEPS`."""
    return min(STEPS, round(STEPS * math.sqrt(max(bits, 0.0) / GREATEST)))


def told_bits(code: int) -> float:
    """What was told."""
    return GREATEST * (code / STEPS) ** 2


@cache
def _magnitude_law(code: int) -> np.ndarray[Any, Any]:
    """Of floor(log2(v + 1)), v geometric with mean w and log w normal: (`MAGNITUDES`,).

    Rounded, so that another machine's last bits do not matter.
    """
    nats = told_bits(code) * math.log(2)
    quantiles = (np.arange(32) + 0.5) / 32
    normal = np.array([NormalDist().inv_cdf(each) for each in quantiles])
    w = np.exp(nats + math.sqrt(2 * nats + (0.2 * nats) ** 2) * normal)  # parts differ
    ends = 2.0 ** np.arange(MAGNITUDES + 1) - 1
    beyond = np.exp(ends[:, None] * -np.log1p(1 / w)).mean(1)
    found: np.ndarray[Any, Any] = np.round(-np.diff(beyond) * 2**16) / 2**16
    return found


class Writer:
    """Numbers into words."""

    def __init__(self) -> None:
        import constriction

        self._coder = constriction.stream.queue.RangeEncoder()

    def put(self, value: int, under: Frequencies) -> None:
        """One of the values of a law."""
        self._coder.encode(value, under.model())
        under.saw(value)

    def put_even(self, value: int, bits: int) -> None:
        """A number of so many bits."""
        self._coder.encode(value, _even(bits))

    def put_index(self, value: int, under: Frequencies) -> None:
        """A number in [0, 2^25), by the law of its magnitude."""
        magnitude = (value + 1).bit_length() - 1
        self.put(magnitude, under)
        rest, left = value + 1 - (1 << magnitude), magnitude
        while left:
            bits = min(left, PIECE)
            left -= bits
            self.put_even(rest >> left & (1 << bits) - 1, bits)

    @property
    def bits(self) -> int:
        """Of the words, if these were all numbers."""
        return int(self._coder.num_bits())

    def words(self) -> np.ndarray[Any, Any]:
        """The code, (n,) uint32."""
        found: np.ndarray[Any, Any] = self._coder.get_compressed()
        return found


class Reader:
    """Words back into numbers.

    Args:
        words: (n,) uint32; of others than a writer's come numbers that mean nothing.
    """

    def __init__(self, words: np.ndarray[Any, Any]) -> None:
        import constriction

        self._coder = constriction.stream.queue.RangeDecoder(words.astype(np.uint32))

    def get(self, under: Frequencies) -> int:
        """The next value of a law."""
        value = int(self._coder.decode(under.model()))
        under.saw(value)
        return value

    def get_even(self, bits: int) -> int:
        """The next number of so many bits."""
        return int(self._coder.decode(_even(bits)))

    def get_index(self, under: Frequencies) -> int:
        """The next number, by the law of its magnitude."""
        magnitude = self.get(under)
        rest, left = 0, magnitude
        while left:
            bits = min(left, PIECE)
            left -= bits
            rest = rest << bits | self.get_even(bits)
        return rest + (1 << magnitude) - 1


def _even(bits: int) -> Any:  # noqa: ANN401
    import constriction

    return constriction.stream.model.Uniform(1 << bits)
