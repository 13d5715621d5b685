import io

import numpy as np
import pytest
import torch
from PIL import Image

from scoreflow.errors import RequestError
from scoreflow.figures.image_grid import SEPARATOR, image_grid


def pixels(png):
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("count", "columns", "scale"), [(5, 3, 1), (6, 3, 4), (2, 9, 5)])
def test_every_pixel_is_where_it_belongs(channels, count, columns, scale):
    images = torch.randint(0, 256, (count, channels, 4, 3), dtype=torch.uint8)
    canvas = pixels(image_grid(images, columns, scale))
    if channels == 1:
        canvas = canvas[..., None]
    columns, gap = min(columns, count), max(1, scale // 2)
    rows = -(-count // columns)
    assert canvas.shape == (
        gap + rows * (4 * scale + gap),
        gap + columns * (3 * scale + gap),
        channels,
    )
    drawn = np.zeros(canvas.shape[:2], bool)
    for k in range(count):
        for i in range(4):
            for j in range(3):
                top = gap + k // columns * (4 * scale + gap) + i * scale
                left = gap + k % columns * (3 * scale + gap) + j * scale
                square = canvas[top : top + scale, left : left + scale]
                assert (square == images[k, :, i, j].numpy()).all()
                drawn[top : top + scale, left : left + scale] = True
    assert (canvas[~drawn] == SEPARATOR).all()


@pytest.mark.parametrize("channels", [2, 4])
def test_channels_that_are_no_colours_are_drawn_side_by_side(channels):
    images = torch.randint(0, 256, (3, channels, 4, 5), dtype=torch.uint8)
    row = torch.cat(images.unbind(1), dim=2)[:, None]
    assert image_grid(images, 2, 3) == image_grid(row, 2, 3)


def test_the_same_images_give_the_same_bytes():
    images = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    assert image_grid(images, 2, 3) == image_grid(images.clone(), 2, 3)


@pytest.mark.parametrize(
    ("images", "columns", "scale"),
    [
        (torch.zeros(2, 0, 3, 3, dtype=torch.uint8), 2, 1),
        (torch.zeros(2, 1, 3, 3), 2, 1),
        (torch.zeros(3, 3, dtype=torch.uint8), 2, 1),
        (torch.zeros(0, 1, 3, 3, dtype=torch.uint8), 2, 1),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), 0, 1),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), 2, 0),
    ],
)
def test_what_is_no_grid_is_refused_in_one_line(images, columns, scale):
    with pytest.raises(RequestError, match=r"a grid .* got") as refusal:
        image_grid(images, columns, scale)
    assert "\n" not in str(refusal.value)
