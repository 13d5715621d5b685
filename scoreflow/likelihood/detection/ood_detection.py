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

from scoreflow.data.levels import spread


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
    ranked, scores = among.double().sort().values, scores.double().contiguous()
    below = torch.searchsorted(ranked, scores)
    up_to = torch.searchsorted(ranked, scores, right=True)
    return (below + up_to).double() / (2 * len(among))


def png_bits_per_dim(levels: Tensor, num_levels: int) -> Tensor:
    """Bits a dimension that each image takes as a PNG, its fixed parts left out, (n,) float64.

    Of more than 4 channels, or of more than 256 levels, the channels lie side by side in grey, of
    8 or 16 bits.

    Args:
        levels: (n, C, H, W) integers in 0..L-1.
        num_levels: L.
    """
    dims = levels[0].numel()
    sizes = [
        _png_bytes(picture)
        for start in range(0, len(levels), BLOCK)
        for picture in _pictures(levels[start : start + BLOCK].cpu(), num_levels)
    ]
    return torch.tensor(sizes, dtype=torch.float64) * 8 / dims


def _pictures(levels: Tensor, num_levels: int) -> np.ndarray:
    """Images as Pillow takes them: (n, H, W) grey, or (n, H, W, C)."""
    deep = num_levels > 256
    if deep or levels.shape[1] > 4:
        levels = torch.cat(levels.split(1, dim=1), dim=3)
    shown = spread(levels, num_levels, 65535 if deep else 255).permute(0, 2, 3, 1).numpy()
    shown = shown.astype(np.uint16 if deep else np.uint8)
    return shown[..., 0] if shown.shape[-1] == 1 else shown


def _png_bytes(picture: np.ndarray) -> int:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG", optimize=True)
    return len(stream.getvalue()) - FIXED_BYTES


BLOCK = 1024
"""Images that are pictures at a time."""
FIXED_BYTES = 8 + 25 + 12 + 12
"""Signature, header, end, and the frame of one data chunk: the same for every image."""


def effort(evaluations: Tensor, error: Tensor) -> Tensor:
    """A score in the order of evaluations, and among equal ones of the error that was left.

    Of a method with few numbers of evaluations, which takes more where an error is too great.

    Args:
        evaluations: integers below 1e9, (n,) float64.
        error: >= 0, (n,) float64.
    """
    return evaluations + error / (1 + error)


def detection(
    ordinary: dict[str, Tensor], other: dict[str, Tensor]
) -> dict[str, dict[str, float]]:
    """AUROC of each score: test set against other data."""
    found = {}
    for name in ordinary:
        value, error = auroc(ordinary[name], other[name])
        found[name] = {"auroc": value, "standard_error": error}
    return found
