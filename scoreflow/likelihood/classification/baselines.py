"""What classifies the same images without a diffusion model: neighbours, logistic regression."""

import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from scoreflow.data.stored.images import Images
from scoreflow.likelihood.classification.times import some

NEIGHBOURS = 3
MOST_IMAGES = 10_000
"""Training images that these are given, at random: a set may be sorted by class."""
ITERATIONS = 300


def nearest_neighbours(train: Images, labels: Tensor, test: Tensor) -> Tensor:
    """The class of most of the nearest training images in pixels: (m,) int64.

    Args:
        train: (n, ...).
        labels: of them, (n,).
        test: (m, ...).
    """
    x, y = _given(train, labels)
    model = KNeighborsClassifier(min(NEIGHBOURS, len(x))).fit(x, y)
    return torch.from_numpy(model.predict(_rows(test)).astype(np.int64))


def logistic_regression(train: Images, labels: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Logistic regression on pixels.

    Args:
        train: (n, ...).
        labels: of them, (n,).
        test: (m, ...).

    Returns:
        The classes that it knows, ascending, (K,) int64; log p(k | x), (m, K).
    """
    x, y = _given(train, labels)
    if len(np.unique(y)) == 1:  # the others are rare, and none of them was drawn
        return torch.from_numpy(y[:1].astype(np.int64)), torch.zeros(len(test), 1).double()
    mean, spread = x.mean(0), x.std() or 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # nearly converged is a baseline too
        model = LogisticRegression(max_iter=ITERATIONS).fit((x - mean) / spread, y)
    found = torch.from_numpy(np.asarray(model.decision_function((_rows(test) - mean) / spread)))
    if found.ndim == 1:  # of two classes it gives the logit of the second
        found = torch.stack([torch.zeros_like(found), found], 1)
    return torch.from_numpy(model.classes_.astype(np.int64)), found.double().log_softmax(1)


def _given(train: Images, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Training images as rows, and their classes."""
    chosen = some(len(train), MOST_IMAGES)
    return _rows(train[chosen]), labels[chosen].cpu().numpy()


def _rows(images: Tensor) -> np.ndarray:
    found: np.ndarray = images.cpu().flatten(1).double().numpy()
    return found
