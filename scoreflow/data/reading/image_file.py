"""One image file as (C, H, W) integers, or refused in one line."""

import io
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from scoreflow.errors import RequestError, first_line

DAMAGE = (OSError, SyntaxError, ValueError, EOFError, zlib.error, Image.DecompressionBombError)
"""What Pillow raises on bytes that are no whole image."""


def decode(source: bytes | Path | None, where: str) -> np.ndarray:
    """One image file as (C, H, W) uint8: grey stays one channel, RGB three."""
    if source is None:
        raise RequestError(f"{where} has no image: every row needs the bytes of an image file")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            mode, pixels = image.mode, np.asarray(image)
    except DAMAGE as error:
        raise RequestError(damaged(where, "image", error)) from error
    if mode not in ("L", "RGB"):
        raise RequestError(
            f"{where}: images must be 8-bit grey (L) or RGB, got mode {mode}; convert it first"
        )
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


def describe(shape: tuple[int, ...]) -> str:
    """An image of this shape, (C, H, W), in words."""
    channels, height, width = shape
    return f"{width}x{height} {'grey' if channels == 1 else 'RGB'}"


def damaged(where: str, kind: str, error: Exception) -> str:
    """One line for a file that cannot be read."""
    return f"{where}: not a whole {kind} ({first_line(error)}); replace or remove it"
