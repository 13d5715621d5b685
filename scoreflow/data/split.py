"""One pool of data cut into a training and a held-out part, by a seed."""

import math
from dataclasses import replace

import numpy as np
import torch

from scoreflow.data.dataset import Data
from scoreflow.data.stored.images import chosen
from scoreflow.errors import RequestError


def check_cut(test_fraction: float, split_seed: int) -> None:
    """Refuse a share that is none, and a seed that is none."""
    if not 0 <= test_fraction < 1:
        raise RequestError(f"test_fraction must lie in [0, 1), got {test_fraction}")
    if split_seed < 0:
        raise RequestError(f"split_seed must be 0 or more, got {split_seed}")


def cut(pool: Data, test_fraction: float, split_seed: int) -> Data:
    """A pool's random permutation, of which the first part is the test set; with 0 all is both.

    Args:
        pool: all data as one part.
        test_fraction: share held out, rounded up to whole data; in [0, 1).
        split_seed: of the permutation, 0 or more.

    Raises:
        RequestError: a value is out of its range, or nothing would be left to train on.
    """
    check_cut(test_fraction, split_seed)
    count = len(pool.train)
    if test_fraction == 0:
        line = (
            f"nothing is held out (data.test_fraction = 0): all {count} data are trained on and "
            "measured on"
        )
        return replace(pool, remarks=(*pool.remarks, line))
    num_test = max(1, math.ceil(test_fraction * count - 1e-9))
    if num_test == count:
        raise RequestError(
            f"{pool.name}: test_fraction {test_fraction} of {count} data leaves none to train"
            " on; lower it (0 trains on all, and holds none out) or add data"
        )
    order = torch.from_numpy(np.random.default_rng(split_seed).permutation(count))
    test, train, labels = order[:num_test], order[num_test:], pool.train_labels
    return replace(
        pool,
        train=chosen(pool.train, train),
        test=chosen(pool.train, test),
        train_labels=None if labels is None else labels[train],
        test_labels=None if labels is None else labels[test],
        test_names=tuple(pool.test_names[k] for k in test.tolist()) if pool.test_names else (),
    )
