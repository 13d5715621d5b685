"""A stack of bits that numbers are pushed to and popped from by their laws.

Asymmetric numeral systems (Duda 2009), by the package constriction: what is pushed by a law costs
-log2 of its probability and comes back by the same law; what is popped by a law from bits that
were there is a draw from it, and costs as much less. A number is the index of a cell of a grid,
and its law the normal's integral over the cells of a window about its mean.

The coder knows probabilities in 24 bits, and gives every cell of a window 1 of 2^24 at the least.
So a window is no wider than the normal itself gives about as much at its ends: 5 deviations for
what is drawn, beyond which nothing is, and 8 for what is found, where the cell at an end says that
a number lies there or beyond, and how far follows. Elements of different deviations have windows
of their own, by octaves.
"""

import importlib.util
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scoreflow.errors import RequestError

Indices = NDArray[np.int64]
Reals = NDArray[np.float64]

DRAWN, FOUND = 5.0, 8.0
"""Deviations to either side of a window."""
WIDEST = 1 << 20
"""Cells to either side of a window, at the most: beyond, they would be a law of the leak alone."""
WORD = 32
"""Bits of a word of the stack."""
STATE = 2
"""Words at the top that are not yet on the stack proper."""
LENGTHS, PIECE = 64, 16
"""Lengths of a number that may follow an end of a window, and bits of it at a time."""


class WrongBitsError(ValueError):
    """Bits that no encoder with these laws has written."""


def refuse_without_coder() -> None:
    """Refuse where the package is missing.

    Raises:
        RequestError: with what to install.
    """
    if importlib.util.find_spec("constriction") is None:
        raise RequestError(
            "--mode compress and decompress need the package constriction: "
            "pip install 'scoreflow-sde[compress]'"
        )


class AnsStack:
    """The stack.

    Args:
        words: uint32, from the bottom to the top; the last one is not 0.

    Attributes:
        least: fewest words there have been, those of the state not counted: as many at the bottom
            were never looked at.
    """

    def __init__(self, words: NDArray[np.uint32]) -> None:
        import constriction

        self._models: Any = constriction.stream.model
        self._coder: Any = constriction.stream.stack.AnsCoder(words)
        self.least = len(words) - STATE

    def words(self) -> NDArray[np.uint32]:
        """All of it, from the bottom to the top."""
        found: NDArray[np.uint32] = self._coder.get_compressed()
        return found

    @property
    def num_bits(self) -> int:
        """That it holds."""
        return int(self._coder.num_valid_bits())

    # ---- whole numbers --------------------------------------------------------------------------

    def pop_uniform(self, size: int, count: int) -> Indices:
        """So many numbers of 0..size-1; size up to 2^24."""
        found = self._coder.decode(self._models.Uniform(size), count)
        self._popped()
        return np.asarray(found, dtype=np.int64)

    def push_uniform(self, values: Indices, size: int) -> None:
        """Undo `pop_uniform`."""
        self._coder.encode_reverse(values.astype(np.int32), self._models.Uniform(size))

    def pop_levels(self, mean: Reals, std: Reals, num_levels: int) -> Indices:
        """Levels 0..L-1 by a normal's shares of [k - 1/2, k + 1/2], the outermost open.

        Args:
            mean: in levels, (n,).
            std: the same, positive.
            num_levels: L.
        """
        found = self._coder.decode(self._gaussian(0, num_levels - 1), mean, std)
        self._popped()
        return np.asarray(found, dtype=np.int64)

    def push_levels(self, levels: Indices, mean: Reals, std: Reals, num_levels: int) -> None:
        """Undo `pop_levels`."""
        law = self._gaussian(0, num_levels - 1)
        self._coder.encode_reverse(levels.astype(np.int32), law, mean, std)

    # ---- cells of a grid ------------------------------------------------------------------------

    def pop_drawn(self, mean: Reals, std: float) -> Indices:
        """Cells by a normal of one deviation, within `DRAWN` of it.

        Args:
            mean: in cells, (n,).
            std: the same, positive.
        """
        centre = np.rint(mean)
        law = self._gaussian(*_window(std, DRAWN))
        found = self._coder.decode(law, mean - centre, np.full_like(mean, std))
        self._popped()
        return centre.astype(np.int64) + np.asarray(found, dtype=np.int64)

    def push_drawn(self, cells: Indices, mean: Reals, std: float) -> None:
        """Undo `pop_drawn`.

        Raises:
            WrongBitsError: one of them cannot have been drawn.
        """
        centre, (low, high) = np.rint(mean), _window(std, DRAWN)
        apart = cells - centre.astype(np.int64)
        if (apart < low).any() or (apart > high).any():
            raise WrongBitsError("a number that no encoder has drawn")
        law = self._gaussian(low, high)
        self._coder.encode_reverse(
            apart.astype(np.int32), law, mean - centre, np.full_like(mean, std)
        )

    def pop_found(self, mean: Reals, std: Reals) -> Indices:
        """Cells by normals of a deviation each, wherever they lie.

        Args:
            mean: in cells, (n,).
            std: the same, positive.
        """
        centre, found = np.rint(mean), np.empty(len(mean), dtype=np.int64)
        for rows, (low, high) in _by_octave(std):
            law, own = self._gaussian(low, high), mean[rows] - centre[rows]
            apart = np.asarray(self._coder.decode(law, own, std[rows]), dtype=np.int64)
            for k in np.flatnonzero((apart == low) | (apart == high)):
                apart[k] += int(np.sign(apart[k])) * self._pop_length()
            found[rows] = apart
        self._popped()
        return centre.astype(np.int64) + found

    def push_found(self, cells: Indices, mean: Reals, std: Reals) -> None:
        """Undo `pop_found`."""
        centre = np.rint(mean)
        apart = cells - centre.astype(np.int64)
        for rows, (low, high) in reversed([*_by_octave(std)]):
            within = apart[rows].clip(low, high)
            for k in np.flatnonzero((within == low) | (within == high))[::-1]:
                self._push_length(abs(int(apart[rows][k] - within[k])))
            law = self._gaussian(low, high)
            own = mean[rows] - centre[rows]
            self._coder.encode_reverse(within.astype(np.int32), law, own, std[rows])

    # ---- what follows an end --------------------------------------------------------------------

    def _pop_length(self) -> int:
        """A number of any size: how many bits it has, then the bits below the first."""
        bits = self._pop(LENGTHS)
        if bits < 2:
            return bits
        value = 1
        for size in _pieces(bits - 1):
            value = value << size | self._pop(1 << size)
        return value

    def _push_length(self, value: int) -> None:
        bits = value.bit_length()
        if bits >= 2:
            for size in reversed(_pieces(bits - 1)):
                self._push(value & ((1 << size) - 1), 1 << size)
                value >>= size
        self._push(bits, LENGTHS)

    def _pop(self, size: int) -> int:
        return int(self._coder.decode(self._models.Uniform(size)))

    def _push(self, value: int, size: int) -> None:
        self._coder.encode_reverse(value, self._models.Uniform(size))

    def _popped(self) -> None:
        self.least = min(self.least, int(self._coder.num_words()) - STATE)

    def _gaussian(self, low: int, high: int) -> Any:  # noqa: ANN401
        return self._models.QuantizedGaussian(low, high)


def _window(std: float, deviations: float) -> tuple[int, int]:
    half = min(max(1, math.ceil(deviations * std)), WIDEST)
    return -half, half


def _by_octave(std: Reals) -> Iterator[tuple[Indices, tuple[int, int]]]:
    """The elements of each octave of deviations, and their window."""
    octaves = np.ceil(np.log2(std)).astype(np.int64)
    for each in np.unique(octaves):
        yield np.flatnonzero(octaves == each), _window(2.0 ** int(each), FOUND)


def _pieces(bits: int) -> list[int]:
    """Bits as pieces of at most `PIECE`, the highest first."""
    rest = bits % PIECE
    return [*([rest] if rest else []), *[PIECE] * (bits // PIECE)]
