"""Standard errors: of a mean, a rate, a ratio, and by the jackknife of anything else."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

BLOCKS = 10


Statistic = Callable[[Tensor, Tensor], float]


def jackknife(statistic: Statistic, x: Tensor, y: Tensor, blocks: int = BLOCKS) -> float:
    """Standard error of statistic(x, y) over disjoint blocks of both (Efron & Stein 1981).

    Args:
        statistic: of (n', ...) and (m', ...), for any n', m' that leave a block out.
        x: (n, ...).
        y: (m, ...).
        blocks: how many at most; fewer where a set is smaller.

    Raises:
        ValueError: a set has fewer than two data.
    """
    blocks = min(blocks, len(x), len(y))
    if blocks < 2:
        raise ValueError(f"blocks need two data of each set, got {len(x)} and {len(y)}")
    of_x, of_y = (_dealt(len(z), blocks).to(z.device) for z in (x, y))
    left_out = [statistic(x[of_x != k], y[of_y != k]) for k in range(blocks)]
    mean = math.fsum(left_out) / blocks
    return math.sqrt((blocks - 1) / blocks * math.fsum((each - mean) ** 2 for each in left_out))


def _dealt(count: int, blocks: int) -> Tensor:
    """The block of each datum, at random and always the same.

    Data may come in an order, every tenth of one class, of which a block must know nothing.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(count))
    return order % blocks


def standard_error(values: Tensor) -> float | None:
    """Standard error of the mean of (n,) independent values, sd / sqrt(n); None for one value."""
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else None


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Mean of (n,) independent values and its standard error; nan for one value."""
    values = values.double()
    error = standard_error(values)
    return float(values.mean()), math.nan if error is None else error


def ratio(value: tuple[float, float], to: tuple[float, float]) -> tuple[float, float] | None:
    """Quotient of two independent numbers and its standard error to first order.

    None where the divisor is 0: all of the yardstick are copies.
    """
    (a, a_error), (b, b_error) = value, to
    if b == 0:
        return None
    return a / b, math.hypot(a_error / b, a * b_error / b**2)


def rate_error(rate: float, n: int) -> float:
    """Standard error of a rate of n, with two successes and two failures more.

    Agresti & Coull 1998: not 0 where all or none succeeded.
    """
    p = (rate * n + 2) / (n + 4)
    return math.sqrt(p * (1 - p) / (n + 4))
