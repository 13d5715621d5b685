"""Rows of a source decoded into one array of levels."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from scoreflow.data.dataset import Data
from scoreflow.data.reading.conversion import Pixels
from scoreflow.data.reading.image_file import describe, read
from scoreflow.data.reading.refusal import MOST_REFUSED, Refused, together
from scoreflow.data.reading.settings import Reading
from scoreflow.data.reading.tally import Tally
from scoreflow.data.sources.rows import Row
from scoreflow.data.stored.images import Images, allocate, filled, mapped
from scoreflow.errors import RequestError

GREY_AND_RGB = {1, 3}
"""Numbers of channels of which the first can become the second."""


def collect(rows: Iterable[Row], total: int, where: str, tally: Tally) -> Images:
    """Decode `total` rows into one array; every image must look like the first.

    Args:
        rows: where each image comes from, the image, and a label, which is not looked at.
        total: how many they are.
        where: the source, for messages.
        tally: says how their files are read, and counts what is found in them.

    Returns:
        Values of pixels (n, C, H, W), uint8 or, for more than 256 levels, int32.

    Raises:
        RequestError: images cannot be read so; up to a number of them are named.
    """
    if total == 0:
        raise RequestError(f"no images in {where}: it has 0 rows")
    reading, seen = tally.reading, 0
    images: Any = None
    first = ""
    refused: list[Refused] = []
    bar = tqdm(rows, desc="images", total=total, unit="", delay=1, leave=False, disable=None)
    for index, (name, source, _) in enumerate(bar):
        try:
            pixels = tally.add(name, read(source, name, reading))
            if not first:
                kind = np.uint8 if reading.levels <= 256 else np.int32
                images, first = allocate((total, *pixels.shape), kind), name
            elif reading.mode == "auto":
                images, pixels = _in_colour_if_one_is(images, pixels)
            _refuse_another_shape(pixels.shape, images.shape[1:], name, first, reading)
            images[index] = pixels
        except Refused as error:
            refused.append(error)
        seen += 1
        if len(refused) == MOST_REFUSED:
            break
    if refused:
        wanted = () if images is None else images.shape[2:]
        raise together(refused, seen, total, _one_size(refused, wanted, reading))
    return filled(images)


def in_one_mode(splits: list[Images], reading: Reading) -> list[Images]:
    """Splits of which one may have colour and another not: all in RGB then, if that is allowed."""
    if reading.mode != "auto" or {values.shape[1] for values in splits} != GREY_AND_RGB:
        return splits
    return [mapped(values, _of_channels(3 // values.shape[1])) for values in splits]


def _of_channels(count: int) -> Callable[[Tensor], Tensor]:
    """Each channel as so many equal ones."""
    return lambda values: values.repeat_interleave(count, 1)


def in_levels(data: Data, tally: Tally) -> Data:
    """Data whose values of pixels are made levels, with what is to be known of how it was read."""
    if not tally.total:
        return data
    scale = tally.scale()
    train = mapped(data.train, scale.levels)
    test = train if data.test is data.train else mapped(data.test, scale.levels)
    remarks = (*data.remarks, *tally.remarks())
    return replace(data, train=train, test=test, num_levels=scale.num_levels, remarks=remarks)


def _in_colour_if_one_is(images: Any, pixels: Pixels) -> tuple[Any, Pixels]:  # noqa: ANN401
    """All images so far and the next in RGB, if one of them is; those so far at most once."""
    if {images.shape[1], len(pixels)} != GREY_AND_RGB:
        return images, pixels
    if images.shape[1] == 1:
        return images.repeat(3, axis=1), pixels
    return images, pixels.repeat(3, axis=0)


def _refuse_another_shape(
    shape: tuple[int, ...], wanted: tuple[int, ...], name: str, first: str, reading: Reading
) -> None:
    if shape == wanted:
        return
    flags = []
    if shape[1:] != wanted[1:]:
        flags += [reading.flag("size", _side(wanted)), reading.flag("fit", "crop")]
    if shape[0] != wanted[0]:
        flags.append(reading.flag("mode", "auto"))
    raise Refused(
        name,
        f"{describe(shape)}, unlike the {describe(wanted)} of {first}",
        f"add {' '.join(flags)}",
        f"images must share one size and mode, got {describe(wanted)} in {first} and "
        f"{describe(shape)} in {name}",
        flags=tuple(flags),
    )


def _one_size(
    refused: list[Refused], wanted: tuple[int, ...], reading: Reading
) -> tuple[str, ...]:
    """Flags that make one size of images of several, also of those refused for another reason."""
    sizes = [each.size for each in refused if each.size is not None]
    if wanted:
        sizes.insert(0, (wanted[0], wanted[1]))
    if reading.fit != "refuse" or not sizes:
        return ()
    if reading.size is not None:
        return (reading.flag("fit", "crop"),) if set(sizes) != {reading.size} else ()
    if len(set(sizes)) == 1:
        return ()
    return reading.flag("size", _side((0, *sizes[0]))), reading.flag("fit", "crop")


def _side(shape: tuple[int, ...]) -> str:
    height, width = shape[1:]
    return f"{height}" if height == width else f"{height}x{width}"
