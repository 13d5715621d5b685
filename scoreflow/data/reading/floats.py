"""Images of floats, which are no levels: what they look like, and what to do about it."""

from typing import Any

import numpy as np


def floats_refused(values: "np.ndarray[Any, Any]") -> str:
    """Why images of floats, or of other values than integers, are no levels.

    Args:
        values: of any shape, of any dtype.

    Returns:
        A phrase that names what is there and the remedy.
    """
    if values.dtype.kind != "f" or not values.size:
        return f"images must be integers 0..255, got {values.dtype}"
    if not np.isfinite(values).all():
        return f"images must be integers 0..255, got {values.dtype} values that are not finite"
    low, high = float(values.min()), float(values.max())
    got = f"got {values.dtype} values in {low:g}..{high:g}"
    if low >= 0 and 1 < high <= 255 and (values == values.round()).all():
        return f"floats of whole values: pass them as uint8, by .astype(numpy.uint8); {got}"
    if -1 <= low < 0 and high <= 1:
        return f"images normalised to [-1, 1]: pass the uint8 images they were made of; {got}"
    if 0 <= low <= high <= 1:
        return (
            f"images must be integers 0..255, {got}; pass the uint8 images they were made of, "
            "or where they are k/255 but for rounding (255 * x).round().astype(numpy.uint8)"
        )
    return f"images must be integers 0..255, {got}; pass the uint8 images, without normalisation"
