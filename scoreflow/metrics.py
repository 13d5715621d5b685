"""How samples compare with data, without a downloaded network."""

import math
from typing import Any

import torch
from torch import Tensor


def two_sample_accuracy(samples: Tensor, real: Tensor) -> dict[str, Any]:
    """Leave-one-out 1-nearest-neighbour two-sample test (Lopez-Paz & Oquab 2017).

    0.5: no telling samples from data; 1: each knows its own; below 0.5: samples sit on top of the
    data.

    Args:
        samples: (n, ...) values.
        real: (n, ...), as many: with unequal numbers the larger side finds itself more often.

    Returns:
        accuracy, its standard error if the neighbours were independent, and the rates on both
        sides.
    """
    if len(samples) != len(real):
        raise ValueError(
            f"as many samples as real ones are needed, got {len(samples)} and {len(real)}"
        )
    n = len(samples)
    pool = torch.cat([samples.double().flatten(1), real.double().flatten(1)])
    distance = torch.cdist(pool, pool).fill_diagonal_(math.inf)
    own = (distance.argmin(1) < n) == (torch.arange(2 * n, device=pool.device) < n)
    accuracy = float(own.double().mean())
    return {
        "accuracy": accuracy,
        "standard_error": math.sqrt(accuracy * (1 - accuracy) / (2 * n)),
        "samples_recognised": float(own[:n].double().mean()),
        "real_recognised": float(own[n:].double().mean()),
        "num_each": n,
    }


def nearest_classes(samples: Tensor, real: Tensor, labels: Tensor) -> list[int]:
    """How many samples have each class, by the label of their nearest real neighbour."""
    nearest = torch.cdist(samples.double().flatten(1), real.double().flatten(1)).argmin(1)
    classes = labels.to(nearest.device)[nearest]
    return torch.bincount(classes, minlength=int(labels.max()) + 1).tolist()
