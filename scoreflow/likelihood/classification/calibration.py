"""How far stated probabilities of classes are to be believed, and a temperature that helps."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from scoreflow.likelihood.classification.bayes import log_posterior
from scoreflow.uncertainty import standard_error

BINS = 15
"""Of confidence, as Guo et al. 2017 have them."""
RESAMPLES = 1000
FOLDS = 10
"""Parts of the data, each at a temperature fitted on the others: of a good classifier's data few
are wrong, and half of them may have none."""
HOTTEST = 1e4
"""Greatest temperature that is fitted, and one over the least."""


@dataclass(frozen=True)
class Bin:
    """Predictions of about one confidence.

    Attributes:
        count: how many.
        confidence: their mean.
        accuracy: share that is right.
    """

    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Of stated probabilities against classes.

    Attributes:
        nll: mean of -log p(own class), nats; the log score.
        nll_error: its standard error; None for one datum.
        brier: mean squared distance of the probabilities to 1 for the own class and 0 for others.
        brier_error: its standard error.
        ece: expected calibration error, the mean of |accuracy - confidence| over bins.
        ece_error: its standard error, by resampling data.
        ece_if_calibrated: what it would be, on average, if each were right with the probability
            that it states: so much is due to the number of data alone.
        confidence: mean of the probability of the class found.
        bins: those with a datum, by confidence.
    """

    nll: float
    nll_error: float | None
    brier: float
    brier_error: float | None
    ece: float
    ece_error: float
    ece_if_calibrated: float
    confidence: float
    bins: tuple[Bin, ...]


def calibration(log_probs: Tensor, own: Tensor) -> Calibration:
    """Calibration of probabilities.

    Args:
        log_probs: log p(k | x), (n, K) float64.
        own: the column of each datum's class, (n,).
    """
    log_probs, own = log_probs.cpu().double(), own.cpu()
    probs = log_probs.exp()
    nll = -log_probs.gather(1, own[:, None])[:, 0]
    target = torch.zeros_like(probs).scatter_(1, own[:, None], 1.0)
    brier = (probs - target).square().sum(1)
    found = log_probs.argmax(1)
    confidence = probs.gather(1, found[:, None])[:, 0].numpy()
    right = (found == own).numpy().astype(np.float64)
    error, expected = _resampled(confidence, right)
    return Calibration(
        nll=float(nll.mean()),
        nll_error=standard_error(nll),
        brier=float(brier.mean()),
        brier_error=standard_error(brier),
        ece=expected_calibration_error(confidence, right),
        ece_error=error,
        ece_if_calibrated=expected,
        confidence=float(confidence.mean()),
        bins=bins_of(confidence, right),
    )


def expected_calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Sum over bins of (share of the data) |accuracy - confidence| (Guo et al. 2017, Eq. 3).

    Args:
        confidence: of the class found, in [0, 1], (n,).
        right: 1 where it is the own class, else 0, (n,).
    """
    sums = np.bincount(_bin(confidence), weights=right - confidence, minlength=BINS)
    return float(np.abs(sums).sum() / len(confidence))


def bins_of(confidence: np.ndarray, right: np.ndarray) -> tuple[Bin, ...]:
    """The reliability diagram: what is right in each bin of confidence that has a datum."""
    place = _bin(confidence)
    counts = np.bincount(place, minlength=BINS)
    means = [np.bincount(place, weights=each, minlength=BINS) for each in (confidence, right)]
    return tuple(
        Bin(int(counts[k]), float(means[0][k] / counts[k]), float(means[1][k] / counts[k]))
        for k in np.flatnonzero(counts)
    )


def _bin(confidence: np.ndarray) -> np.ndarray:
    """Bins ((m - 1) / M, m / M]."""
    found: np.ndarray = np.clip(np.ceil(confidence * BINS) - 1, 0, BINS - 1).astype(np.int64)
    return found


def _resampled(confidence: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """The standard error of the calibration error, and its mean if all were calibrated.

    The first by the bootstrap over data; the second over labels drawn with the probabilities
    stated ("consistency resampling", Broecker & Smith 2007).
    """
    random, n = np.random.default_rng(0), len(confidence)
    chosen = (random.integers(0, n, n) for _ in range(RESAMPLES))
    again = [expected_calibration_error(confidence[k], right[k]) for k in chosen]
    drawn = ((random.random(n) < confidence).astype(np.float64) for _ in range(RESAMPLES))
    ideal = [expected_calibration_error(confidence, each) for each in drawn]
    return float(np.std(again, ddof=1)), float(np.mean(ideal))


def fit_temperature(nats: Tensor, log_prior: Tensor, own: Tensor) -> float:
    """The temperature of the log-likelihoods with the least mean -log p(own class).

    It is convex in 1 / T, so the minimum is the only one.

    Args:
        nats: log p(x | k), (n, K).
        log_prior: (K,).
        own: the column of each datum's class, (n,).
    """

    def nll(log_inverse: float) -> float:
        log_probs = log_posterior(nats, log_prior, math.exp(-log_inverse))
        return -float(log_probs.gather(1, own[:, None]).mean())

    ends = -math.log(HOTTEST), math.log(HOTTEST)
    found = minimize_scalar(nll, bounds=ends, method="bounded", options={"xatol": 1e-6})
    return math.exp(-float(found.x))


def tempered(nats: Tensor, log_prior: Tensor, own: Tensor) -> tuple[Tensor, list[float]] | None:
    """Log posteriors, each at the temperature fitted on images of other folds.

    No datum's class has a part in its own temperature. Images of the training set would not do:
    their likelihoods are those of data that the network has seen.

    Args:
        nats: as in `fit_temperature`, n >= 4; fold k has the data k, k + F, k + 2 F, ...
        log_prior: as there.
        own: as there.

    Returns:
        Log p(k | x), (n, K), and the temperature of each fold. None where a fit has no minimum:
        the greatest likelihood is right of all of its data, and the colder the better.
    """
    folds = min(FOLDS, len(nats) // 2)
    fold = torch.arange(len(nats)) % folds
    found = torch.empty_like(nats)
    temperatures = []
    for k in range(folds):
        others = fold != k
        if bool((nats[others].argmax(1) == own[others]).all()):
            return None
        fitted = fit_temperature(nats[others], log_prior, own[others])
        found[fold == k] = log_posterior(nats[fold == k], log_prior, fitted)
        temperatures.append(fitted)
    return found, temperatures
