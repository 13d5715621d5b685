"""Features of clean images by the classifier of noisy images, at its least time."""

import torch
from torch import Tensor

from scoreflow.data.levels import centres
from scoreflow.models.classifier import NoisyClassifier


@torch.no_grad()
def clean_features(
    classifier: NoisyClassifier, values: Tensor, num_levels: int, batch_size: int = 256
) -> Tensor:
    """Features of images without noise: the mean of x_t at the least time, bins at their centres.

    Args:
        classifier: where the images lie.
        values: levels, (n, C, H, W) uint8.
        num_levels: L.
        batch_size: images at a time.

    Returns:
        (n, F) float64.
    """
    t = torch.tensor(classifier.t_min, dtype=torch.float64)
    found = [
        classifier.features(classifier.sde.alpha(t) * centres(part, num_levels), t)
        for part in values.split(batch_size)
    ]
    return torch.cat(found).double()
