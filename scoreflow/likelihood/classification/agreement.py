"""Accuracies with their intervals, what is taken for what, and two classifiers in pairs."""

import math
from dataclasses import dataclass

import torch
from scipy.stats import binomtest
from torch import Tensor

Z_95 = 1.959963984540054
"""Standard deviations within which 95 % of a normal law lie."""


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a rate by Wilson's score (Wilson 1927).

    Args:
        right: successes.
        n: of so many, 1 or more.
    """
    p, z2 = right / n, Z_95**2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def confusion(own: Tensor, found: Tensor, num_classes: int) -> list[list[int]]:
    """How many data of each class (a row) are found to be of each (a column)."""
    counts = torch.bincount(own * num_classes + found, minlength=num_classes**2)
    table: list[list[int]] = counts.view(num_classes, num_classes).tolist()
    return table


@dataclass(frozen=True)
class Pair:
    """Two classifiers of the same data.

    Attributes:
        first_only: data that the first alone is right about.
        second_only: those that the second alone is right about.
        difference: of the accuracies, first minus second.
        standard_error: of the difference, in pairs.
        p_value: of McNemar's exact test that neither is the better one.
    """

    first_only: int
    second_only: int
    difference: float
    standard_error: float
    p_value: float


def mcnemar(first: Tensor, second: Tensor) -> Pair:
    """Two classifiers compared datum by datum (McNemar 1947, by the binomial law).

    Args:
        first: whether the first is right, (n,) bool.
        second: whether the second is, (n,) bool.
    """
    n = len(first)
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    difference = (b - c) / n
    error = math.sqrt(max(0.0, (b + c) / n - difference**2) / n)
    p_value = float(binomtest(b, b + c).pvalue) if b + c else 1.0
    return Pair(b, c, difference, error, p_value)
