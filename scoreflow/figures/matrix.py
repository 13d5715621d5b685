"""A table of counts as a PNG: dark where a row has much, the count in each cell."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

WIDEST = 320
"""Pixels, those of a narrow phone."""
MARGIN = 30
"""Pixels for the names on the left and on top."""
LEGIBLE = 16
"""Pixels a cell, below which nothing is written."""
LETTERS = 4
"""Of a name that there is room for."""


def matrix_picture(
    counts: Sequence[Sequence[int]], names: Sequence[str], rows: str = "", columns: str = ""
) -> bytes:
    """A square table of counts, (K, K), as a PNG.

    Args:
        counts: 0 or more each.
        names: of the K rows, and of the columns.
        rows: what the rows are, written in the corner.
        columns: what the columns are, likewise.
    """
    size = max(3, min(28, (WIDEST - MARGIN) // max(1, len(counts))))
    side = MARGIN + size * len(counts) + 1
    picture = Image.new("L", (side, side), 255)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(10)
    draw.text((2, MARGIN - 12), rows, 90, font)
    draw.text((MARGIN, 2), columns, 90, font)
    for i, row in enumerate(counts):
        total = max(1, sum(row))
        for j, count in enumerate(row):
            corner = (MARGIN + j * size, MARGIN + i * size)
            # the root, so that a single image among many is seen
            share = (count / total) ** 0.5
            shade = 255 - round(200 * share)
            draw.rectangle((*corner, corner[0] + size, corner[1] + size), shade, 210)
            if count and size >= LEGIBLE:
                middle = (corner[0] + size / 2, corner[1] + size / 2)
                draw.text(middle, str(count), 255 if shade < 128 else 0, font, anchor="mm")
    if size >= LEGIBLE:
        for k, name in enumerate(names):
            at = MARGIN + k * size + size / 2
            draw.text((MARGIN - 4, at), name[:LETTERS], 0, font, anchor="rm")
            draw.text((at, MARGIN - 8), name[:LETTERS], 0, font, anchor="mm")
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return stream.getvalue()
