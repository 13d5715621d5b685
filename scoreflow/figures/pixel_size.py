"""PNGs at their least size: for pictures that a page shows enlarged by whole numbers."""

import io
import math

import numpy as np
from PIL import Image


def reduced(png: bytes) -> tuple[bytes, int, int]:
    """A PNG without its enlargement: every square of equal pixels as one pixel.

    A grid of images has squares for pixels (`image_grid`); what they have in common with the
    lines between the images is one pixel of the result. A picture that is not made of squares
    comes back as it is, and so does a GIF, or a PNG of several frames.

    Returns:
        The picture, its width and its height in pixels.

    Raises:
        ValueError: neither a PNG nor a GIF.
    """
    try:
        with Image.open(io.BytesIO(png), formats=("PNG", "GIF")) as image:
            pixels = np.asarray(image)
            frames = getattr(image, "n_frames", 1)
            reducible = image.format == "PNG" and frames == 1 and image.mode in ("L", "RGB")
    except (OSError, SyntaxError) as error:
        raise ValueError(f"not a picture: {error}") from error
    height, width = pixels.shape[:2]
    side = math.gcd(_side(pixels), _side(pixels.swapaxes(0, 1))) if reducible else 1
    if side == 1:
        return png, width, height
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[::side, ::side])).save(stream, format="PNG")
    return stream.getvalue(), width // side, height // side


def _side(pixels: np.ndarray) -> int:
    """The greatest common divisor of the places at which a row differs from the one above."""
    differs = (pixels[1:] != pixels[:-1]).any(axis=tuple(range(1, pixels.ndim)))
    return math.gcd(len(pixels), *(np.flatnonzero(differs) + 1).tolist())
