"""Differences of likelihoods in pairs: the same data, dequantization and probes for both.

What a datum costs varies far more between data than between models, and in a difference of two
models on the same data that part falls out. The standard error of a mean difference is that of
the differences, sd / sqrt(n), which knows nothing of what another training seed would change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist

from torch import Tensor

from scoreflow.uncertainty import standard_error

ERRORS = 2.0
"""Standard errors beyond which a difference is marked."""


@dataclass(frozen=True)
class Pair:
    """The mean difference of two models, first - second, in the unit of their values.

    Attributes:
        first: name of a model.
        second: of another one.
        value: mean of the differences; above 0 the second has the better likelihood.
        standard_error: of that mean; None for one datum.
        solver: what the two solutions of the flow may move it by.
        larger: whether it exceeds `ERRORS` standard errors and `solver` together.
        larger_of_all: the same at `of_all(pairs)` standard errors.
    """

    first: str
    second: str
    value: float
    standard_error: float | None
    solver: float
    larger: bool
    larger_of_all: bool


def of_all(pairs: int) -> float:
    """Standard errors that no one of so many equal pairs exceeds, as often as one does `ERRORS`.

    Bonferroni's bound: the chance of an excess by any of them, whatever their dependence, is at
    most the sum of those of each, for normal means.

    Args:
        pairs: how many are looked at, at least 1.
    """
    beyond = 2 * NormalDist().cdf(-ERRORS)
    return -NormalDist().inv_cdf(beyond / (2 * pairs))


def pairs_of(values: Mapping[str, Tensor], solver: Mapping[str, float]) -> list[Pair]:
    """All pairs, each model before those that come after it.

    Args:
        values: of each model, a value a datum, (n,), the same data in the same order.
        solver: of each, the error of its mean by the ODE solver.

    Raises:
        ValueError: the models have different numbers of data.
    """
    if len({len(each) for each in values.values()}) > 1:
        raise ValueError(f"pairs need equal data, got {[len(each) for each in values.values()]}")
    found = list(combinations(values, 2))
    return [_pair(a, b, values, solver, len(found)) for a, b in found]


def _pair(
    first: str,
    second: str,
    values: Mapping[str, Tensor],
    solver: Mapping[str, float],
    pairs: int,
) -> Pair:
    apart = values[first].double() - values[second].double()
    value, error = float(apart.mean()), standard_error(apart)
    allowed = solver[first] + solver[second]
    one, all_ = (
        error is not None and abs(value) > times * error + allowed
        for times in (ERRORS, of_all(pairs))
    )
    return Pair(first, second, value, error, allowed, one, all_)


def to(best: str, name: str, pairs: Sequence[Pair]) -> Pair | None:
    """The pair of a model and the best, as name - best; None for the best itself.

    Args:
        best: name of the model that is subtracted.
        name: of the other.
        pairs: all of them.
    """
    for each in pairs:
        if (each.first, each.second) == (name, best):
            return each
        if (each.first, each.second) == (best, name):
            return turned(each)
    return None


def turned(pair: Pair) -> Pair:
    """The same difference from the other side."""
    told = pair.standard_error, pair.solver, pair.larger, pair.larger_of_all
    return Pair(pair.second, pair.first, -pair.value, *told)


def mark(pair: Pair) -> str:
    """How sure a difference is: "" for within its error, "*" beyond, "**" among all pairs too."""
    return "**" if pair.larger_of_all else "*" if pair.larger else ""
