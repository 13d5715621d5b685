"""What exponential integrators share: the linear part of the flow solved exactly.

In the coordinates x_t / alpha_t and rho = sigma / alpha, or x_t / sigma_t and
lambda = log(alpha / sigma), the probability flow of every process is

    d(x / alpha) / d rho = eps(x, t),        d(x / sigma) / d lambda = e^lambda x_0(x, t),

so a method only has to guess how an estimate goes on between two times. Multistep methods guess
it from what was estimated before; what they keep of that is their memory.
"""

from dataclasses import dataclass, replace

from torch import Tensor

from sde.base import SDE, broadcast
from sde.types import Batch, Times


@dataclass(frozen=True)
class Estimate:
    """An estimate of x_0 or eps, and where it was made.

    Attributes:
        at: lambda or rho, ().
        value: shaped like x_t.
    """

    at: Tensor
    value: Batch


def half_log_snr(sde: SDE, t: Times) -> Tensor:
    """lambda_t = log(alpha_t / sigma_t); +inf at t = 0."""
    return 0.5 * sde.log_snr(t)


def ratio(sde: SDE, t: Times) -> Tensor:
    """rho_t = sigma_t / alpha_t; 0 at t = 0."""
    return sde.sigma(t) / sde.alpha(t)


def combined(x_t: Batch, factor: Tensor, *weighted: tuple[Tensor, Batch]) -> Batch:
    """The sum of factor x_t and of the weighted."""
    total = broadcast(factor, x_t) * x_t
    for weight, value in weighted:
        total = total + broadcast(weight, x_t) * value
    return total


def moved(kept: tuple[Estimate, ...], by: Batch) -> tuple[Estimate, ...]:
    """The same estimates, all changed by one amount (`Multistep.moved`)."""
    return tuple(replace(each, value=each.value + by) for each in kept)
