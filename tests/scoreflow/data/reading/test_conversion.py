"""Conversions of one image, against pixels that are computed another way."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from scoreflow.data.reading.image_file import decode, read
from scoreflow.data.reading.settings import Reading

RANDOM = np.random.default_rng(1)
GREY = RANDOM.integers(0, 256, (4, 6), dtype=np.uint8)
RGB = RANDOM.integers(0, 256, (4, 6, 3), dtype=np.uint8)
ANY = Reading(mode="auto")
ORIENTATION = 0x0112


def saved(pixels, file_format="PNG", mode=None, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image = image.convert(mode) if mode else image
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def planar(pixels):
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


# ---- orientation --------------------------------------------------------------------------------

TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}
"""What a viewer shows of the stored pixels, by the EXIF tag 274."""


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("pixels", [GREY, RGB], ids=["grey", "rgb"])
def test_an_orientation_is_applied(orientation, file_format, pixels):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    how = {"PNG": {"exif": exif}, "TIFF": {"tiffinfo": {ORIENTATION: orientation}}}
    options = how.get(file_format, {"exif": exif, "lossless": True})
    found = read(saved(pixels, file_format, **options), "it", ANY)
    shown = found.pixels[:1] if pixels is GREY else found.pixels  # WebP has no grey
    assert (shown == planar(TURNED[orientation](pixels))).all()
    assert found.done == (("orientation",) if orientation > 1 else ())


def test_deep_and_transparent_pixels_are_turned_too():
    deep, alpha = GREY.astype(np.uint16) * 257, np.where(GREY > 99, 255, 0).astype(np.uint8)
    stored = saved(deep, "TIFF", tiffinfo={ORIENTATION: 6})
    found = decode(stored, "it", Reading(mode="grey", levels=65536))
    assert (found[0] == TURNED[6](deep)).all()
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    content = saved(np.dstack([GREY, alpha]), mode="LA", exif=exif)
    found = decode(content, "it", Reading(mode="auto", background="#000000"))
    assert (found[0] == TURNED[6](np.where(alpha, GREY, 0))).all()


# ---- colours ------------------------------------------------------------------------------------


def test_a_palette_is_looked_up():
    index = RANDOM.integers(0, 4, (5, 7), dtype=np.uint8)
    colours = RANDOM.integers(0, 256, (4, 3), dtype=np.uint8)
    image = Image.fromarray(index, "P")
    image.putpalette(colours.tobytes())
    for file_format in ("PNG", "GIF", "BMP", "TIFF"):
        assert (decode(saved(image, file_format), "it", ANY) == planar(colours[index])).all()
    image.putpalette(colours[:, :1].repeat(3, 1).tobytes())  # of greys alone
    assert (decode(saved(image), "it", ANY) == colours[index][None, ..., 0]).all()
    assert decode(saved(image), "it", Reading(mode="rgb")).shape == (3, 5, 7)


def test_cmyk_is_what_ink_leaves():
    inks = np.array(
        [[[0, 0, 0, 0], [255, 0, 0, 0], [0, 255, 0, 0], [0, 0, 255, 0], [9, 9, 9, 255]]]
    )
    shown = [(255, 255, 255), (0, 255, 255), (255, 0, 255), (255, 255, 0), (0, 0, 0)]
    image = Image.fromarray(inks.astype(np.uint8), "CMYK")
    found = read(saved(image, "TIFF"), "it", ANY)
    assert [tuple(pixel) for pixel in found.pixels[:, 0].T.tolist()] == shown
    assert found.done == ("CMYK",)


def test_transparent_pixels_lie_over_the_background():
    alpha = np.array([[0, 64, 128, 192, 255, 0]] * 4, np.uint8)
    ground = np.array([255, 128, 0])
    reading = Reading(background="#ff8000")
    found = decode(saved(np.dstack([RGB, alpha])), "it", reading)
    weight = alpha[..., None] / 255
    assert np.abs(found - planar(weight * RGB + (1 - weight) * ground)).max() <= 0.5 + 1e-9
    grey = np.dstack([GREY, alpha])
    found = decode(saved(grey), "it", Reading(background="#333333"))
    assert found.shape == (1, 4, 6)
    exact = weight[..., 0] * GREY + (1 - weight[..., 0]) * 0x33
    assert np.abs(found[0] - exact).max() <= 0.5 + 1e-9
    assert decode(saved(grey), "it", reading).shape == (3, 4, 6)  # over a colour
    content = saved(np.where(GREY[..., None] > 99, RGB, np.uint8(7)), transparency=(7, 7, 7))
    found = decode(content, "it", reading)
    assert (found == planar(np.where(GREY[..., None] > 99, RGB, ground))).all()


def test_a_transparent_level_of_few_greys():
    content = saved(Image.fromarray(GREY > 99), transparency=0)
    found = decode(content, "it", Reading(background="#808080"))
    assert (found[0] == np.where(GREY > 99, 255, 128)).all()


def test_grey_is_the_luma_and_colour_is_three_times_grey():
    luma = RGB @ np.array([0.299, 0.587, 0.114])
    found = read(saved(RGB), "it", Reading(mode="grey"))
    assert np.abs(found.pixels[0] - luma).max() <= 0.5 + 1e-3
    assert found.done == ("colour to grey",)
    found = read(saved(GREY), "it", Reading(mode="rgb"))
    assert (found.pixels == GREY).all()
    assert found.pixels.shape == (3, 4, 6)
    assert found.done == ("grey to RGB",)
    deep = RGB.astype(np.uint16) * 16
    found = read(deep, "it", Reading(mode="grey", levels=4096))
    assert np.abs(found.pixels[0] - 16 * luma).max() <= 0.5 + 1e-3


def test_sixteen_bits_become_eight_to_the_nearest():
    deep = RANDOM.integers(0, 65536, (40, 60), dtype=np.uint16)
    for source in (saved(deep), deep):
        found = decode(source, "it", Reading(mode="grey"))
        assert (found[0] == np.rint(deep / 257)).all()
    twelve = b"P5 3 1 4095\n" + np.array([0, 2048, 4095], ">u2").tobytes()
    assert decode(twelve, "it", ANY).tolist() == [[[0, round(2048 * 255 / 4095), 255]]]


# ---- size ---------------------------------------------------------------------------------------


def lanczos(length, wanted):
    """(wanted, length) weights of Lanczos' filter of three lobes, as wide as a new pixel."""
    scale = max(length / wanted, 1)
    place = (np.arange(wanted)[:, None] + 0.5) * length / wanted
    x = (np.arange(length) + 0.5 - place) / scale
    weights = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("size", [(8, 6), (9, 24), (24, 7), (50, 40)])
def test_resizing_is_lanczos_antialiased(size):
    pixels = RANDOM.integers(60, 190, (24, 24, 3), dtype=np.uint8)  # nothing overshoots 0..255
    found = read(saved(pixels), "it", Reading(size=size, fit="resize"))
    rows, columns = (lanczos(24, wanted) for wanted in size)
    exact = np.einsum("hi,ijc,wj->chw", rows, pixels.astype(float), columns)
    # Pillow rounds after the columns and after the rows
    assert np.abs(found.pixels - exact).max() <= 0.5 + 0.5 * np.abs(rows).sum(1).max() + 0.01
    assert (found.resized, found.enlarged) == (True, max(size) > 24)


def test_deep_pixels_are_resized_without_losing_bits():
    deep = RANDOM.integers(1000, 4000, (24, 24), dtype=np.uint16)
    found = decode(saved(deep), "it", Reading(size=(8, 6), fit="resize", levels=4096))
    exact = lanczos(24, 8) @ deep @ lanczos(24, 6).T
    assert found.dtype == np.uint16
    assert np.abs(found[0] - exact.clip(deep.min(), deep.max())).max() <= 0.51


def test_a_crop_is_the_middle_of_what_covers():
    wide = np.full((8, 20), 110, np.uint8)
    wide[:, 6:14] = RANDOM.integers(60, 190, (8, 8))
    found = read(saved(wide), "it", Reading(size=(8, 8), fit="crop"))
    assert (found.pixels[0] == wide[:, 6:14]).all()
    assert (found.resized, found.enlarged) == (True, False)
    for pixels, size in ((wide, (4, 4)), (wide.T.copy(), (4, 4)), (wide, (16, 16))):
        height, width = (side * size[0] // 8 for side in pixels.shape)  # all of it, scaled
        whole = lanczos(len(pixels), height) @ pixels @ lanczos(pixels.shape[1], width).T
        top, left = (height - size[0]) // 2, (width - size[1]) // 2
        middle = whole[top : top + size[0], left : left + size[1]].clip(0, 255)
        found = decode(saved(pixels), "it", Reading(size=size, fit="crop"))[0]
        assert np.abs(found - middle).max() <= 1.5
    odd = decode(saved(wide), "it", Reading(size=(8, 16), fit="crop"))
    assert (odd[0] == wide[:, 2:18]).all()  # height x width


@pytest.mark.parametrize(("background", "ground"), [("", (0, 0, 0)), ("#ff8000", (255, 128, 0))])
def test_a_pad_is_all_of_it_on_the_background(background, ground):
    found = read(saved(RGB), "it", Reading(size=(6, 6), fit="pad", background=background))
    assert (found.pixels[:, 1:5] == planar(RGB)).all()
    assert (found.pixels[:, [0, 5]] == np.array(ground)[:, None, None]).all()
    assert (found.resized, found.enlarged) == (True, False)
    grey = decode(saved(GREY), "it", Reading(size=(6, 6), fit="pad", background=background))
    assert (grey[0, 0] == round(np.dot(ground, (0.299, 0.587, 0.114)))).all()


def test_what_has_the_size_is_not_touched():
    for fit in ("refuse", "crop", "resize", "pad"):
        found = read(saved(RGB), "it", Reading(size=(4, 6), fit=fit))
        assert (found.pixels == planar(RGB)).all()
        assert not found.resized


def test_arrays_of_any_channels_are_resized_channel_by_channel():
    four = RANDOM.integers(0, 256, (12, 12, 4), dtype=np.uint8)
    found = decode(four, "it", Reading(size=(4, 4), fit="resize"))
    each = [decode(four[..., k], "it", Reading(size=(4, 4), fit="resize"))[0] for k in range(4)]
    assert (found == np.stack(each)).all()
    assert math.isclose(found.mean(), four.mean(), abs_tol=4)
