"""Nearest-neighbour metrics: two-sample test, precision and recall, classes; a pixel baseline."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from scoreflow.evaluation.distances import blocks, class_counts, nearest
from scoreflow.uncertainty import rate_error, standard_error


def two_sample_accuracy(samples: Tensor, real: Tensor) -> dict[str, Any]:
    """Leave-one-out 1-nearest-neighbour two-sample test (Lopez-Paz & Oquab 2017).

    0.5: samples and data are indistinguishable; 1: each knows its own; below 0.5: samples sit on
    top of the data.

    Args:
        samples: (n, ...) values.
        real: (n, ...), as many: with unequal numbers the larger side finds itself more often.

    Returns:
        accuracy, its standard error if the neighbours were independent, and the rates on both
        sides, of which it is the mean: two misses, one above and one below 0.5, cancel in it. So
        the verdict is `told_apart`, the distance from 0.5 of the worse of the two rates, with its
        standard error: samples that no data are like are recognised all or none.
    """
    if len(samples) != len(real):
        raise ValueError(
            f"as many samples as real ones are needed, got {len(samples)} and {len(real)}"
        )
    n = len(samples)
    kind = torch.promote_types(samples.dtype, real.dtype)
    pool = torch.cat([samples.to(kind), real.to(samples.device, kind)])
    own = (nearest(pool, pool, apart=True)[1] < n) == (torch.arange(2 * n, device=pool.device) < n)
    accuracy = float(own.double().mean())
    sides = [float(own[:n].double().mean()), float(own[n:].double().mean())]
    worse = max(sides, key=lambda rate: abs(rate - 0.5))
    return {
        "accuracy": accuracy,
        "standard_error": rate_error(accuracy, 2 * n),
        "samples_recognised": sides[0],
        "real_recognised": sides[1],
        "told_apart": abs(worse - 0.5),
        "told_apart_error": rate_error(worse, n),
        "num_each": n,
    }


def histogram_bits_per_dim(train: Tensor, test: Tensor, num_levels: int) -> tuple[float, float]:
    """Bits/dim of test images if pixels were independent, and its standard error over images.

    Each pixel has the histogram of its levels in the training set, every count plus one, so that
    a level that it never had there costs something finite.

    Args:
        train: (n, ...) levels in 0..L-1.
        test: (m, ...) levels.
        num_levels: L.
    """
    offset = torch.arange(math.prod(train.shape[1:]), device=test.device) * num_levels
    counts = torch.zeros(len(offset) * num_levels, dtype=torch.int64, device=test.device)
    for batch in _placed(train, offset):
        counts += torch.bincount(batch.flatten(), minlength=len(counts))
    bits = -((counts + 1).double() / (len(train) + num_levels)).log2()
    each = torch.cat([bits[batch].mean(1) for batch in _placed(test, offset)])
    return float(each.mean()), standard_error(each) or 0.0


def _placed(levels: Tensor, offset: Tensor) -> Iterator[Tensor]:
    """Blocks of images, each pixel's level as a place among the counts of all pixels, (b, D)."""
    for start in range(0, len(levels), 1024):
        yield levels[start : start + 1024].to(offset.device).flatten(1) + offset


def nearest_labels(samples: Tensor, real: Tensor, labels: Tensor) -> Tensor:
    """The label of each sample's nearest real neighbour, (n,) integers."""
    index = nearest(samples, real)[1]
    return labels.to(index.device)[index]


def nearest_classes(samples: Tensor, real: Tensor, labels: Tensor) -> list[int]:
    """How many samples have each class, by the label of their nearest real neighbour."""
    return class_counts(nearest_labels(samples, real, labels), int(labels.max()) + 1)


def precision_recall(samples: Tensor, real: Tensor, neighbours: int = 3) -> dict[str, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019), on the values themselves.

    A set's manifold is the union of balls around its points, each as wide as the distance to the
    k-th nearest other point. Precision is the share of samples on the data's manifold (fidelity),
    recall that of data on the samples' (diversity). Their standard errors are of shares of n and
    of m, the other set's manifold taken as it is.

    Args:
        samples: (n, ...) values, n > k.
        real: (m, ...) values, m > k.
        neighbours: k.
    """
    if min(len(samples), len(real)) <= neighbours:
        raise ValueError(
            f"more than {neighbours} of each are needed, got {len(samples)} and {len(real)}"
        )
    of_samples, of_real = _reaches(samples, neighbours), _reaches(real, neighbours)
    precision = float(_reached(samples, real, of_real).double().mean())
    recall = float(_reached(real, samples, of_samples).double().mean())
    return {
        "precision": precision,
        "precision_error": rate_error(precision, len(samples)),
        "recall": recall,
        "recall_error": rate_error(recall, len(real)),
    }


def _reaches(values: Tensor, neighbours: int) -> Tensor:
    """Distance of each datum to the k-th nearest other one of its set, (n,) float64."""
    found = []
    for _, x in blocks(values, values.device):
        least = x.new_full((len(x), 0), math.inf)
        for _, y in blocks(values, values.device):
            least = torch.cat([least, torch.cdist(x, y)], 1)
            count = min(neighbours + 1, least.shape[1])
            least = least.topk(count, 1, largest=False).values
        found.append(least[:, neighbours])
    return torch.cat(found)


def _reached(values: Tensor, by: Tensor, reach: Tensor) -> Tensor:
    """Which data lie in a ball around one of a set: (n,) truth values."""
    found = []
    for _, x in blocks(values, values.device):
        inside = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for start, y in blocks(by, x.device):
            radius = reach[start : start + len(y)].to(x.device)
            inside |= (torch.cdist(x, y) <= radius).any(1)
        found.append(inside)
    return torch.cat(found)
