"""A linear probe: how well a linear classifier tells classes by features.

Multinomial logistic regression with an L2 penalty on features of one scale (Alain & Bengio 2016,
"Understanding intermediate layers using linear classifier probes"). The penalty is chosen by
cross-validation on the training data alone, and so is what the features are compared by; the test
data are looked at once.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from scoreflow.errors import RequestError
from scoreflow.evaluation.representations.scaling import Scale
from scoreflow.uncertainty import rate_error

Array = np.ndarray[Any, Any]
FOLDS = 3
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""C of the regression: one over the weight of the penalty, in units of a datum's loss."""
ITERATIONS = 300
"""Of L-BFGS, at the most: a probe that has not converged by then is taken as it is."""


@dataclass(frozen=True)
class Probed:
    """How well a probe tells classes.

    Attributes:
        accuracy: on test data, in [0, 1].
        error: standard error of that, by the choice of test data.
        folds: mean accuracy on the folds left out of the training data, at `strength`.
        folds_error: standard error of that, by the choice of training data.
        strength: C, the one with the greatest `folds`.
        right: whether each test datum is told rightly, a bit each in hexadecimal, the first first.
    """

    accuracy: float
    error: float
    folds: float
    folds_error: float
    strength: float
    right: str


def linear_probe(
    train: Array,
    train_labels: Array,
    test: Array,
    test_labels: Array,
    seed: int = 0,
    alike: bool = False,
) -> Probed:
    """Fit a probe on training data and score it on test data.

    Args:
        train: (n, F).
        train_labels: (n,) whole numbers, each at least `FOLDS` times.
        test: (m, F).
        test_labels: (m,).
        seed: of the folds.
        alike: whether all features are in one unit; see `Scale.of`.
    """
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    splits = list(folds.split(train, train_labels))
    by_strength = {
        strength: float(np.mean(_left_out(train, train_labels, splits, strength, alike)))
        for strength in STRENGTHS
    }
    best = max(STRENGTHS, key=lambda strength: (by_strength[strength], -strength))
    right = _fitted(train, train_labels, best, alike)(test) == test_labels
    accuracy = float(np.mean(right))
    return Probed(
        accuracy,
        rate_error(accuracy, len(test)),
        by_strength[best],
        rate_error(by_strength[best], len(train)),
        best,
        np.packbits(right).tobytes().hex(),
    )


def paired(right: str, other: str, count: int) -> tuple[float, float]:
    """Difference of two probes' accuracies on the same test data, and its standard error.

    Args:
        right: `Probed.right` of the one.
        other: of that which is subtracted.
        count: of test data.
    """
    apart = _bits(right, count) - _bits(other, count)
    return float(np.mean(apart)), float(np.std(apart, ddof=1) / math.sqrt(count))


def _bits(right: str, count: int) -> Array:
    packed = np.frombuffer(bytes.fromhex(right), np.uint8)
    return np.unpackbits(packed, count=count).astype(np.float64)


def _left_out(
    values: Array,
    labels: Array,
    splits: list[tuple[Array, Array]],
    strength: float,
    alike: bool,
) -> Array:
    """Whether each datum is told rightly by a probe of the other folds: (n,) of 0 and 1."""
    right = np.zeros(len(values))
    for others, left_out in splits:
        told = _fitted(values[others], labels[others], strength, alike)(values[left_out])
        right[left_out] = told == labels[left_out]
    return right


def _fitted(
    values: Array, labels: Array, strength: float, alike: bool
) -> Callable[[Array], Array]:
    """Features -> classes."""
    scale = Scale.of(values, alike)
    regression = LogisticRegression(C=strength, max_iter=ITERATIONS, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        regression.fit(scale(values), labels)
    return lambda others: regression.predict(scale(others))


def refuse_few(labels: Array) -> None:
    """Refuse training data that cannot be dealt into folds, or of one class.

    Raises:
        RequestError: with the class that has too few.
    """
    known, counts = np.unique(labels, return_counts=True)
    few = [int(k) for k, count in zip(known, counts, strict=True) if count < FOLDS]
    if few or len(known) < 2:
        told = f"class {few[0]} has {int(counts.min())}" if few else f"there is {len(known)} class"
        raise RequestError(
            f"a linear probe is fitted on {FOLDS} training data of each of two classes at least, "
            f"and {told}: raise features.train_images, or give other data"
        )
