"""Differences of processes in pairs, with the errors of images and of trainings."""

import math
from itertools import combinations
from statistics import NormalDist

from scipy import stats
from torch import Tensor

from scoreflow.comparison.paired import ERRORS
from scoreflow.storage.atomic_files import Json
from scoreflow.uncertainty import standard_error

MARKED = 2 * NormalDist().cdf(-ERRORS)
"""Chance below which a difference is marked: that of two errors."""


def training_noise(values: dict[str, Tensor]) -> dict[str, float] | None:
    """Standard deviation of a training's likelihood over seeds, of each process.

    Args:
        values: of each process a row a seed and a column an image, (K, n).

    Returns:
        In the unit of the values; None for one seed, which knows nothing of others.
    """
    if not values or len(next(iter(values.values()))) < 2:
        return None
    return {name: float(each.mean(1).std()) for name, each in values.items()}


def differences(values: dict[str, Tensor], noise: dict[str, float] | None) -> list[Json]:
    """Each pair of processes on the same images, its errors, and whether it is larger.

    Processes may differ in the noise of their trainings by far, so a pair has that of its own two,
    and few seeds know it badly: a difference is held against Student's law with as many degrees
    of freedom as its error has (Welch 1947), at the chance of 2 errors of a normal law.

    Args:
        values: as in `training_noise`.
        noise: what that found.
    """
    found = []
    pairs = list(combinations(values, 2))
    for first, second in pairs:
        apart = values[first].mean(0) - values[second].mean(0)
        by_images, seeds = standard_error(apart) or 0.0, len(values[first])
        own = [noise[name] / math.sqrt(seeds) for name in (first, second)] if noise else []
        error, value = math.hypot(by_images, *own), float(apart.mean())
        parts = [(by_images, len(apart) - 1), *((part, seeds - 1) for part in own)]
        chance = _chance(value, error, parts)
        found.append(
            {
                "first": first,
                "second": second,
                "value": value,
                "by_images": by_images,
                "by_training": math.hypot(*own) if own else None,
                "standard_error": error,
                "chance": chance,
                "larger": chance < MARKED,
                "larger_of_all": chance < MARKED / len(pairs),
            }
        )
    return found


def _chance(value: float, error: float, parts: list[tuple[float, int]]) -> float:
    """How often a difference as large, or larger, comes from equal means.

    Args:
        value: the difference.
        error: of it, the root of the sum of squares of its parts.
        parts: each part, and the degrees of freedom that it is known with.
    """
    if not error:
        return float(value == 0)
    freedom = error**4 / sum(part**4 / max(1, known) for part, known in parts)
    return float(2 * stats.t.sf(abs(value) / error, freedom))
