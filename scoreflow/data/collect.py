"""Rows of a source decoded into one array of levels."""

from collections.abc import Iterable

import numpy as np
from torch import Tensor
from tqdm import tqdm

from scoreflow.data.reading.image_file import decode, describe
from scoreflow.data.sources.labels import numbered
from scoreflow.data.sources.rows import Row
from scoreflow.data.store import Images, allocate, filled
from scoreflow.errors import RequestError

Split = tuple[Images, Tensor | None]
"""Levels (n, C, H, W) uint8 and labels (n,) int64."""


def collect(rows: Iterable[Row], total: int, where: str) -> Split:
    """Decode `total` rows into one array; every image must look like the first."""
    if total == 0:
        raise RequestError(f"no images in {where}: it has 0 rows")
    images, labels, first = np.empty(0, np.uint8), [], ""
    bar = tqdm(rows, desc="images", total=total, unit="", delay=1, leave=False, disable=None)
    for index, (name, source, label) in enumerate(bar):
        pixels = decode(source, name)
        if index == 0:
            images, first = allocate((total, *pixels.shape), np.uint8), name
        elif pixels.shape != images.shape[1:]:
            raise RequestError(
                f"images must share one size and mode, got {describe(images.shape[1:])}"
                f" in {first} and {describe(pixels.shape)} in {name}; convert them first"
            )
        images[index] = pixels
        labels.append(label)
    return filled(images), numbered(labels, where)
