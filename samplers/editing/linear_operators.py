"""Linear measurements of an image: y = A x_0 + s n, n ~ N(0, I).

    Masked       the pixels that are given                      inpainting
    ChannelMean  the mean over the channels: an image's grey    colourising
    BlockMean    the mean over blocks of pixels                 super-resolution

Of each, the rows are orthogonal and of one length, A A^T = gain I, so that A^+ = A^T / gain is the
pseudo-inverse and x + A^+ (y - A x) the point nearest to x that fits y.
"""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from scoreflow.sde.types import Batch


@runtime_checkable
class Operator(Protocol):
    """A linear map of images whose rows are orthogonal and of one length."""

    @property
    def gain(self) -> float:
        """The squared length of a row: A A^T = gain I."""
        ...

    def apply(self, x: Batch) -> Tensor:
        """A x, (B, ...) of another shape."""
        ...

    def adjoint(self, y: Tensor) -> Batch:
        """A^T y, shaped like x."""
        ...


@dataclass(frozen=True)
class Masked:
    """A x: the elements of x where `known`, (B, M).

    Attributes:
        known: bool, the shape of one datum.
    """

    known: Tensor
    _places: dict[torch.device, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def gain(self) -> float:
        """1: each row picks one element."""
        return 1.0

    def apply(self, x: Batch) -> Tensor:
        """The known elements."""
        return x.flatten(1).index_select(1, self._at(x.device))

    def adjoint(self, y: Tensor) -> Batch:
        """The known elements in their places, 0 elsewhere."""
        x = y.new_zeros(len(y), self.known.numel()).index_copy(1, self._at(y.device), y)
        return x.view(-1, *self.known.shape)

    def _at(self, device: torch.device) -> Tensor:
        """Places of the known elements, (M,): a GPU would be waited for to count a mask's."""
        if device not in self._places:
            self._places[device] = self.known.flatten().nonzero()[:, 0].to(device)
        return self._places[device]


@dataclass(frozen=True)
class ChannelMean:
    """A x: the mean over the channels, (B, C, H, W) -> (B, 1, H, W).

    Attributes:
        channels: C.
    """

    channels: int

    @property
    def gain(self) -> float:
        """1 / C."""
        return 1 / self.channels

    def apply(self, x: Batch) -> Tensor:
        """The grey of an image."""
        return x.mean(1, keepdim=True)

    def adjoint(self, y: Tensor) -> Batch:
        """A C-th of the grey in every channel."""
        return (y / self.channels).expand(-1, self.channels, *y.shape[2:])


@dataclass(frozen=True)
class BlockMean:
    """A x: the mean over blocks of factor x factor pixels, (B, C, H, W) -> (B, C, H/f, W/f).

    Attributes:
        factor: f, pixels a side, which divides both sides of the image.
    """

    factor: int

    @property
    def gain(self) -> float:
        """1 / f^2."""
        return 1 / self.factor**2

    def apply(self, x: Batch) -> Tensor:
        """The coarse image."""
        size, f = x.shape, self.factor
        return x.reshape(*size[:2], size[2] // f, f, size[3] // f, f).mean((3, 5))

    def adjoint(self, y: Tensor) -> Batch:
        """An f^2-th of the block's value in every pixel of it."""
        wide = y.repeat_interleave(self.factor, 2).repeat_interleave(self.factor, 3)
        return wide * self.gain


@dataclass(frozen=True)
class Measurement:
    """y = A x_0 + std n.

    Attributes:
        operator: A.
        value: y, of one datum for all samples, (1, ...), or of each, (B, ...).
        std: standard deviation s of an element of y about A x_0, in units of the data.
    """

    operator: Operator
    value: Tensor
    std: float

    def residual(self, x_0: Batch) -> Tensor:
        """Y - A x_0."""
        return self.value - self.operator.apply(x_0)

    def projected(self, x: Batch, value: Tensor) -> Batch:
        """X + A^+ (value - A x): the point nearest to x whose measurement is `value`."""
        difference = value - self.operator.apply(x)
        return x + self.operator.adjoint(difference) / self.operator.gain

    def misfit(self, x_0: Batch) -> Tensor:
        """Root mean square of the residual's elements, one a sample, (B,)."""
        return self.residual(x_0).flatten(1).square().mean(1).sqrt()


def middle_square(shape: tuple[int, ...]) -> Tensor:
    """Of the last two axes, all but the middle square of half their lengths: bool, `shape`."""
    height, width = shape[-2:]
    known = torch.ones(shape, dtype=torch.bool)
    top, left = (height - height // 2) // 2, (width - width // 2) // 2
    known[..., top : top + height // 2, left : left + width // 2] = False
    return known
