"""Samples as a PNG: a grid of images, or points in the plane."""

from torch import Tensor

from scoreflow.data.dataset import Data
from scoreflow.data.levels import to_uint8
from scoreflow.figures.image_grid import image_grid
from scoreflow.figures.scatter import scatter

POINTS, POINTS_SHOWN = 10_000, 0.999
"""Held-out points that say how large a picture is, and the share of their coordinates in it."""
REACH, LEAST_REACH = 1.1, 1.5
"""The side of a picture over what is to be in it, and the least; both from 0."""
GRID_IMAGES, GRID_COLUMNS, GRID_PIXELS = 64, 8, 48


def picture(values: Tensor, data: Data, columns: int = GRID_COLUMNS) -> bytes:
    """A PNG of values as the data are: a grid of the first images, or all points in the plane.

    Args:
        values: levels (n, C, H, W), or vectors (n, D).
        data: the data set that they are like.
        columns: images a row.
    """
    if data.num_levels is None:
        return scatter(values[:, :2], reach=reach_of(data))
    shown = to_uint8(values[:GRID_IMAGES], data.num_levels)
    return image_grid(shown, columns, max(1, GRID_PIXELS // shown.shape[-1]))


def reach_of(data: Data) -> float:
    """How far from 0 a picture of points like these goes, in their unit."""
    shown = data.test[:POINTS][:, :2].abs().double()
    most = float(shown.quantile(POINTS_SHOWN)) if len(shown) else 0.0
    return max(LEAST_REACH, REACH * most)
