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
        points: (k, ...), k <= 4, those that count being distinct.
        valid: whether a point counts, bool (k, ...).
        low: where it begins, of the shape of a point or broadcast to it.
        high: where it ends, as `low`.
        rate: what the polynomial is multiplied by, itself integrated by five Gauss points.

    Returns:
        (k, ...), 0 for points that do not count.
    """
    middle, half = (low + high) / 2, (high - low) / 2
    same = torch.eye(len(points), dtype=torch.bool, device=points.device)
    others = valid & ~same.view(*same.shape, *(1,) * (points.ndim - 1))
    gaps = torch.where(others, points[:, None] - points, 1.0)
    total = torch.zeros_like(points)
    for x, weight in _GAUSS:
        at = middle + half * x
        factors = torch.where(others, (at - points) / gaps, 1.0)
        basis = factors[:, 0]
        for column in range(1, len(points)):
            basis = basis * factors[:, column]
        total = total + weight * rate(at) * basis
    return torch.where(valid, 2 * half * total, 0.0)


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
    slopes = [slope(0, state)]
    for k, (predictor, corrector) in enumerate(_weights(grid, restart, after, rate), 1):
        ahead = _combined(state, slopes, predictor)
        slopes = [*slopes, slope(k, ahead)][-ORDER:]
        state = _combined(state, slopes, corrector)
        yield Step(state, MILNE * rms(state - ahead), slopes[-1])


BLOCK = 64
"""Steps whose weights are found together, in one pass of some hundred small operations."""


def _weights(grid: Tensor, restart: Tensor, after: int, rate: Rate) -> Iterator[Tensor]:
    """Of each step the weights of prediction and correction, (2, 4, b), the oldest slope first."""
    rows = grid.T.contiguous()
    padded = torch.cat((rows[:1].expand(ORDER - 1, -1), rows))
    for low in range(0, len(rows) - 1, BLOCK):
        steps = torch.arange(low, min(low + BLOCK, len(rows) - 1), device=grid.device)
        oldest = torch.where(restart & (steps >= after)[:, None], after, 0)
        last = steps + torch.arange(2, device=grid.device)[:, None]  # of both polynomials
        column = torch.arange(ORDER, device=grid.device)[:, None, None]
        point = last + column - (ORDER - 1)  # (4, 2, steps)
        points, valid = padded[last + column], point[..., None] >= oldest
        ends = rows[low : low + len(steps)], rows[low + 1 : low + 1 + len(steps)]
        yield from integral_weights(points, valid, *ends, rate).permute(2, 1, 0, 3)


def _combined(state: Tensor, slopes: list[Tensor], weights: Tensor) -> Tensor:
    for weight, slope in zip(weights[-len(slopes) :], slopes, strict=True):
        state = torch.addcmul(state, weight[:, None], slope)
    return state


def rms(x: Tensor) -> Tensor:
    """Root of the mean square of each row, (b, n) -> (b,), to the same bits in any batch."""
    squares = x.square()
    return (row_sums(torch.stack((squares, squares)))[0] / x.shape[1]).sqrt()
