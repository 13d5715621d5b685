"""Bits back: images onto a stack by a chain, at the price of its bound, and off it again.

What the chain draws at random, the encoder draws from the bits that the stack holds, and the
decoder puts them back. In Bit-Swap's order (Kingma et al. 2019): with z_0 a place within the bins,

    pop z_0 | x, pop z_1 | z_0, push z_0 | x, push x | z_1,
    pop z_2 | z_1, push z_1 | z_2,  pop z_3 | z_2, push z_2 | z_3,  ...,  push z_K

so that no more than about two layers' bits are borrowed, however long the chain. A stack that is
empty has none to lend: the first image finds some at the bottom, which are the file's own and
counted.

z_k lies on a grid of cells `Grid.widths[k]` wide. A law on cells is its normal's integral over
them, and so its divergence is no greater than that of the densities; all that the grid costs is
that the network sees rounded inputs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scoreflow.data.levels import dtype_of
from scoreflow.likelihood.compression.ans_stack import AnsStack, Indices, Reals, WrongBitsError
from scoreflow.likelihood.compression.chain import Chain, Normal

PLACES = 2
"""Bits of a place within a bin beyond those of a cell: z_1's noise may be a quarter of a bin."""


@dataclass(frozen=True)
class Grid:
    """Cells of a chain.

    Attributes:
        chain: the laws.
        bits: b: a cell is at most 2^-b of the smaller deviation that z_k has given another.
        widths: of the cells of z_k, k = 0..K, powers of 2 (exact as floats); that of z_0 is none.
        device: of the network.
    """

    chain: Chain
    bits: int
    widths: tuple[float, ...]
    device: torch.device

    @classmethod
    def of(cls, chain: Chain, bits: int, device: torch.device | str = "cpu") -> "Grid":
        """The grid of a precision."""
        widths = [0.0]
        for k in range(1, chain.num_steps + 1):
            stds = [chain.forward(k)[1], chain.prior_std]
            if k < chain.num_steps:
                stds.append(math.sqrt(chain.posterior(k + 1)[2]))
            widths.append(2.0 ** (math.floor(math.log2(min(stds))) - bits))
        return cls(chain, bits, tuple(widths), torch.device(device))

    @property
    def num_places(self) -> int:
        """Places of z_0 within its bin."""
        return 1 << (self.bits + PLACES)

    def borrowed(self, images: int) -> int:
        """Bits that so many images at a time borrow at the most, about twofold."""
        a_number = max(
            math.log2(self.chain.forward(k)[1] / self.widths[k]) + 3
            for k in range(1, self.chain.num_steps + 1)
        )
        return math.ceil(2 * images * math.prod(self.chain.event) * (2 * a_number + self.bits))


@torch.no_grad()
def push(
    stack: AnsStack, grid: Grid, levels: Tensor, on_call: Callable[[], None] = lambda: None
) -> None:
    """Put images onto the stack.

    Args:
        stack: with bits to borrow.
        grid: of the chain.
        levels: (B, ...) in 0..L-1.
        on_call: called after each evaluation of the network, K times.
    """
    chain, known = grid.chain, levels.cpu().numpy().astype(np.int64).ravel()
    place = stack.pop_uniform(grid.num_places, len(known))
    below = _points(grid, known, place)
    here = _draw(stack, grid, 1, below)
    stack.push_uniform(place, grid.num_places)
    stack.push_levels(known, *_of_levels(grid, here), chain.num_levels)
    on_call()
    for k in range(2, chain.num_steps + 1):
        above = _draw(stack, grid, k, _values(grid, k - 1, here))
        law = chain.reverse(k, _state(grid, k, above))
        stack.push_found(here, *_cells(law, grid.widths[k - 1]))
        here = above
        on_call()
    stack.push_found(here, *_prior(grid, len(here)))


@torch.no_grad()
def pop(
    stack: AnsStack, grid: Grid, count: int, on_call: Callable[[], None] = lambda: None
) -> Tensor:
    """Take images off the stack: the undoing of `push` of so many.

    Args:
        stack: as `push` left it.
        grid: the same.
        count: B.
        on_call: called after each evaluation of the network, K times.

    Returns:
        Levels, (B, ...), uint8 or int32.

    Raises:
        WrongBitsError: no encoder with these laws has made this stack.
    """
    chain = grid.chain
    here = stack.pop_found(*_prior(grid, count * math.prod(chain.event)))
    for k in range(chain.num_steps, 1, -1):
        law = chain.reverse(k, _state(grid, k, here))
        below = stack.pop_found(*_cells(law, grid.widths[k - 1]))
        _undraw(stack, grid, k, here, _values(grid, k - 1, below))
        here = below
        on_call()
    known = stack.pop_levels(*_of_levels(grid, here), chain.num_levels)
    on_call()
    place = stack.pop_uniform(grid.num_places, len(known))
    _undraw(stack, grid, 1, here, _points(grid, known, place))
    stack.push_uniform(place, grid.num_places)
    found = torch.from_numpy(known).view(count, *chain.event)
    return found.to(dtype_of(chain.num_levels))


def _points(grid: Grid, levels: Indices, place: Indices) -> Reals:
    """z_0, in the middle of a place of a bin."""
    within = (place + 0.5) / grid.num_places
    return np.asarray(2 * (levels + within) / grid.chain.num_levels - 1, dtype=np.float64)


def _values(grid: Grid, k: int, cells: Indices) -> Reals:
    """z_k at the middle of its cells; exact, for a width is a power of 2."""
    if not (np.abs(cells) < 2**52).all():
        raise WrongBitsError("a number beyond all that an encoder has written")
    return np.asarray(cells * grid.widths[k], dtype=np.float64)


def _state(grid: Grid, k: int, cells: Indices) -> Tensor:
    values = torch.from_numpy(_values(grid, k, cells))
    return values.view(-1, *grid.chain.event).to(grid.device)


def _draw(stack: AnsStack, grid: Grid, k: int, below: Reals) -> Indices:
    slope, std = grid.chain.forward(k)
    return stack.pop_drawn(slope * below / grid.widths[k], std / grid.widths[k])


def _undraw(stack: AnsStack, grid: Grid, k: int, cells: Indices, below: Reals) -> None:
    slope, std = grid.chain.forward(k)
    stack.push_drawn(cells, slope * below / grid.widths[k], std / grid.widths[k])


def _cells(law: Normal, width: float) -> tuple[Reals, Reals]:
    """A law in cells; both parts (n,)."""
    parts = (law.mean / width, law.std / width)
    mean, std = (each.cpu().numpy().ravel() for each in parts)
    if not (np.isfinite(mean).all() and np.isfinite(std).all()):
        raise WrongBitsError("the network has no finite answer")
    return mean, std


def _prior(grid: Grid, count: int) -> tuple[Reals, Reals]:
    return np.zeros(count), np.full(count, grid.chain.prior_std / grid.widths[-1])


def _of_levels(grid: Grid, cells: Indices) -> tuple[Reals, Reals]:
    """The law of x given z_1, in levels."""
    law, num_levels = grid.chain.datum(_state(grid, 1, cells)), grid.chain.num_levels
    mean, std = _cells(law, 2 / num_levels)
    return mean + 0.5 * (num_levels - 1), std
