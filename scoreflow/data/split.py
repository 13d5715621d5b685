"""One pool of data cut into a training and a held-out part, by a seed."""

import math

import numpy as np
import torch
from torch import Tensor

from scoreflow.errors import RequestError


def cut(name: str, count: int, test_fraction: float, split_seed: int) -> tuple[Tensor, Tensor]:
    """The rows of the training and of the test part, int64: a random permutation, cut.

    Args:
        name: of the data, for messages.
        count: of the pool.
        test_fraction: share of the test part, rounded up; in (0, 1).
        split_seed: 0 or more.
    """
    if not 0 < test_fraction < 1:
        raise RequestError(f"test_fraction must lie in (0, 1), got {test_fraction}")
    if split_seed < 0:
        raise RequestError(f"split_seed must be 0 or more, got {split_seed}")
    num_test = math.ceil(test_fraction * count - 1e-9)
    if num_test == count:
        raise RequestError(
            f"{name}: test_fraction {test_fraction} of {count} data leaves none to train on; "
            "lower it or add data"
        )
    order = torch.from_numpy(np.random.default_rng(split_seed).permutation(count))
    return order[num_test:], order[:num_test]
