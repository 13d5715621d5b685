"""One image file as (C, H, W) integers, or refused in one line.

What the file holds that the array would not is refused, or converted where the settings allow it:
nothing is dropped without a word.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from scoreflow.data.reading.conversion import Converted, converted, of_array
from scoreflow.data.reading.formats import decoders
from scoreflow.data.reading.header import Header, header_of
from scoreflow.data.reading.refusal import DAMAGE, Refused
from scoreflow.data.reading.settings import AS_IT_IS, Reading
from scoreflow.errors import first_line

Source = bytes | Path | np.ndarray[Any, Any] | None
"""A file's bytes or path, or an array (H, W) or (H, W, C) of bool, uint8 or uint16."""


def read(source: Source, where: str, reading: Reading = AS_IT_IS) -> Converted:
    """One image, with what was done to it.

    Args:
        source: the file, or an array.
        where: what it is called in messages.
        reading: how it is read.

    Raises:
        Refused: it cannot be read, or not without a conversion that is not allowed.
    """
    if isinstance(source, np.ndarray):
        return of_array(source, where, reading)
    return converted(*opened(source, where), where, reading)


def opened(source: bytes | Path | None, where: str) -> tuple[Image.Image, Header]:
    """A file as Pillow reads it, loaded, with what else it holds.

    Raises:
        Refused: it is no whole image.
    """
    if source is None:
        remedy = "every row needs the bytes of an image file"
        raise Refused(where, "no image", remedy, f"{where} has no image")
    try:
        content = source if isinstance(source, bytes) else source.read_bytes()
        with Image.open(io.BytesIO(content), formats=decoders()) as image:
            header = header_of(image, content)
    except UnidentifiedImageError as error:  # whose text is an address in memory
        what = "not a whole image (it begins like no format that is read)"
        raise Refused(where, what, "replace or remove it") from error
    except DAMAGE as error:
        what = f"not a whole image ({first_line(error)})"
        raise Refused(where, what, "replace or remove it") from error
    return image, header


def decode(source: Source, where: str, reading: Reading = AS_IT_IS) -> np.ndarray[Any, Any]:
    """One image file as (C, H, W): uint8 in 0..255, or uint16 as it is stored."""
    return read(source, where, reading).pixels


def describe(shape: tuple[int, ...]) -> str:
    """An image of this shape, (C, H, W), in words: height x width, as data.size."""
    channels, height, width = shape
    kind = {1: "grey", 3: "RGB"}.get(channels, f"of {channels} channels")
    return f"{height}x{width} {kind}"
