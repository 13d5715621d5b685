"""Adams' multistep method, with a grid of its own for each row: one evaluation a point.

Along dy/dq = slope(q, y) a step from q_k to q_(k+1) uses the slopes that are there already:

    predict    y* = y_k + integral of the polynomial through the last 4 slopes   (Adams-Bashforth)
    evaluate   f* = slope(q_(k+1), y*)
    correct    y_(k+1) = y_k + that of the polynomial through f* and the last 3  (Adams-Moulton)

("PEC": the slope at the corrected state is not asked for, f* stands for it.) The polynomials are
those of the row's own points, which need not be even. Both estimates have order 4, of opposite
sign, so that a fraction of their difference estimates the local error (Milne's device; for even
steps 19/270 of it). The first steps have fewer slopes, and the orders that go with them.

Only sums and products of a row's own numbers: a row's result is the same to the bit in any batch.

Source: Hairer, Norsett & Wanner, "Solving Ordinary Differential Equations I", III.1 and III.5.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from scoreflow.sde.ode.sums import row_sums

ORDER = 4
MILNE = 19 / 270
_GAUSS = ((-((3 / 5) ** 0.5), 5 / 18), (0.0, 4 / 9), ((3 / 5) ** 0.5, 5 / 18))
"""Points on [-1, 1] and weights of a mean over it, exact for the polynomials of 4 slopes."""

Slope = Callable[[int, Tensor], Tensor]
"""(k, states at point k of the grid, flat (b, n)) -> slopes there, (b, n)."""


@dataclass(frozen=True)
class Step:
    """Where a step has arrived.

    Attributes:
        state: corrected, (b, n).
        error: RMS over its elements of the estimate of the step's local error, (b,); too large for
            the first steps, whose prediction has a lower order than their correction.
    """

    state: Tensor
    error: Tensor


def integral_weights(points: Tensor, valid: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Weights of slopes at some points, whose sum is their polynomial's integral from low to high.

    Args:
        points: (b, k), k <= 4, those that count being distinct.
        valid: whether a point counts, bool (b, k).
        low: (b,).
        high: (b,).

    Returns:
        (b, k), 0 for points that do not count.
    """
    middle, half = (low + high) / 2, (high - low) / 2
    gaps = points[:, :, None] - points[:, None, :]
    others = valid[:, None, :] & ~torch.eye(
        points.shape[1], dtype=torch.bool, device=points.device
    )
    total = torch.zeros_like(points)
    for x, weight in _GAUSS:
        away = (middle + half * x)[:, None, None] - points[:, None, :]
        factors = torch.where(others, away / torch.where(others, gaps, 1.0), 1.0)
        basis = factors[:, :, 0]
        for column in range(1, points.shape[1]):
            basis = basis * factors[:, :, column]
        total = total + weight * basis
    return torch.where(valid, 2 * half[:, None] * total, 0.0)


def adams(
    slope: Slope, state: Tensor, grid: Tensor, restart: Tensor, after: int
) -> Iterator[Step]:
    """Follow dy/dq from the first point of a grid to its last, a step at a time.

    Args:
        slope: evaluated once at each point of the grid, in order, at predicted states.
        state: at the grid's first point, (b, n) float64.
        grid: increasing points of each row, (b, M + 1).
        restart: of each row, whether all slopes but the last are forgotten once, bool (b,): where
            the steps so far are so short beside the next ones that a polynomial through them
            would carry their rounding errors far.
        after: how many steps.

    Yields:
        M steps.
    """
    slopes, counts = [slope(0, state)], torch.ones_like(restart)[:, None]
    points, valid = grid[:, :1], counts
    for k in range(1, grid.shape[1]):
        low, high = grid[:, k - 1], grid[:, k]
        ahead = _combined(state, slopes, integral_weights(points, valid, low, high))
        slopes = [*slopes, slope(k, ahead)][-ORDER:]
        points = torch.cat((points, high[:, None]), 1)[:, -ORDER:]
        valid = torch.cat((valid, counts), 1)[:, -ORDER:]
        state = _combined(state, slopes, integral_weights(points, valid, low, high))
        yield Step(state, MILNE * _rms(state - ahead))
        if k == after:
            valid = torch.cat((valid[:, :-1] & ~restart[:, None], valid[:, -1:]), 1)


def _combined(state: Tensor, slopes: list[Tensor], weights: Tensor) -> Tensor:
    for column, slope in enumerate(slopes):
        state = torch.addcmul(state, weights[:, column : column + 1], slope)
    return state


def _rms(x: Tensor) -> Tensor:
    squares = x.square()
    return (row_sums(torch.stack((squares, squares)))[0] / x.shape[1]).sqrt()
