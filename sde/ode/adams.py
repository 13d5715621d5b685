"""Adams' multistep method, with a grid of its own for each row: one evaluation a point.

Along dy/dq = rate(q) slope(q, y) a step from q_k to q_(k+1) uses the slopes that are there:

    predict    y* = y_k + integral of the polynomial through the last 4 slopes   (Adams-Bashforth)
    evaluate   f* = slope(q_(k+1), y*)
    correct    y_(k+1) = y_k + that of the polynomial through f* and the last 3  (Adams-Moulton)

("PEC": the slope at the corrected state is not asked for, f* stands for it.) The polynomials are
those of the row's own points, which need not be even, and are integrated times the rate as it is.
Both estimates have order 4, of opposite sign, so that a fraction of their difference estimates the
local error (Milne's device; for even steps and a constant rate 19/270 of it). The first steps have
fewer slopes, and the orders that go with them.

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
_GAUSS = (
    (-0.906179845938664, 0.11846344252809454),
    (-0.5384693101056831, 0.23931433524968324),
    (0.0, 0.28444444444444444),
    (0.5384693101056831, 0.23931433524968324),
    (0.906179845938664, 0.11846344252809454),
)
"""Points on [-1, 1] and weights of a mean over it, exact for polynomials of degree 9."""

Rate = Callable[[Tensor], Tensor]
"""q (...) -> dp/dq there, (...): a known factor of dy/dq = (dp/dq) slope."""
Slope = Callable[[int, Tensor], Tensor]
"""(k, states at point k of the grid, flat (b, n)) -> slopes there, (b, n)."""


@dataclass(frozen=True)
class Step:
    """Where a step has arrived.

    Attributes:
        state: corrected, (b, n).
        error: RMS over its elements of the estimate of the step's local error, (b,); too large for
            the first steps, whose prediction has a lower order than their correction.
        slope: the newest, at its end, (b, n).
    """

    state: Tensor
    error: Tensor
    slope: Tensor


def integral_weights(
    points: Tensor, valid: Tensor, low: Tensor, high: Tensor, rate: Rate = torch.ones_like
) -> Tensor:
    """Weights of slopes at some points: the integral of their polynomial times a rate.

    Args:
        points: (b, k), k <= 4, those that count being distinct.
        valid: whether a point counts, bool (b, k).
        low: where it begins, (b,).
        high: where it ends, (b,).
        rate: what the polynomial is multiplied by, itself integrated by five Gauss points.

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
        at = middle + half * x
        away = at[:, None, None] - points[:, None, :]
        factors = torch.where(others, away / torch.where(others, gaps, 1.0), 1.0)
        basis = factors[:, :, 0]
        for column in range(1, points.shape[1]):
            basis = basis * factors[:, :, column]
        total = total + (weight * rate(at))[:, None] * basis
    return torch.where(valid, 2 * half[:, None] * total, 0.0)


def adams(
    slope: Slope,
    state: Tensor,
    grid: Tensor,
    restart: Tensor,
    after: int,
    rate: Rate = torch.ones_like,
) -> Iterator[Step]:
    """Follow dy/dq = rate(q) slope(q, y) from the first point of a grid to its last, by steps.

    Args:
        slope: evaluated once at each point of the grid, in order, at predicted states.
        state: at the grid's first point, (b, n) float64.
        grid: increasing points of each row, (b, M + 1).
        restart: of each row, whether all slopes but the last are forgotten once, bool (b,): where
            the steps so far are so short beside the next ones that a polynomial through them
            would carry their rounding errors far.
        after: how many steps.
        rate: a factor that is known between the points too: it is not interpolated, so that a step
            may span a large change of it.

    Yields:
        M steps.
    """
    slopes, counts = [slope(0, state)], torch.ones_like(restart)[:, None]
    points, valid = grid[:, :1], counts
    for k in range(1, grid.shape[1]):
        low, high = grid[:, k - 1], grid[:, k]
        ahead = _combined(state, slopes, integral_weights(points, valid, low, high, rate))
        slopes = [*slopes, slope(k, ahead)][-ORDER:]
        points = torch.cat((points, high[:, None]), 1)[:, -ORDER:]
        valid = torch.cat((valid, counts), 1)[:, -ORDER:]
        state = _combined(state, slopes, integral_weights(points, valid, low, high, rate))
        yield Step(state, MILNE * rms(state - ahead), slopes[-1])
        if k == after:
            valid = torch.cat((valid[:, :-1] & ~restart[:, None], valid[:, -1:]), 1)


def _combined(state: Tensor, slopes: list[Tensor], weights: Tensor) -> Tensor:
    for column, slope in enumerate(slopes):
        state = torch.addcmul(state, weights[:, column : column + 1], slope)
    return state


def rms(x: Tensor) -> Tensor:
    """Root of the mean square of each row, (b, n) -> (b,), to the same bits in any batch."""
    squares = x.square()
    return (row_sums(torch.stack((squares, squares)))[0] / x.shape[1]).sqrt()
