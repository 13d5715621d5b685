"""Differences of likelihoods in pairs: the same data, dequantization and probes for both.

What a datum costs varies far more between data than between models, and in a difference of two
models on the same data that part falls out. The standard error of a mean difference is that of
the differences, sd / sqrt(n), which knows nothing of what another training seed would change.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from scipy import special
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
        larger_of_all: the same at `of_all(pairs, data)` standard errors.
        guessed: whether `solver` is, of one of the two, its solver's own guess, not measured.
    """

    first: str
    second: str
    value: float
    standard_error: float | None
    solver: float
    larger: bool
    larger_of_all: bool
    guessed: bool = False


def chance_of_one(data: int) -> float:
    """How often one pair of equal models exceeds `ERRORS` standard errors by chance.

    A mean of normal differences over the standard error that they themselves show is Student's t,
    with one degree of freedom less than there are data (Student 1908).

    Args:
        data: that the difference is a mean of, at least 2.
    """
    return float(2 * special.stdtr(data - 1, -ERRORS))


def of_all(pairs: int, data: int) -> float:
    """Standard errors that any of so many equal pairs exceeds no more often than one `ERRORS`.

    Bonferroni's bound: the chance of an excess by any of them, whatever their dependence, is at
    most the sum of those of each; by Student's law, for normal differences.

    Args:
        pairs: how many are looked at, at least 1.
        data: that each difference is a mean of, at least 2.
    """
    return -float(special.stdtrit(data - 1, chance_of_one(data) / (2 * pairs)))


def pairs_of(
    values: Mapping[str, Tensor], solver: Mapping[str, float], guessed: Collection[str] = ()
) -> list[Pair]:
    """All pairs, each model before those that come after it.

    Args:
        values: of each model, a value a datum, (n,), the same data in the same order.
        solver: of each, the error of its mean by the ODE solver.
        guessed: models whose error by the solver is its own guess.

    Raises:
        ValueError: the models have different numbers of data.
    """
    if len({len(each) for each in values.values()}) > 1:
        raise ValueError(f"pairs need equal data, got {[len(each) for each in values.values()]}")
    found = list(combinations(values, 2))
    return [
        replace(_pair(a, b, values, solver, len(found)), guessed=a in guessed or b in guessed)
        for a, b in found
    ]


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
    one = all_ = False
    if error is not None:
        one = abs(value) > ERRORS * error + allowed
        all_ = one and abs(value) > of_all(pairs, len(apart)) * error + allowed
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
    return replace(pair, first=pair.second, second=pair.first, value=-pair.value)


def mark(pair: Pair) -> str:
    """How sure a difference is: "" for within its error, "*" beyond, "**" among all pairs too."""
    return "**" if pair.larger_of_all else "*" if pair.larger else ""
