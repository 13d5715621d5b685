"""Levels of a set of files, what is said of how it was read, and all that is refused at once."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from scoreflow.data.levels import to_uint8
from scoreflow.data.loading import load_images, load_whole
from scoreflow.data.reading.refusal import MOST_NAMED, MOST_REFUSED
from scoreflow.data.reading.settings import Reading, size_of
from scoreflow.data.reading.tally import brightness
from scoreflow.errors import RequestError

RANDOM = np.random.default_rng(2)


def write(folder, images, mode=None, suffix="png", **options):
    folder.mkdir(parents=True, exist_ok=True)
    for index, pixels in enumerate(images):
        image = Image.fromarray(pixels)
        image = image.convert(mode) if mode else image
        image.save(folder / f"{index:03}.{suffix}", **options)
    return str(folder)


def greys(count=5, top=256, shape=(4, 6)):
    return RANDOM.integers(0, top, (count, *shape), dtype=np.uint8)


def whole(path, **reading):
    """The levels of all files in order, how many levels there are, and what was said."""
    data = load_images(path, whole=True, reading=Reading(**reading))
    assert data.train is data.test
    return data.test, data.num_levels, data.remarks


def refusal(path, **reading):
    with pytest.raises(RequestError) as refused:
        load_images(path, whole=True, reading=Reading(**reading))
    assert "\n" not in str(refused.value)
    return str(refused.value)


# ---- the one rule -------------------------------------------------------------------------------


def test_brightness_is_what_a_picture_shows():
    for num_levels in (2, 3, 17, 200, 256):
        shown = to_uint8(torch.arange(num_levels), num_levels)
        assert brightness(num_levels).tolist() == shown.tolist()


def test_plain_files_have_256_levels_and_nothing_is_said(tmp_path):
    images = greys()
    found, count, said = whole(write(tmp_path, images))
    assert (found[:, 0].numpy() == images).all()
    assert found.dtype == torch.uint8
    assert (count, said) == (256, ())


@pytest.mark.parametrize(("num_levels", "suffix"), [(2, "png"), (2, "tif"), (2, "bmp")])
def test_black_and_white_files_have_two_levels(tmp_path, num_levels, suffix):
    images = greys() > 99
    found, count, said = whole(write(tmp_path, images, suffix=suffix))
    assert (found[:, 0].numpy() == images).all()
    assert count == num_levels
    assert said == ("2 levels, from black to white",)


@pytest.mark.parametrize("num_levels", [2, 3, 17, 100])
def test_levels_that_are_asked_for_are_those_of_the_brightness(tmp_path, num_levels):
    levels = greys(5, num_levels)
    levels[0, 0, 0] = num_levels - 1
    found, count, _ = whole(write(tmp_path, brightness(num_levels)[levels]), levels=num_levels)
    assert (found[:, 0].numpy() == levels).all()
    assert count == num_levels


def test_values_that_are_all_below_are_levels_themselves_and_that_is_said(tmp_path):
    levels = greys(5, 17)
    path = write(tmp_path, levels)
    found, count, said = whole(path, levels=17)
    assert (found[:, 0].numpy() == levels).all()
    assert count == 17
    assert said == ("17 levels: all values are below 17 and taken as levels themselves",)
    found, _, said = whole(path, levels=17, mode="grey")  # asks for brightness
    assert (found[:, 0].numpy() == np.rint(levels * 16.0 / 255)).all()
    assert said == ("17 levels: all values are below 17, and dark, not levels themselves",)


def test_values_between_the_levels_are_refused_or_go_to_the_nearest(tmp_path):
    images = greys()
    images[0, 0, 0] = 255
    path = write(tmp_path, images)
    said = refusal(path, levels=17)
    first = images[0][~np.isin(images[0], brightness(17))][0]
    assert said == (
        f"{tmp_path / '000.png'}: the value {first} is none of the 17 levels, which are shown at "
        "0, 16, 32, ..., 255; add --config.data.levels=256, or --config.data.mode=auto for the "
        "nearest level"
    )
    found, count, said = whole(path, levels=17, mode="auto")
    assert (found[:, 0].numpy() == np.rint(images * 16.0 / 255)).all()
    assert count == 17
    assert said == ("17 levels: 5 of 5 files had values between them, which went to the nearest",)


def test_files_of_several_depths_are_refused_or_taken_as_brightness(tmp_path):
    images = greys(4)
    path = write(tmp_path, images)
    Image.fromarray(images[0] > 99).save(tmp_path / "zz.png")
    said = refusal(path)
    assert "256 in" in said
    assert f"and 2 in {tmp_path / 'zz.png'}; add --config.data.levels=256" in said
    for reading in ({"levels": 256}, {"mode": "grey"}):
        found, count, _ = whole(path, **reading)
        assert count == 256
        assert (found[:4, 0].numpy() == images).all()
        assert (found[4, 0].numpy() == (images[0] > 99) * 255).all()


def test_black_and_white_that_is_resized_is_grey_if_that_is_allowed(tmp_path):
    path = write(tmp_path, greys(3, shape=(8, 8)) > 99)
    said = refusal(path, size=(4, 4), fit="resize")
    assert said.endswith("is none of the 2 levels, which are shown at 0, 255; add "
                         "--config.data.levels=256")  # fmt: skip
    found, count, said = whole(path, size=(4, 4), fit="resize", mode="auto")
    assert count == 256
    assert said == ("all resized to 4x4 by resize",)
    found, count, _ = whole(path, size=(4, 4), fit="resize", mode="auto", levels=2)
    assert count == 2
    assert set(found.unique().tolist()) == {0, 1}


def test_deep_files_are_taken_as_stored(tmp_path):
    images = RANDOM.integers(0, 4096, (5, 4, 6), dtype=np.uint16)
    images[2, 0, 0] = 4095
    path = write(tmp_path, images)
    found, count, said = whole(path, levels=4096)
    assert (found[:, 0].numpy() == images).all()
    assert (found.dtype, count) == (torch.int32, 4096)
    assert said == ("4096 levels: the values as they are stored",)
    said = refusal(path, levels=1024)
    assert "stored values that are not all in 0..1023" in said
    assert "--config.data.levels=4096" in said
    assert "of 5 images are refused. 16-bit grey:" in refusal(path)
    small = write(tmp_path / "small", images % 200)
    found, count, _ = whole(small, levels=200)
    assert (found[:, 0].numpy() == images % 200).all()
    assert (found.dtype, count) == (torch.uint8, 200)
    Image.fromarray(greys(1)[0]).save(tmp_path / "small" / "zz.png")
    assert "must all be of more than 8 bits or none" in refusal(small, levels=200)
    assert "8 bits, where 4096 levels are stored values" in refusal(small, levels=4096)


# ---- one set ------------------------------------------------------------------------------------


def test_all_become_rgb_if_one_has_colour_whichever_comes_first(tmp_path):
    colour = RANDOM.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    for place in (0, 1, 2):
        images = list(greys(2))
        images.insert(place, colour)
        path = write(tmp_path / str(place), images)
        assert "add --config.data.mode=auto" in refusal(path)
        found, _, said = whole(path, mode="auto")
        for index, pixels in enumerate(images):
            shown = pixels if pixels.ndim == 3 else np.dstack([pixels] * 3)
            assert (found[index].permute(1, 2, 0).numpy() == shown).all()
        assert said == ("2 of 3 files converted: 2 grey to RGB",)
    grey = write(tmp_path / "grey", greys(2))
    assert whole(grey, mode="auto")[0].shape == (2, 1, 4, 6)


def test_colour_in_one_split_alone_is_colour_in_both(tmp_path):
    images = greys(3)
    write(tmp_path / "train", images)
    write(tmp_path / "test", RANDOM.integers(0, 256, (2, 4, 6, 3), dtype=np.uint8))
    data = load_images(str(tmp_path), reading=Reading(mode="auto"))
    assert (data.train.numpy() == images[:, None]).all()
    assert data.train.shape == (3, 3, 4, 6)
    with pytest.raises(RequestError, match="train and test must share one size and mode"):
        load_images(str(tmp_path))


def test_a_profile_is_said_with_the_flag_that_applies_it(tmp_path):
    path = write(tmp_path, greys(2), icc_profile=b"unknown")
    _, _, said = whole(path)
    assert said == (
        "2 of 2 files have a colour profile other than sRGB, which is not applied: their values "
        "are taken as they stand (--config.data.mode=auto makes it sRGB)",
    )


def test_photos_of_any_size_are_cropped_and_that_is_said(tmp_path):
    sizes = [(8, 8), (8, 12), (16, 16), (5, 5)]
    images = [RANDOM.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    path = write(tmp_path, images)
    Image.fromarray(images[0]).quantize(4).save(tmp_path / "zz.png")
    found, _, said = whole(path, size=(8, 8), fit="crop", mode="rgb")
    assert found.shape == (5, 3, 8, 8)
    assert (found[0].permute(1, 2, 0).numpy() == images[0]).all()
    assert (found[1].permute(1, 2, 0).numpy() == images[1][:, 2:10]).all()
    assert said == (
        "1 of 5 files converted: 1 palette; 3 of 5 resized to 8x8 by crop, 1 of them enlarged",
    )
    alone = refusal(write(tmp_path / "two", images[:2]))
    assert alone.endswith("add --config.data.size=8 --config.data.fit=crop")


def test_all_files_that_are_refused_are_named_in_one_line(tmp_path):
    path = write(tmp_path, greys(3))
    (tmp_path / "003.png").write_bytes(b"")
    Image.fromarray(RANDOM.integers(0, 256, (4, 6, 4), dtype=np.uint8)).save(tmp_path / "004.png")
    (tmp_path / "005.png").write_bytes((tmp_path / "000.png").read_bytes()[:60])
    Image.fromarray(greys(1)[0]).quantize(2).save(tmp_path / "006.png")
    said = refusal(path)
    assert said.startswith("4 of 7 images are refused. ")
    for name in ("003.png", "004.png", "005.png", "006.png"):
        assert said.count(name) == 1
    flags = "--config.data.background=#ffffff --config.data.mode=auto"
    assert said.endswith(f"Remedy: add all of: {flags}; and replace or remove it")


RGBA = RANDOM.integers(0, 256, (8, 8, 4), dtype=np.uint8)
KINDS = {
    "deep": Image.fromarray(RANDOM.integers(0, 65536, (8, 8), dtype=np.uint16)),
    "rgb": Image.fromarray(RGBA[..., :3]),
    "palette": Image.fromarray(RGBA[..., :3]).quantize(4),
    "transparent": Image.fromarray(RGBA),
    "wide deep": Image.fromarray(RANDOM.integers(0, 65536, (8, 12), dtype=np.uint16)),
    "high transparent": Image.fromarray(RGBA.repeat(2, axis=0)),
    "grey": Image.fromarray(RGBA[..., 0]),
}


@pytest.mark.parametrize(
    "kinds",
    [
        ("rgb", "deep"),
        ("grey", "deep", "palette"),
        ("deep", "wide deep", "rgb"),
        ("rgb", "high transparent"),
        tuple(KINDS),
        tuple(KINDS)[::-1],
    ],
)
def test_the_flags_of_the_remedy_make_a_set_of_several_kinds_readable(kinds, tmp_path):
    for index, kind in enumerate(kinds):
        KINDS[kind].save(tmp_path / f"{index}.png")
    flags = [word for word in refusal(str(tmp_path)).split() if word.startswith("--config.data.")]
    options = dict(flag.removeprefix("--config.data.").split("=") for flag in flags)
    if "size" in options:
        options["size"] = size_of(options["size"])
    assert "levels" not in options
    assert len(whole(str(tmp_path), **options)[0]) == len(kinds)


def test_a_message_names_so_many_and_the_rest_is_not_read(tmp_path):
    folder = tmp_path / "many"
    write(folder, greys(1))
    content = io.BytesIO()
    Image.fromarray(greys(1)[0]).quantize(2).save(content, "PNG")
    for index in range(MOST_REFUSED + 5):
        (folder / f"x{index:03}.png").write_bytes(content.getvalue())
    said = refusal(str(folder))
    assert said.startswith(f"{MOST_REFUSED} of the first {MOST_REFUSED + 1} images are refused. ")
    assert said.count(".png") == MOST_NAMED
    assert f"; and {MOST_REFUSED - MOST_NAMED} more. Remedy: add --config.data.mode=auto" in said


# ---- other data of a run ------------------------------------------------------------------------


def test_other_data_are_read_as_levels_of_the_run(tmp_path):
    drawn = np.zeros((8, 8), np.uint8)
    drawn[1:7, 3:5] = 255
    path = write(tmp_path / "two", [drawn, drawn.T.copy()])
    reading = Reading(section="likelihood").like((1, 8, 8), 17)
    found = load_whole(path, reading)
    assert (found.test[0, 0].numpy() == drawn // 255 * 16).all()
    assert found.remarks == ()
    colour = write(tmp_path / "colour", [np.dstack([drawn] * 3)])
    with pytest.raises(
        RequestError, match=r"RGB, where grey is wanted; add --config\.likelihood\.mo"
    ):
        load_whole(colour, reading)
    allowed = Reading(section="likelihood", mode="rgb", fit="crop").like((1, 4, 4), 17)
    found = load_whole(colour, allowed)
    assert found.test.shape == (1, 1, 4, 4)
    assert found.remarks[0] == (
        "1 of 1 files converted: 1 colour to grey; all resized to 4x4 by crop"
    )


def test_arrays_of_16_bits_made_grey_are_8_bit_files(tmp_path):
    levels = RANDOM.integers(0, 65536, (3, 4, 6), dtype=np.uint16)
    path = tmp_path / "deep.npy"
    np.save(path, levels)
    found, count, said = whole(str(path), mode="grey")
    assert (found[:, 0].numpy() == (levels.astype(float) / 257).round()).all()
    assert (count, found.dtype) == (256, torch.uint8)
    most = int(levels.max())
    assert said == (
        "3 of 3 files converted: 3 from 16 bits to 8",
        f"values up to {most} of 65535 become at most {round(most / 257)} of 255",
    )


def test_the_range_of_16_bits_made_8_is_said_and_all_black_is_refused(tmp_path):
    dim = np.full((2, 4, 4), 3632, np.uint16)
    dim[:, 0] = 0
    said = whole(write(tmp_path / "dim", dim), mode="grey")[2]
    assert "values up to 3632 of 65535 become at most 14 of 255" in said  # 14.13
    path = write(tmp_path / "black", dim // 40)  # up to 90, less than half of 257
    flag = "--config.data.levels=512"
    assert f"their values are 90 or less; add {flag} and leave the mode at exact" in refusal(
        path, mode="grey"
    )
    assert (whole(path, levels=512)[0].numpy()[:, 0] == dim // 40).all()


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ((0, 1), "only values 0..1 occur: --config.data.levels=2"),
        ((0, 9), "only values 0..9 occur: --config.data.levels=10"),
        (
            (0, 255),
            "only the values 0 and 255 occur: --config.data.levels=2",
        ),
        ((0, 16), None),
        ((0, 0), None),
    ],
)
def test_values_of_8_bits_that_look_like_levels_are_said(values, hint, tmp_path):
    images = np.array(values, np.uint8)[RANDOM.integers(0, 2, (3, 8, 8))]
    path = write(tmp_path, images)
    assert whole(path)[1:] == (256, () if hint is None else (f"{hint} counts them as levels",))
    if hint is not None:
        levels, count, _ = whole(path, levels=int(hint.split("levels=")[1]))
        assert count == (2 if values[1] == 255 else values[1] + 1)
        assert (levels[:, 0].numpy() == images // (255 if values[1] == 255 else 1)).all()
