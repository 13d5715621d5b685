"""Pictures of many small images."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scoreflow.errors import RequestError

SEPARATOR = 72
"""Grey level between the images: apart from a black digit's ground and from a white one's."""


def image_grid(images: Tensor, columns: int, scale: int) -> bytes:
    """Rows of images, every pixel drawn as a square, thin lines between them.

    Of another number of channels than 1 or 3 each channel is drawn in grey, from left to right:
    nothing says which of them would be colours.

    Args:
        images: (n, C, H, W) uint8 in 0..255, grey (C = 1), RGB (C = 3) or other; n >= 1.
        columns: images a row; the last row may be short.
        scale: the side of a pixel's square.

    Returns:
        The bytes of a PNG file.
    """
    if images.ndim != 4 or images.shape[1] < 1 or images.dtype != torch.uint8:
        raise RequestError(
            "a grid takes (n, C, H, W) uint8 images, got"
            f" {tuple(images.shape)} {images.dtype}; spread levels with to_uint8 first"
        )
    if len(images) < 1 or columns < 1 or scale < 1:
        raise RequestError(
            "a grid needs an image, a column and a scale of at least 1, got"
            f" {len(images)} images, {columns} columns and scale {scale}"
        )
    if images.shape[1] not in (1, 3):
        images = torch.cat(images.split(1, dim=1), dim=3)
    columns, gap = min(columns, len(images)), max(1, scale // 2)
    tiles = np.kron(images.cpu().numpy(), np.ones((1, 1, scale, scale), np.uint8))
    _, channels, height, width = tiles.shape
    rows = -(-len(tiles) // columns)
    size = (rows * (height + gap) + gap, columns * (width + gap) + gap)
    canvas = np.full((*size, channels), SEPARATOR, np.uint8)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        canvas[top : top + height, left : left + width] = tile.transpose(1, 2, 0)
    stream = io.BytesIO()
    Image.fromarray(canvas.squeeze(2) if channels == 1 else canvas).save(stream, format="PNG")
    return stream.getvalue()
