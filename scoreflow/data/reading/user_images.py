"""Reading a user's images and masks: in the format of the run's data, or refused."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scoreflow.data.dataset import Data
from scoreflow.data.reading.conversion import Converted, Pixels, fitted, needs_of_size, refuse
from scoreflow.data.reading.image_file import describe, read
from scoreflow.data.reading.refusal import Refused
from scoreflow.data.reading.settings import MODE_OF, Mode, Reading
from scoreflow.data.reading.tally import Tally
from scoreflow.errors import RequestError
from scoreflow.paths import user_path

WHITE = 128
"""The least value of a mask's channel that counts as white, and of its transparency as clear."""
AS_THE_RUN = Reading(section="control")


class Given(NamedTuple):
    """Images that a user gives.

    Attributes:
        levels: (n, C, H, W), of the dtype of the data.
        names: what each is called.
        remarks: a line each for what was done to them.
    """

    levels: Tensor
    names: list[str]
    remarks: tuple[str, ...] = ()


def read_images(
    where: str,
    data: Data,
    count: int = 1,
    also: tuple[tuple[int, ...], ...] = (),
    reading: Reading = AS_THE_RUN,
) -> Given:
    """Images as levels, and what they are called.

    Args:
        where: a file; or "test:K", the K-th test image, from 0.
        data: of the run.
        count: with "test:K", so many images from the K-th on, or as many as there are.
        also: other shapes (C, H, W) that a file may have.
        reading: what may be done to a file; its size, levels and channels are the data's.
    """
    assert data.num_levels is not None, "vectors were refused before"
    kind, _, number = where.partition(":")
    if kind == "test" and not user_path(where, "the image").exists():
        return _of_the_test_set(where, number, data, count)
    path = _file(where, "image", "a file, or test:K for a test image")
    shapes = tuple(dict.fromkeys((tuple(data.test.shape[1:]), *also)))
    tally = Tally(reading.like(shapes[0], data.num_levels))
    image = _in_one_of(shapes, path, where, tally.reading)
    pixels = torch.from_numpy(tally.add(where, image).astype(np.int32))[None]
    levels = tally.scale().levels(pixels).to(data.test)
    return Given(levels, [where], tuple(f"{where}: {each}" for each in tally.remarks()))


def _of_the_test_set(where: str, number: str, data: Data, count: int) -> Given:
    if not len(data.test):
        raise RequestError(f"{where}: this run has no test images: name a file, or --data PATH")
    if not number.isdecimal() or int(number) >= len(data.test):
        raise RequestError(
            f"a test image is test:K with K in 0..{len(data.test) - 1}, got {where!r}"
        )
    first = int(number)
    levels = data.test[first : first + count]
    return Given(levels, [f"test:{k}" for k in range(first, first + len(levels))])


def _in_one_of(
    shapes: tuple[tuple[int, ...], ...], path: Path, where: str, reading: Reading
) -> Converted:
    """A file in one of the shapes (C, H, W), converted to the first if that is allowed."""
    mode: Mode = "auto" if reading.converts else "exact"
    as_it_is = replace(reading, size=None, channels=None, mode=mode)
    image = read(path, where, as_it_is)
    if image.pixels.shape in shapes:
        return image
    channels, height, width = shapes[0]
    wanted_mode = MODE_OF.get(channels)
    flags = []
    if len(image.pixels) != channels and not reading.converts:
        flags.append(reading.flag("mode", wanted_mode))
    if image.pixels.shape[1:] != (height, width) and reading.fit == "refuse":
        flags.append(reading.flag("fit", "crop"))
    if wanted_mode is None or flags:
        wanted = " or ".join(describe(each) for each in shapes)
        remedy = "give a test image, test:K" if wanted_mode is None else f"add {' '.join(flags)}"
        raise RequestError(
            f"{where} is {describe(image.pixels.shape)}, but must be {wanted} like the data of "
            f"this run: {remedy}"
        )
    return read(path, where, reading)


# ---- masks --------------------------------------------------------------------------------------


class Mask(NamedTuple):
    """What of an image is known.

    Attributes:
        known: bool, of the shape of the data.
        remarks: a line each for how the file was understood where it could mean two things.
    """

    known: Tensor
    remarks: tuple[str, ...] = ()


def read_mask(where: str, shape: tuple[int, ...], reading: Reading = AS_THE_RUN) -> Mask:
    """What of an image is known, from a file that is white or transparent where it is not.

    A mask may have any mode. Where it has transparent pixels and others in black and white alone,
    the white ones are to be made up as well; beside a picture in colours or greys, the transparent
    ones alone, which is said where light ones are kept. One whose values are 0 and 1 has its white
    at 1.

    Args:
        where: a file.
        shape: (C, H, W) of the data.
        reading: what may be done to a mask of another size.
    """
    path = _file(where, "mask", "a file that is white where the image is to be made up")
    any_mode = replace(reading, mode="rgb", size=None, levels=0)
    # over white and over black: what differs is transparent
    light, dark = (
        read(path, where, replace(any_mode, background=ground)).pixels.astype(int)
        for ground in ("#ffffff", "#000000")
    )
    if not light.any():
        dark = _as_stored(path, where, dark)
    unknown, remarks = _unknown(dark, (light - dark).max(0) >= WHITE, where)
    known = torch.from_numpy(~_of_size(unknown, shape[1:], where, reading))
    if known.all() or not known.any():
        only = (
            "black: nothing would be made up"
            if known.all()
            else "white or transparent: nothing would be given"
        )
        raise RequestError(f"mask {where} is all {only}; it must have both")
    return Mask(known.expand(shape), remarks)


def _as_stored(path: Path, where: str, black: Pixels) -> Pixels:
    """The values of a 16-bit mask of 0 and 1, which 8 bits show as black; else what they show."""
    try:
        found = read(path, where, Reading(section="control", mode="rgb", levels=65536)).pixels
    except Refused:  # of 8 bits
        return black
    return found.astype(int) if found.max() == 1 else black


def _unknown(values: Pixels, clear: Pixels, where: str) -> tuple[Pixels, tuple[str, ...]]:
    """Where a mask says that the image is to be made up, (H, W) bool, and what is to be known.

    Args:
        values: (3, H, W) in 0..255.
        clear: (H, W) bool, where it is transparent.
        where: what it is called.
    """
    if not clear.any() and values.max() == 1:
        values = values * 255
    white = (values >= WHITE).any(0)
    if not clear.any() or np.isin(values[:, ~clear], (0, 255)).all():
        return clear | white, ()
    others = int((white & ~clear).sum())
    line = (
        f"mask {where}: its {int(clear.sum())} transparent pixels alone are made up, for the "
        f"others have greys or colours; the {others} light ones among these are kept: make the "
        "mask opaque, or black and white, where they are to be made up too"
    )
    return clear, (line,) if others else ()


def _of_size(mask: Pixels, size: tuple[int, ...], where: str, reading: Reading) -> Pixels:
    """A mask of the size of the image, each pixel the nearest of its own."""
    height, width = mask.shape
    if size == mask.shape:
        return mask
    reading = replace(reading, size=(size[0], size[1]), background="")
    refuse(needs_of_size(width, height, reading), f"mask {where}")
    found = fitted(mask[None].astype(np.uint8) * np.uint8(255), reading, Image.Resampling.NEAREST)
    nearest: Pixels = found[0] >= WHITE
    return nearest


def _file(where: str, what: str, remedy: str) -> Path:
    path = user_path(where, f"the {what}")
    if not path.is_file():
        raise RequestError(f"no such {what}: {where!r}; pass {remedy}")
    return path
