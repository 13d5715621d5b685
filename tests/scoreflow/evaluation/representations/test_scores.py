"""Clusters' scores against scikit-learn and brute force; probes against what can be told."""

from itertools import permutations

import numpy as np
import pytest
from sklearn import metrics
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scoreflow.errors import RequestError
from scoreflow.evaluation.representations.clusters import (
    accuracy,
    adjusted_rand_index,
    clustered,
    contingency,
    scores_of,
)
from scoreflow.evaluation.representations.probe import linear_probe, paired, refuse_few
from scoreflow.evaluation.representations.sweep import (
    best_of,
    case_of,
    check_row,
    in_the_plane,
    principal,
    scaled,
)
from scoreflow.storage.validation import InvalidError


def drawn(seed, n=60, clusters=4, classes=3, noise=0.4):
    """Clusters that agree with classes more or less."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    found = np.where(rng.random(n) < noise, rng.integers(clusters, size=n), labels)
    return found, labels


CASES = [
    *(drawn(k) for k in range(4)),
    drawn(5, clusters=3, classes=5),
    drawn(6, n=7),
    drawn(7, noise=0.0),
    (np.zeros(9, int), np.arange(9) % 3),
    (np.arange(9), np.arange(9) % 3),
]


@pytest.mark.parametrize(("found", "labels"), CASES)
def test_scores_of_clusters_are_scikit_learns(found, labels):
    own = scores_of(found, labels)
    assert own["nmi"] == pytest.approx(
        metrics.normalized_mutual_info_score(labels, found), abs=1e-12
    )
    assert own["ari"] == pytest.approx(metrics.adjusted_rand_score(labels, found), abs=1e-12)
    other = metrics.cluster.contingency_matrix(labels, found).T
    assert np.array_equal(contingency(found, labels), other)


@pytest.mark.parametrize(("found", "labels"), CASES[:6])
def test_the_accuracy_is_the_best_of_all_maps(found, labels):
    """Each one-to-one map of the smaller set into the larger is tried."""
    table = contingency(found, labels)
    table = table if table.shape[0] <= table.shape[1] else table.T
    rows, columns = table.shape
    best = max(
        sum(table[k, chosen[k]] for k in range(rows))
        for chosen in permutations(range(columns), rows)
    )
    assert accuracy(found, labels) == best / len(labels)


def test_names_of_clusters_do_not_matter():
    found, labels = CASES[0]
    other = np.array([30, 10, 20, 40])[found]
    assert scores_of(other, labels) == scores_of(found, labels)
    assert adjusted_rand_index(found, found) == 1


def blobs(seed, n=150, apart=8.0):
    """Three classes around the corners of a triangle, in five dimensions."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    return rng.normal(size=(n, 5)) + apart * np.eye(5)[labels], labels


def test_clusters_that_are_apart_are_found_and_noise_is_at_chance():
    (train, train_labels), (test, labels) = blobs(0), blobs(1)
    found = clustered(train, test, 3, (0, 1, 2), (train_labels, labels))
    assert found.scores == {"clusters": (1.0, 0.0), "nmi": (1.0, 0.0), "ari": (1.0, 0.0)}
    assert found.train == (1.0, 0.0)
    assert found.agreement == (1.0, 0.0)
    (train, _), (test, _) = blobs(0, apart=0.0), blobs(1, apart=0.0)
    found = clustered(train, test, 3, (0, 1, 2), (train_labels, labels))
    assert abs(found.scores["ari"][0]) < 0.05  # 150 data: sd of 0.01
    assert found.scores["clusters"][0] < 0.5
    assert found.agreement[0] < 0.95


def test_without_labels_there_are_no_scores():
    (train, _), (test, _) = blobs(0), blobs(1)
    found = clustered(train, test, 3, (0, 1))
    assert found.scores == {}
    assert found.train is None
    assert found.agreement == (1.0, 0.0)


def test_errors_over_starts_are_those_of_a_mean():
    """K too large: each start finds other clusters."""
    (train, train_labels), (test, labels) = blobs(0), blobs(1)
    seeds = (0, 1, 2, 3)
    found = clustered(train, test, 7, seeds, (train_labels, labels))
    each = [
        clustered(train, test, 7, (k, k), (train_labels, labels)).scores["ari"][0] for k in seeds
    ]
    assert found.scores["ari"][0] == pytest.approx(np.mean(each))
    assert found.scores["ari"][1] == pytest.approx(np.std(each, ddof=1) / 2)
    assert found.scores["ari"][1] > 0


def test_a_probe_tells_what_is_separable_and_nothing_of_shuffled_labels():
    (train, train_labels), (test, labels) = blobs(0), blobs(1)
    found = linear_probe(train, train_labels, test, labels)
    assert (found.accuracy, found.folds) == (1.0, 1.0)
    assert 0 < found.error < 0.02
    rng, sd = np.random.default_rng(0), (2 / 9 / 150) ** 0.5  # of a rate of 1/3
    shuffled = linear_probe(train, rng.permutation(train_labels), test, rng.permutation(labels))
    assert abs(shuffled.accuracy - 1 / 3) < 4 * sd
    assert abs(shuffled.folds - 1 / 3) < 4 * sd + 0.05  # the best of five strengths


def test_test_labels_change_no_choice():
    """What rows are compared by, and the penalty, are of training data alone."""
    (train, train_labels), (test, labels) = blobs(0, apart=1.5), blobs(1, apart=1.5)
    found = linear_probe(train, train_labels, test, labels)
    other = linear_probe(train, train_labels, test, (labels + 1) % 3)
    assert (found.folds, found.strength) == (other.folds, other.strength)
    assert found.accuracy > 0.5 > other.accuracy
    apart, error = paired(found.right, other.right, len(test))
    assert apart == pytest.approx(found.accuracy - other.accuracy)
    both = 1 - found.accuracy - other.accuracy  # no datum is told rightly by both
    assert error == pytest.approx(((1 - both - apart**2) / (len(test) - 1)) ** 0.5)
    assert paired(found.right, found.right, len(test)) == (0.0, 0.0)
    mine, theirs = (
        clustered(train, test, 3, (0, 1), (train_labels, of)) for of in (labels, labels[::-1])
    )
    assert mine.train == theirs.train


def test_a_datum_is_told_alone_as_among_others():
    """The scale is that of the training data, never of those that are asked about."""
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    values = rng.normal(size=(40, 3)) + 20 * labels[:, None]
    for one in (38, 39):
        asked = values[one : one + 1], labels[one : one + 1]
        assert linear_probe(values[:30], labels[:30], *asked).accuracy == 1


def test_the_penalty_is_the_best_on_folds():
    """Not the worst: by scikit-learn's own cross-validation of each."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    values = rng.normal(size=(60, 20)) + 0.5 * np.eye(20)[labels]
    found = linear_probe(values, labels, values, labels)
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    rates = {}
    for strength in (0.001, 0.01, 0.1, 1.0, 10.0):
        fit = make_pipeline(
            StandardScaler(), LogisticRegression(C=strength, max_iter=300, tol=1e-3)
        )
        rates[strength] = np.mean(cross_val_predict(fit, values, labels, cv=folds) == labels)
    assert max(rates.values()) > min(rates.values())
    assert found.folds == max(rates.values()) == rates[found.strength]


def test_what_is_left_out_was_not_fitted_on():
    """More numbers than data: any labels can be fitted, and none of the others told."""
    rng = np.random.default_rng(0)
    train, labels = rng.normal(size=(60, 200)), np.arange(60) % 2
    found = linear_probe(train, labels, train, labels)
    assert found.accuracy > 0.9
    assert abs(found.folds - 0.5) < 4 * (0.25 / 60) ** 0.5


def test_a_probe_of_features_in_any_unit_is_the_same():
    (train, train_labels), (test, labels) = blobs(0, apart=1.5), blobs(1, apart=1.5)
    units = np.array([1e-3, 1.0, 1e3, 7.0, 1.0])
    own = linear_probe(train, train_labels, test, labels)
    assert linear_probe(train * units, train_labels, test * units, labels) == own
    whole = linear_probe(train, train_labels, test, labels, alike=True)
    assert linear_probe(train * 8, train_labels, test * 8, labels, alike=True) == whole
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    turned = linear_probe(train @ turn, train_labels, test @ turn, labels, alike=True)
    assert turned.folds == pytest.approx(whole.folds, abs=1 / 150)  # in one unit: no axes


@pytest.mark.parametrize(
    ("labels", "told"),
    [([0] * 9, "there is 1 class"), ([0, 0, 0, 1, 1, 1, 2, 2], "class 2 has 2")],
)
def test_too_few_training_data_are_refused(labels, told):
    with pytest.raises(RequestError, match=rf"3 training data of each .* and {told}: raise"):
        refuse_few(np.array(labels))


# ---- a sweep's parts ----------------------------------------------------------------------------


def test_the_best_rows_are_those_of_training_data():
    rows = [
        {"case": "a@1", "folds": 0.9, "accuracy": 0.7, "clusters_train": 0.2, "clusters": 0.9},
        {"case": "b@1", "folds": 0.8, "accuracy": 0.9, "clusters_train": 0.4, "clusters": 0.1},
    ]
    assert best_of(rows) == {"probe": "a@1", "clusters": "b@1"}
    assert best_of([{"case": "a", "agreement": 0.1}, {"case": "b", "agreement": 0.2}]) == {
        "clusters": "b"
    }


def test_a_case_tells_times_apart_and_a_row_is_of_its_own():
    assert case_of("middle.1", 200.0) == "middle.1@200"
    assert case_of("pixels", None) == "pixels"
    assert case_of("a", 225.60000001) != case_of("a", 225.60000002)
    row = {"case": "a@3", "name": "a", "t": 3.0, "log_snr": 0.0, "num_features": 2}
    row |= {"agreement": 1.0, "agreement_sd": 0.0}
    check_row(row)
    for wrong in ({"case": "a@4"}, {"t": 4.0}, {"accuracy": 1.5}, {"num_features": 0}):
        with pytest.raises(InvalidError):
            check_row({**row, **wrong})


def test_activations_are_scaled_by_training_data_and_images_are_not():
    rng = np.random.default_rng(0)
    train, test = rng.normal(3, 5, (40, 4)), rng.normal(3, 5, (20, 4))
    train[:, 2] = test[:, 2] = 7.0  # a dead channel
    a, b = scaled("middle.0", train, test)
    assert a.std(0) == pytest.approx([1, 1, 0, 1])
    assert a.mean(0) == pytest.approx(np.zeros(4), abs=1e-12)
    assert b[:, 0] == pytest.approx((test[:, 0] - train[:, 0].mean()) / train[:, 0].std())
    train[:, 3] *= 9
    a, b = scaled("pixels", train, test)  # by one number
    unit = np.sqrt(train.var(0).mean())
    assert a == pytest.approx((train - train.mean(0)) / unit)
    assert b == pytest.approx((test - train.mean(0)) / unit)
    assert np.all(scaled("pixels", train * 0, test * 0)[0] == 0)


def test_principal_components_have_their_share_of_the_variance():
    rng = np.random.default_rng(0)
    units = np.array([10.0, 5.0, 0.1, 0.1])
    train, test = rng.normal(size=(200, 4)) * units, rng.normal(size=(50, 4)) * units
    a, b = principal(train, test)
    assert a.shape == (200, 2)
    assert b.shape == (50, 2)
    assert a.var(0).sum() >= 0.95 * train.var(0).sum()
    values = np.linalg.eigvalsh(np.cov(train.T))[::-1]
    assert a.var(0, ddof=1) == pytest.approx(values[:2])
    points, shares = in_the_plane("pixels", train, test)
    assert np.abs(points) * np.sqrt(train.var(0).mean()) == pytest.approx(np.abs(b))
    assert shares == pytest.approx(list(values[:2] / values.sum()))
