"""Samples of several classes: the class of sample k is a function of k alone."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scoreflow.samplers.denoisers.wrapper import Wrapper
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import Denoiser, Prediction


@dataclass(frozen=True)
class Classes:
    """Which class each sample has.

    Attributes:
        numbers: the classes, taken in turn: sample k has numbers[k mod their count].
        counts: of each class in the data, where samples have it with that share instead.
        seed: of the draw by shares.
        word: that they were asked for by; "" for a list of numbers.
    """

    numbers: tuple[int, ...]
    counts: tuple[int, ...] = ()
    seed: int = 0
    word: str = ""

    def of(self, index: Tensor) -> Tensor:
        """The classes of samples, (B,) int64.

        Args:
            index: of the samples among all of a seed, (B,) int64.
        """
        numbers = torch.tensor(self.numbers, device=index.device)
        if not self.counts:
            return numbers[index % len(numbers)]
        ends = torch.tensor(self.counts, dtype=torch.float64, device=index.device).cumsum(0)
        u = Noise(self.seed, index).uniform(Stream.SAMPLE_CLASS, (1,))[:, 0]
        return numbers[torch.searchsorted(ends, u.double() * ends[-1], right=True)]


class ByClass(Wrapper):
    """A Denoiser that knows of each row which class it is of; `turn` it to a batch first.

    Args:
        make: a class for all rows, or one a row, (B,) int64, -> the Denoiser.
        first: one of the classes, which says how much an evaluation costs.
    """

    def __init__(self, make: Callable[[int | Tensor], Denoiser], first: int) -> None:
        self._make, self._turned = make, False
        self.denoiser = make(first)

    def turn(self, labels: int | Tensor) -> None:
        """From now on the rows are of these classes."""
        self.denoiser, self._turned = self._make(labels), True

    def __call__(self, x_t: Tensor, t: Tensor) -> Prediction:
        """The prediction of each row given its class."""
        assert self._turned, "a plan's groups() turn it to their classes"
        return self.denoiser(x_t, t)
