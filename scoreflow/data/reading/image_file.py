"""One image file as (C, H, W) integers, or refused in one line.

What the file holds that the array would not is refused, or converted where the settings allow it:
nothing is dropped without a word.
"""

import io
import os
import stat
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

MOST_BYTES = 1 << 30
"""Of one file of an image."""
MOST_PIXELS = 1 << 24
"""Of an image that is not made smaller: 4096 x 4096."""
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
    return converted(*opened(source, where, reading), where, reading)


def opened(
    source: bytes | Path | None, where: str, reading: Reading = AS_IT_IS
) -> tuple[Image.Image, Header]:
    """A file as Pillow reads it, loaded, with what else it holds.

    Raises:
        Refused: it is no whole image, or so large that decoding it would be in vain.
    """
    if source is None:
        remedy = "every row needs the bytes of an image file"
        raise Refused(where, "no image", remedy, f"{where} has no image")
    try:
        content = source if isinstance(source, bytes) else _content(source)
        with Image.open(io.BytesIO(content), formats=decoders()) as image:
            _refuse_pixels(image, where, reading)
            header = header_of(image, content)
    except Refused:
        raise
    except UnidentifiedImageError as error:  # whose text is an address in memory
        what = "not a whole image (it begins like no format that is read)"
        raise Refused(where, what, "replace or remove it") from error
    except DAMAGE as error:
        what = f"not a whole image ({first_line(error)})"
        raise Refused(where, what, "replace or remove it") from error
    return image, header


def _content(path: Path) -> bytes:
    """A file's bytes; a pipe or a device, which may never end, is not read."""
    with open(path, "rb", opener=_without_waiting) as file:  # has no opener
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise OSError("it is no regular file")
        if about.st_size > MOST_BYTES:
            raise OSError(f"it has {about.st_size} bytes, more than {MOST_BYTES}")
        return file.read()


def _without_waiting(path: str, flags: int) -> int:
    """Opens a pipe without waiting for its other end."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _refuse_pixels(image: Image.Image, where: str, reading: Reading) -> None:
    """Refuse a picture that no network is trained on, unless it is made smaller."""
    if reading.fit != "refuse" or image.width * image.height <= MOST_PIXELS:
        return
    flags = (reading.flag("size", "64"), reading.flag("fit", "resize"))
    what = f"{image.height}x{image.width} pixels, more than {MOST_PIXELS} as they are"
    raise Refused(where, what, f"add {' '.join(flags)}, say", flags=flags)


def decode(source: Source, where: str, reading: Reading = AS_IT_IS) -> np.ndarray[Any, Any]:
    """One image file as (C, H, W): uint8 in 0..255, or uint16 as it is stored."""
    return read(source, where, reading).pixels


def describe(shape: tuple[int, ...]) -> str:
    """An image of this shape, (C, H, W), in words: height x width, as data.size."""
    channels, height, width = shape
    kind = {1: "grey", 3: "RGB"}.get(channels, f"of {channels} channels")
    return f"{height}x{width} {kind}"
