"""Points in the plane as a PNG."""

import io

import numpy as np
from PIL import Image
from torch import Tensor


def scatter(points: Tensor, size: int = 480, reach: float = 1.5) -> bytes:
    """Points in the plane as a PNG: how often each pixel of [-reach, reach]^2 is hit.

    Args:
        points: (n, 2); or (n, 1), on the line y = 0.
        size: of the picture, in pixels a side.
        reach: what it shows.
    """
    xy = points.cpu().numpy()
    if xy.shape[1] == 1:
        xy = np.pad(xy, ((0, 0), (0, 1)))
    edges = np.linspace(-reach, reach, 121)
    counts, _, _ = np.histogram2d(-xy[:, 1], xy[:, 0], bins=[edges, edges])
    grey = 255 - 255 * np.sqrt(counts / max(counts.max(), 1))
    picture = Image.fromarray(grey.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return stream.getvalue()
