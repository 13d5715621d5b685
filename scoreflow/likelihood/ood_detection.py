"""Out-of-distribution detection by likelihood: AUROC of scores, input complexity by PNG.

A density alone prefers simple images, whatever they show (Nalisnick et al. 2019); input complexity
(Serra et al. 2020) takes off what a general-purpose code needs for the image, here PNG's.
"""

import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scoreflow.data.levels import to_uint8


def auroc(ordinary: Tensor, other: Tensor) -> tuple[float, float]:
    """P(score of other > score of ordinary), ties counting half, and its standard error.

    The area under the ROC curve of a detector that calls high scores anomalous; the error is that
    of DeLong et al. 1988, by the spread of the placements of each side among the other. 0.5: the
    score knows nothing; below 0.5: it has the two the wrong way round.

    Args:
        ordinary: (n,) scores, n >= 2.
        other: (m,) scores, m >= 2.
    """
    if len(ordinary) < 2 or len(other) < 2:
        raise ValueError(f"two scores of each are needed, got {len(ordinary)} and {len(other)}")
    of_other, of_ordinary = _placements(other, ordinary), 1 - _placements(ordinary, other)
    error = math.sqrt(
        float(of_other.var()) / len(other) + float(of_ordinary.var()) / len(ordinary)
    )
    return float(of_other.mean()), error


def _placements(scores: Tensor, among: Tensor) -> Tensor:
    """Of each score, the share of the others below it, ties counting half."""
    ranked = among.double().sort().values
    below = torch.searchsorted(ranked, scores.double())
    up_to = torch.searchsorted(ranked, scores.double(), right=True)
    return (below + up_to).double() / (2 * len(among))


def png_bits_per_dim(levels: Tensor, num_levels: int) -> Tensor:
    """Bits a dimension that each image takes as a PNG, its fixed parts left out, (n,) float64.

    Args:
        levels: (n, C, H, W) integers in 0..L-1, C = 1 or 3.
        num_levels: L.
    """
    pictures = to_uint8(levels.cpu(), num_levels).permute(0, 2, 3, 1).squeeze(3).numpy()
    dims = levels[0].numel()
    sizes = [_png_bytes(picture) for picture in pictures]
    return torch.tensor(sizes, dtype=torch.float64) * 8 / dims


def _png_bytes(picture: np.ndarray) -> int:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG", optimize=True)
    return len(stream.getvalue()) - FIXED_BYTES


FIXED_BYTES = 8 + 25 + 12 + 12
"""Signature, header, end, and the frame of one data chunk: the same for every image."""


def detection(
    ordinary: dict[str, Tensor], other: dict[str, Tensor]
) -> dict[str, dict[str, float]]:
    """AUROC of each score: test set against other data."""
    found = {}
    for name in ordinary:
        value, error = auroc(ordinary[name], other[name])
        found[name] = {"auroc": value, "standard_error": error}
    return found
