"""Conjugate gradients, for each sample on its own."""

from collections.abc import Callable

import torch
from torch import Tensor

from scoreflow.sde.base import broadcast
from scoreflow.sde.types import Batch


def conjugate_gradients(
    matrix: Callable[[Batch], Batch], b: Batch, iterations: int, tolerance: float = 1e-13
) -> Batch:
    """matrix^-1 b, for each row of the batch on its own (Hestenes & Stiefel 1952).

    A row rests where its residual has fallen to `tolerance` of b, and where it meets a direction
    of no positive curvature, which only a matrix that is no covariance has: the Jacobian of a
    network is one but approximately. When all rows rest it ends; on a GPU, where to ask means to
    wait, it goes on to 4, 8, 16, ... iterations, in which resting rows stay as they are.

    Args:
        matrix: rows (B, ...) -> rows; symmetric and positive definite on each.
        b: (B, ...).
        iterations: at most; each multiplies by the matrix once.
        tolerance: relative.
    """
    x, residual, direction = torch.zeros_like(b), b, b
    square = _dot(b, b)
    least = tolerance**2 * square
    live = square > 0
    for iteration in range(iterations):
        if _asked_after(iteration, live) and not bool(live.any()):
            break
        image = matrix(direction)
        curvature = _dot(direction, image)
        live = live & (curvature > 0)
        step = torch.where(live, square / torch.where(live, curvature, 1.0), 0.0)
        x = x + broadcast(step, b) * direction
        residual = residual - broadcast(step, b) * image
        new = _dot(residual, residual)
        ratio = torch.where(live, new / torch.where(live, square, 1.0), 0.0)
        direction = residual + broadcast(ratio, b) * direction
        square, live = new, live & (new > least)
    return x


def _asked_after(iterations: int, live: Tensor) -> bool:
    """Whether to look for rows on their way: always where their numbers are at hand."""
    return live.is_cpu or (iterations >= 4 and iterations.bit_count() == 1)


def _dot(a: Batch, b: Batch) -> Tensor:
    return (a * b).flatten(1).sum(1)
