"""A picture loses its enlargement, and nothing else."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from scoreflow.figures.image_grid import image_grid
from scoreflow.figures.pixel_size import reduced
from scoreflow.figures.scatter import scatter


def pixels(png):
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("scale", "side"), [(6, 3), (4, 2), (8, 4), (1, 1), (5, 1)])
def test_enlarged_again_it_is_the_picture(channels, scale, side):
    images = torch.randint(0, 256, (6, channels, 5, 7), dtype=torch.uint8)
    png = image_grid(images, 3, scale)
    small, width, height = reduced(png)
    assert pixels(small).shape[:2] == (height, width)
    again = pixels(small).repeat(side, axis=0).repeat(side, axis=1)
    assert (again == pixels(png)).all()


def test_points_in_the_plane():
    png = scatter(torch.randn(500, 2) / 2)
    small, width, height = reduced(png)
    assert (width, height) == (120, 120)
    assert (pixels(small).repeat(4, axis=0).repeat(4, axis=1) == pixels(png)).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (6, 1)])
def test_one_row_or_one_colour(size):
    stream = io.BytesIO()
    Image.new("L", size, 7).save(stream, format="PNG")
    small, width, height = reduced(stream.getvalue())
    assert size[0] % width == size[1] % height == 0
    assert (pixels(small) == 7).all()


def test_an_animation_stays_as_it_is():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16).repeat(4, axis=0).repeat(4, axis=1)
    first, *others = (Image.fromarray(np.roll(levels, 4 * k, axis=1)) for k in range(4))
    stream = io.BytesIO()
    first.save(stream, format="GIF", save_all=True, append_images=others)
    gif = stream.getvalue()
    with Image.open(io.BytesIO(gif)) as image:
        assert (image.mode, image.n_frames) == ("L", 4)
    assert reduced(gif) == (gif, 64, 64)


@pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"0" * 40])
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(ValueError, match="not a picture"):
        reduced(data)
