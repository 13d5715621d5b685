"""A user's own image and mask: in the format of the run's data, or refused with the flags."""

import numpy as np
import pytest
import torch
from PIL import Image

from scoreflow.data.dataset import Data
from scoreflow.data.reading.settings import Reading
from scoreflow.data.reading.user_images import read_images, read_mask
from scoreflow.errors import RequestError

HOLE = np.zeros((8, 8), bool)
HOLE[2:6, 3:7] = True
WHITE = HOLE.astype(np.uint8) * 255
PHOTO = np.random.default_rng(3).integers(1, 255, (8, 8, 3), dtype=np.uint8)
OPAQUE = np.full_like(WHITE, 255)
CONTROL = Reading(section="control")


def data_of(shape, num_levels):
    levels = torch.zeros(3, *shape, dtype=torch.uint8)
    return Data("it", levels, levels, num_levels, None, None)


def saved(path, pixels, mode=None):
    Image.fromarray(pixels, mode).save(path)
    return str(path)


# ---- masks --------------------------------------------------------------------------------------

MASKS = {
    "grey": Image.fromarray(WHITE),
    "one-bit": Image.fromarray(HOLE),
    "palette": Image.fromarray(WHITE).convert("P"),
    "rgb": Image.fromarray(np.dstack([WHITE] * 3)),
    "red": Image.fromarray(np.dstack([WHITE, 0 * WHITE, 0 * WHITE])),
    "rgba": Image.fromarray(np.dstack([WHITE, WHITE, WHITE, OPAQUE])),
    "la": Image.fromarray(np.dstack([WHITE, OPAQUE]), "LA"),
    "zero-one": Image.fromarray(HOLE.astype(np.uint8)),
    "16-bit zero-one": Image.fromarray(HOLE.astype(np.uint16)),
    "16-bit": Image.fromarray(WHITE.astype(np.uint16) * 257),
    "clear hole in black": Image.fromarray(np.dstack([0 * PHOTO, ~WHITE])),
    "clear hole in a photo": Image.fromarray(np.dstack([PHOTO, ~WHITE])),
    "white on black, half clear": Image.fromarray(
        np.dstack([WHITE, WHITE, WHITE, np.where(np.arange(8) < 5, 255, 255 - WHITE)])
    ),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_of_any_mode_is_white_or_clear_where_the_hole_is(name, tmp_path):
    MASKS[name].save(tmp_path / "mask.png")
    known, _ = read_mask(str(tmp_path / "mask.png"), (3, 8, 8))
    assert known.shape == (3, 8, 8)
    assert (known.numpy() == ~HOLE).all()


def test_a_mask_of_greys_beside_transparency_is_said(tmp_path):
    values = WHITE.copy()
    values[0, 0] = 100  # one grey pixel, and the white ones of the hole are kept
    clear = np.zeros((8, 8), bool)
    clear[7] = True
    pixels = np.dstack([values, values, values, np.where(clear, 0, 255).astype(np.uint8)])
    path = saved(tmp_path / "m.png", pixels)
    known, (said,) = read_mask(path, (1, 8, 8))
    assert (known[0].numpy() == ~clear).all()
    assert said.startswith(f"mask {path}: its 8 transparent pixels alone are made up")
    assert f"the {HOLE.sum()} light ones among these are kept" in said
    pixels[0, 0, :3] = 0
    known, said = read_mask(saved(tmp_path / "m.png", pixels), (1, 8, 8))
    assert (known[0].numpy() == ~(clear | HOLE)).all()
    assert said == ()


def test_a_mask_that_leaves_nothing_is_refused(tmp_path):
    strokes = np.dstack([OPAQUE, OPAQUE, OPAQUE, WHITE])  # white on nothing: both mean the hole
    with pytest.raises(RequestError, match="all white or transparent: nothing would be given"):
        read_mask(saved(tmp_path / "m.png", strokes), (1, 8, 8))
    with pytest.raises(RequestError, match="all black: nothing would be made up"):
        read_mask(saved(tmp_path / "m.png", 0 * WHITE), (1, 8, 8))


def test_a_mask_of_another_size_needs_a_fit_and_stays_sharp(tmp_path):
    path = saved(tmp_path / "mask.png", WHITE.repeat(3, 0).repeat(3, 1))
    with pytest.raises(
        RequestError, match=r"24x24 pixels, where 8x8 are wanted; add .*control\.fit"
    ):
        read_mask(path, (1, 8, 8))
    known, _ = read_mask(path, (1, 8, 8), Reading(section="control", fit="resize"))
    assert (known[0].numpy() == ~HOLE).all()
    wide = saved(tmp_path / "wide.png", np.pad(WHITE, ((0, 0), (4, 4))))
    known, _ = read_mask(wide, (1, 8, 8), Reading(section="control", fit="crop"))
    assert (known[0].numpy() == ~HOLE).all()


# ---- images -------------------------------------------------------------------------------------


def test_the_brightness_of_a_file_is_levels_of_the_run(tmp_path):
    data = data_of((1, 8, 8), 17)
    found = read_images(saved(tmp_path / "it.png", WHITE), data)
    assert (found.levels[0, 0].numpy() == HOLE * 16).all()
    assert found.remarks == ()
    levels = np.arange(64, dtype=np.uint8).reshape(8, 8) % 17
    path = saved(tmp_path / "levels.png", levels)
    found = read_images(path, data)
    assert (found.levels[0, 0].numpy() == levels).all()
    assert found.remarks == (
        f"{path}: 17 levels: all values are below 17 and taken as levels themselves",
    )
    path = saved(tmp_path / "between.png", PHOTO[..., 0])
    with pytest.raises(
        RequestError, match=r"none of the 17 levels.*; add --config\.control\.mode"
    ):
        read_images(path, data)
    found = read_images(path, data, reading=Reading(section="control", mode="grey"))
    assert (found.levels[0, 0].numpy() == np.rint(PHOTO[..., 0] * 16.0 / 255)).all()
    assert "went to the nearest" in found.remarks[0]


def test_a_photo_becomes_an_image_of_the_run_if_that_is_allowed(tmp_path):
    photo = PHOTO.repeat(2, 0)
    path = saved(tmp_path / "photo.png", photo)
    data = data_of((1, 8, 8), 256)
    with pytest.raises(RequestError) as refused:
        read_images(path, data)
    assert str(refused.value) == (
        f"{path} is 16x8 RGB, but must be 8x8 grey like the data of this run: add "
        "--config.control.mode=grey --config.control.fit=crop"
    )
    found = read_images(path, data, reading=Reading(section="control", mode="rgb", fit="crop"))
    luma = photo[4:12] @ np.array([0.299, 0.587, 0.114])
    assert np.abs(found.levels[0, 0].numpy() - luma).max() <= 0.51
    assert found.remarks == (
        f"{path}: 1 of 1 files converted: 1 colour to grey; all resized to 8x8 by crop",
    )
    colour = data_of((3, 8, 8), 256)
    grey = saved(tmp_path / "grey.png", WHITE)
    found = read_images(grey, colour, reading=Reading(section="control", mode="auto"))
    assert (found.levels[0].numpy() == WHITE).all()


def test_a_file_may_have_another_shape_that_is_named(tmp_path):
    data = data_of((3, 8, 8), 256)
    path = saved(tmp_path / "grey.png", WHITE)
    for reading in (CONTROL, Reading(section="control", mode="auto", fit="crop")):
        found = read_images(path, data, also=((1, 8, 8),), reading=reading)
        assert found.levels.shape == (1, 1, 8, 8)
    with pytest.raises(RequestError, match="8x8 grey, but must be 8x8 RGB or 4x4 RGB"):
        read_images(path, data, also=((3, 4, 4),))
    with pytest.raises(RequestError, match=r"must be 8x8 of 2 channels .* give a test image"):
        read_images(path, data_of((2, 8, 8), 256))
