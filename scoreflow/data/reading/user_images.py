"""Reading a user's images and masks: in the format of the run's data, or refused."""

from pathlib import Path

import torch
from torch import Tensor

from scoreflow.data.dataset import Data
from scoreflow.data.levels import from_uint8
from scoreflow.data.reading.image_file import decode, describe
from scoreflow.errors import RequestError

WHITE = 128
"""The least grey of a mask that counts as white."""


def read_images(
    where: str, data: Data, count: int = 1, also: tuple[tuple[int, ...], ...] = ()
) -> tuple[Tensor, list[str]]:
    """Images as levels, and what they are called.

    Args:
        where: a file, whose 0..255 are spread over the levels of the data; or "test:K", the K-th
            test image, from 0.
        data: of the run.
        count: with "test:K", so many images from the K-th on, or as many as there are.
        also: other shapes (C, H, W) that a file may have.

    Returns:
        (n, C, H, W) uint8 in 0..L-1, and n names.
    """
    assert data.num_levels is not None, "vectors were refused before"
    shape = tuple(data.test.shape[1:])
    kind, _, number = where.partition(":")
    if kind == "test" and not Path(where).exists():
        if not len(data.test):
            raise RequestError(
                f"{where}: this run has no test images: name a file, or --data PATH"
            )
        if not number.isdecimal() or int(number) >= len(data.test):
            raise RequestError(
                f"a test image is test:K with K in 0..{len(data.test) - 1}, got {where!r}"
            )
        first = int(number)
        levels = data.test[first : first + count]
        return levels, [f"test:{k}" for k in range(first, first + len(levels))]
    pixels = _pixels(where, "image", "a file, or test:K for a test image")
    if tuple(pixels.shape) not in (shape, *also):
        wanted = " or ".join(dict.fromkeys(describe(each) for each in (shape, *also)))
        raise RequestError(
            f"{where} is {describe(tuple(pixels.shape))}, but must be {wanted} like the data of "
            "this run: crop, scale or convert it first"
        )
    return from_uint8(pixels, data.num_levels)[None].to(data.test.device), [where]


def read_mask(where: str, shape: tuple[int, ...]) -> Tensor:
    """What of an image is known, from a file that is white where it is to be made up.

    Args:
        where: a file, of the size of the data.
        shape: (C, H, W) of the data.

    Returns:
        bool, `shape`.
    """
    pixels = _pixels(where, "mask", "a file that is white where the image is to be made up")
    if pixels.shape[1:] != shape[1:]:
        size, wanted = (f"{s[2]}x{s[1]}" for s in (pixels.shape, shape))
        raise RequestError(f"mask {where} is {size} pixels, but must be {wanted} like the image")
    known = (pixels < WHITE).all(0).expand(shape)
    if known.all() or not known.any():
        only = (
            "black: nothing would be made up" if known.all() else "white: nothing would be given"
        )
        raise RequestError(f"mask {where} is all {only}; it must have both")
    return known


def _pixels(where: str, what: str, remedy: str) -> Tensor:
    """A file's (C, H, W) uint8."""
    path = Path(where).expanduser()
    if not path.is_file():
        raise RequestError(f"no such {what}: {where!r}; pass {remedy}")
    return torch.from_numpy(decode(path, where).copy())
