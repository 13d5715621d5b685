"""Colour profiles: whether one is sRGB, and pixels converted from one to sRGB."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Pillow's mode of a profile's colour space."""
SAME = 2
"""Of 255: sRGB profiles of different makers differ by rounding."""


def is_srgb(profile: bytes | None) -> bool:
    """Whether a profile leaves colours as they are in sRGB; none does, and a damaged one not."""
    return profile is None or _is_srgb(profile)


@lru_cache(maxsize=64)
def _is_srgb(profile: bytes) -> bool:
    steps = np.arange(0, 256, 51, dtype=np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(6, 36, 3)
    probe = Image.fromarray(colours)
    found = to_srgb(probe, profile) or to_srgb(probe.convert("L"), profile)
    if found is None:
        return False
    wanted = np.asarray(probe.convert(found.mode)).astype(int)
    return int(np.abs(np.asarray(found).astype(int) - wanted).max()) <= SAME


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """Pixels in sRGB.

    Args:
        image: of mode L, RGB or CMYK.
        profile: that its colours are given in.

    Returns:
        Of mode L or RGB; None where the profile is damaged or is of other images.
    """
    try:
        space, transform = _transform(profile)
        if image.mode != space and (image.mode, space) != ("L", "RGB"):
            return None
        found = ImageCms.applyTransform(image.convert(space), transform)
    except (ImageCms.PyCMSError, OSError, ValueError, ImportError):  # the last: no littlecms
        return None
    assert found is not None, "not in place"
    return found.convert("L") if image.mode == "L" else found


@lru_cache(maxsize=64)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform]:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = SPACES.get(source.profile.xcolor_space.strip(), "")
    wanted = ImageCms.createProfile("sRGB")
    return space, ImageCms.buildTransform(source, wanted, space, "RGB")
