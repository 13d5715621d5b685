"""Clusters of features by k-means, and how well they agree with classes.

With the table n_kc of data in cluster k and class c of n, marginals n_k and n_c:

    accuracy  max over one-to-one maps of clusters to classes of sum_k n_k,map(k) / n
    NMI       mutual information of both, over the mean of their entropies
    ARI       share of pairs that both put together or both apart, adjusted for chance
              (Hubert & Arabie 1985, "Comparing partitions")
"""

import warnings
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

Array = np.ndarray[Any, Any]
STARTS = 3
"""Of a run of k-means, of which the tightest is taken."""
SCORES = ("clusters", "nmi", "ari")


@dataclass(frozen=True)
class Clustered:
    """Clusters of test data over several runs of k-means on training data.

    Attributes:
        scores: by name ("clusters", the accuracy; "nmi"; "ari"), mean over the runs on test data
            and its standard error; {} without labels.
        train: the accuracy on training data, mean and standard error; None without labels.
        agreement: ARI between two runs' clusters of the test data, mean over pairs and the
            standard deviation of that: the clusters that a start decides are none of the data.
    """

    scores: dict[str, tuple[float, float]]
    train: tuple[float, float] | None
    agreement: tuple[float, float]


def k_means(values: Array, clusters: int, seed: int) -> KMeans:
    """One run: the tightest of `STARTS` starts.

    Args:
        values: (n, F), n >= clusters.
        clusters: K.
        seed: of the starts.
    """
    with warnings.catch_warnings():  # that there are fewer than K different data, say
        warnings.simplefilter("ignore", ConvergenceWarning)
        return KMeans(clusters, n_init=STARTS, random_state=seed).fit(values.astype(np.float64))


def clustered(
    train: Array,
    test: Array,
    clusters: int,
    seeds: tuple[int, ...],
    labels: tuple[Array, Array] | None = None,
) -> Clustered:
    """K-means on training data, and its clusters of the test data held against their classes.

    Args:
        train: (n, F).
        test: (m, F).
        clusters: K, at most n.
        seeds: of the runs, two or more.
        labels: classes of both parts, (n,) and (m,); None where they are not known.
    """
    runs = [k_means(train, clusters, seed) for seed in seeds]
    found = [run.predict(test.astype(np.float64)) for run in runs]
    pairs = [adjusted_rand_index(a, b) for a, b in combinations(found, 2)]
    agreement = float(np.mean(pairs)), float(np.std(pairs))
    if labels is None:
        return Clustered({}, None, agreement)
    scored = [scores_of(each, labels[1]) for each in found]
    scores = {name: _mean_and_error([each[name] for each in scored]) for name in SCORES}
    of_train = [accuracy(run.labels_, labels[0]) for run in runs]
    return Clustered(scores, _mean_and_error(of_train), agreement)


def scores_of(found: Array, labels: Array) -> dict[str, float]:
    """The three scores of one clustering."""
    table = contingency(found, labels)
    scores = _accuracy(table), normalized_mutual_information(table), _adjusted_rand(table)
    return dict(zip(SCORES, scores, strict=True))


def _mean_and_error(values: list[float]) -> tuple[float, float]:
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
    return float(np.mean(values)), error


def contingency(found: Array, labels: Array) -> Array:
    """How many data are in cluster k and class c: (K, C) whole numbers."""
    rows, columns = (np.unique(each, return_inverse=True)[1] for each in (found, labels))
    table = np.zeros((rows.max() + 1, columns.max() + 1), np.int64)
    np.add.at(table, (rows, columns), 1)
    return table


def accuracy(found: Array, labels: Array) -> float:
    """The greatest share of data whose cluster is mapped to their class, one to one."""
    return _accuracy(contingency(found, labels))


def _accuracy(table: Array) -> float:
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / table.sum())


def normalized_mutual_information(table: Array) -> float:
    """Mutual information over the mean of the entropies, in [0, 1]; 1 where both are one set."""
    p = table / table.sum()
    of_rows, of_columns = p.sum(1), p.sum(0)
    inside = p > 0
    information = (p[inside] * np.log((p / np.outer(of_rows, of_columns))[inside])).sum()
    mean = (_entropy(of_rows) + _entropy(of_columns)) / 2
    return float(max(0.0, information) / mean) if mean > 0 else 1.0


def _entropy(p: Array) -> float:
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


def adjusted_rand_index(found: Array, labels: Array) -> float:
    """The adjusted Rand index of two clusterings, 1 where they are equal, 0 by chance."""
    return _adjusted_rand(contingency(found, labels))


def _adjusted_rand(table: Array) -> float:
    n = int(table.sum())
    together, rows, columns = (
        float(_pairs(each).sum()) for each in (table, table.sum(1), table.sum(0))
    )
    by_chance = rows * columns / max(1.0, float(_pairs(np.array(n))))
    most = (rows + columns) / 2
    return (together - by_chance) / (most - by_chance) if most != by_chance else 1.0


def _pairs(counts: Array) -> Array:
    pairs: Array = counts.astype(np.float64) * (counts - 1) / 2
    return pairs
