"""Helpers of the exponential integrators, which solve the linear part of the flow exactly.

In the coordinates x_t / alpha_t and rho = sigma / alpha, or x_t / sigma_t and
lambda = log(alpha / sigma), the probability flow of every process is

    d(x / alpha) / d rho = eps(x, t),        d(x / sigma) / d lambda = e^lambda x_0(x, t),

so a method only has to guess how an estimate goes on between two times. Multistep methods guess
it from what was estimated before; what they keep of that is their memory. Their coefficients are
Python's floats: arithmetic on a tensor of one number costs as much as on a small batch.

A stated order is that of a step with a full memory, on every grid. The first step has none: it is
DDIM's, whose error is of second order in its stride, or of third order once UniPC has corrected
it, and no later step mends that. So as the strides of a grid shrink, what is left of orders above
2 (with the corrector, above 3) falls at the order 2 (3). How much is left depends on how much the
estimate changes in the first stride: nothing to see from a prior of little signal by even steps in
log-SNR, or in Karras' clock, which stand still there; on the grid `angle`, whose first stride goes
far, it is most of the error of DEIS-3 and DEIS-4.
"""

from dataclasses import dataclass, replace
from math import inf, prod

from scoreflow.sde.base import SDE
from scoreflow.sde.types import Batch, Times


@dataclass(frozen=True)
class Estimate:
    """An estimate of x_0 or eps, and where it was made.

    Attributes:
        at: lambda or rho.
        value: shaped like x_t.
    """

    at: float
    value: Batch


def half_log_snr(sde: SDE, t: Times) -> float:
    """lambda_t = log(alpha_t / sigma_t); +inf at t = 0."""
    return 0.5 * sde.log_snr(t).item()


def ratio(sde: SDE, t: Times) -> float:
    """rho_t = sigma_t / alpha_t; 0 at t = 0, inf where alpha is 0."""
    alpha = sde.alpha(t).item()
    return sde.sigma(t).item() / alpha if alpha else inf


def combined(x_t: Batch, factor: float, *weighted: tuple[float, Batch]) -> Batch:
    """The sum of factor x_t and of the weighted."""
    total = factor * x_t
    for weight, value in weighted:
        total = total.add(value, alpha=weight)
    return total


def quadrature(nodes: list[float], moments: list[float]) -> list[float]:
    """The weights w_j of which sum_j w_j nodes_j^n = moments_n, n = 0, 1, ..., as many as nodes.

    By the Lagrange polynomials: w_j is what the moments make of the one that is 1 at node j.
    """
    weights = []
    for j, node in enumerate(nodes):
        others = nodes[:j] + nodes[j + 1 :]
        polynomial = [1.0]  # coefficients, lowest power first
        for other in others:
            raised, held = [0.0, *polynomial], [*polynomial, 0.0]
            polynomial = [up - other * same for up, same in zip(raised, held, strict=True)]
        value = sum(c * moment for c, moment in zip(polynomial, moments, strict=True))
        weights.append(value / prod(node - other for other in others))
    return weights


def moved(kept: tuple[Estimate, ...], by: Batch) -> tuple[Estimate, ...]:
    """The same estimates, all changed by one amount (`Multistep.moved`)."""
    return tuple(replace(each, value=each.value + by) for each in kept)
