"""Rows of a source decoded into one array of levels."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from scoreflow.data.reading.image_file import decode, describe
from scoreflow.data.reading.settings import AS_IT_IS, Reading
from scoreflow.data.sources.rows import Array, Row
from scoreflow.errors import RequestError


def collect(rows: Iterable[Row], total: int, where: str, reading: Reading = AS_IT_IS) -> Tensor:
    """Decode `total` rows into one array; every image must look like the first.

    Args:
        rows: where each image comes from, the image, and a label, which is not looked at.
        total: how many there are.
        where: the source, for messages.
        reading: how they are read.

    Returns:
        Levels (n, C, H, W) uint8.
    """
    if total == 0:
        raise RequestError(f"no images in {where}: it has 0 rows")
    images, first = np.empty(0, np.uint8), ""
    bar = tqdm(rows, desc="images", total=total, unit="", delay=1, leave=False, disable=None)
    for index, (name, source, _) in enumerate(bar):
        pixels = _planes(source, name) if isinstance(source, np.ndarray) else decode(source, name)
        if index == 0:
            images, first = np.empty((total, *pixels.shape), np.uint8), name
        elif pixels.shape != images.shape[1:]:
            raise RequestError(
                f"images must share one size and mode, got {describe(images.shape[1:])}"
                f" in {first} and {describe(pixels.shape)} in {name}; convert them first"
            )
        images[index] = pixels
    return torch.from_numpy(images)


def _planes(values: Array, where: str) -> Array:
    """An array (H, W) or (H, W, C) as (C, H, W) uint8."""
    if values.dtype == np.uint16:
        raise RequestError(f"{where}: images must be of 8 bits, got uint16; convert them first")
    if values.dtype == bool:
        values = values.astype(np.uint8) * np.uint8(255)
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
