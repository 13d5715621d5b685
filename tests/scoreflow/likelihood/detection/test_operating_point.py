"""False positives at a fixed share of detections, against scikit-learn and their own spread."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from scoreflow.likelihood.detection.ood_detection import auroc
from scoreflow.likelihood.detection.operating_point import PASSED, false_positives


def pair(seed, n, m, apart=1.0, steps=0):
    """Scores of ordinary and other data; rounded to so many steps, so that some are equal."""
    rng = np.random.default_rng(seed)
    own, other = rng.normal(size=n), rng.normal(apart, 1.3, size=m)
    if steps:
        own, other = (np.round(each * steps) / steps for each in (own, other))
    return torch.from_numpy(own), torch.from_numpy(other)


def by_sklearn(own, other):
    """Ordinary data are the positives, and a low score says so."""
    said = np.r_[-own.numpy(), -other.numpy()]
    true = np.r_[np.ones(len(own)), np.zeros(len(other))]
    wrong, right, _ = roc_curve(true, said, drop_intermediate=False)
    return wrong[np.argmax(right >= PASSED)], roc_auc_score(1 - true, -said)


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize(("n", "m"), [(100, 60), (37, 81), (19, 7), (2, 2)])
def test_rate_and_area_are_those_of_scikit_learn(n, m, steps):
    own, other = pair(n, n, m, steps=steps)
    rate, area = by_sklearn(own, other)
    assert false_positives(own, other)[0] == pytest.approx(rate, abs=1e-12)
    assert auroc(own, other)[0] == pytest.approx(area, abs=1e-12)


def test_delong_error_is_that_of_a_plain_double_loop():
    own, other = pair(3, 23, 31, steps=2)
    wins = np.array([[(b > a) + 0.5 * (b == a) for a in own.tolist()] for b in other.tolist()])
    of_other, of_own = wins.mean(1), wins.mean(0)
    expected = math.sqrt(of_other.var(ddof=1) / 31 + of_own.var(ddof=1) / 23)
    assert auroc(own, other)[1] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("n", "m", "apart"), [(200, 200, 1.0), (100, 1000, 2.0), (400, 60, 2.0)])
def test_the_error_is_the_spread_over_repetitions(n, m, apart):
    """Both parts count: of 100 and 1000 the threshold's, of 400 and 60 that of the few others.

    The spread of 300 has a relative error of 1 / sqrt(600) = 4 %. The estimated error is
    right to first order, its own mean off by the curve's bend: 20 % is allowed for both.
    """
    found = [false_positives(*pair(k, n, m, apart)) for k in range(300)]
    rates, errors = np.array(found).T
    assert np.sqrt((errors**2).mean()) == pytest.approx(rates.std(ddof=1), rel=0.2)
    alone = np.sqrt(rates.mean() * (1 - rates.mean()) / m)
    assert rates.std(ddof=1) > 1.1 * alone  # the binomial part would not do


def test_none_of_few_is_not_none_of_all():
    rate, error = false_positives(torch.zeros(50), torch.ones(20))
    assert rate == 0.0
    assert error > 0.03


def test_one_score_is_no_set():
    with pytest.raises(ValueError, match="two scores of each"):
        false_positives(torch.zeros(1), torch.zeros(5))
