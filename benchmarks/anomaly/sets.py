"""Sets of images that are no digits, or other digits, made of what packages bring.

Two formats: 8 x 8 pixels of 17 levels, as scikit-learn's digits, and 28 x 28 of 256, as MNIST.
Every image is a function of the set's name, the format and its number.
"""

import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from scoreflow.data.loading import load_digits, load_images
from scoreflow.data.reading.settings import Reading
from scoreflow.errors import RequestError

Array = np.ndarray[Any, Any]
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSansMono")
"""That matplotlib brings."""
CANVAS = 64
"""Pixels a side that a letter is drawn on before it is made small."""


@dataclass(frozen=True)
class Format:
    """What the images of a run are.

    Attributes:
        side: pixels.
        levels: L, of each pixel.
        letter: size of a font whose capitals are as high as the digits, of `CANVAS` pixels.
    """

    side: int
    levels: int
    letter: int

    def reduced(self, grey: Array) -> Array:
        """A grey picture of 0..255 as levels, by the mean of the pixels under each."""
        small = Image.fromarray(grey.astype(np.uint8)).resize(
            (self.side, self.side), Image.Resampling.BOX
        )
        return self.levels_of(np.asarray(small, np.float64) / 255)

    def levels_of(self, share: Array) -> Array:
        """Brightness in [0, 1] as levels."""
        return np.rint(share * (self.levels - 1)).astype(np.uint8)


DIGITS, MNIST = Format(8, 17, 82), Format(28, 256, 60)


@dataclass(frozen=True)
class Sources:
    """Where what no package brings is read from, and the run's own test images.

    Attributes:
        form: of the images.
        own: test images of the run, (n, side, side) levels.
        mnist: a folder with MNIST, or None.
        cifar10: a folder with CIFAR-10, or None.
    """

    form: Format
    own: Array
    mnist: Path | None
    cifar10: Path | None

    @cached_property
    def handwritten(self) -> Array:
        """MNIST's test images, (10000, 28, 28)."""
        return _read(self.mnist, "--mnist", Reading())[:, 0]

    @cached_property
    def natural(self) -> Array:
        """CIFAR-10's test images in grey, (10000, 32, 32)."""
        return _read(self.cifar10, "--cifar10", Reading(mode="grey"))[:, 0]

    @cached_property
    def photographs(self) -> list[Array]:
        """The two photographs that scikit-learn brings, in grey."""
        from sklearn.datasets import load_sample_images

        return [
            np.asarray(Image.fromarray(each).convert("L")) for each in load_sample_images().images
        ]


def _read(path: Path | None, flag: str, reading: Reading) -> Array:
    if path is None:
        raise RequestError(f"this set is made of a data set's images: name its folder by {flag}")
    return np.asarray(load_images(str(path), reading=reading).test)


# ---- the sets -----------------------------------------------------------------------------------

Maker = Callable[[Sources, np.random.Generator, int], Array]
"""Sources, random numbers of this image, its number -> levels (side, side)."""


def _noise(of: Sources, rng: np.random.Generator, _number: int) -> Array:
    return rng.integers(0, of.form.levels, (of.form.side, of.form.side), dtype=np.uint8)


def _shuffled(of: Sources, rng: np.random.Generator, number: int) -> Array:
    own = of.own[number % len(of.own)]
    return rng.permutation(own.ravel()).reshape(own.shape)


def _constant(of: Sources, rng: np.random.Generator, _number: int) -> Array:
    return np.full((of.form.side, of.form.side), rng.integers(of.form.levels), np.uint8)


def _turned(of: Sources, _rng: np.random.Generator, number: int) -> Array:
    return np.rot90(of.own[number % len(of.own)]).copy()


def _letter(of: Sources, rng: np.random.Generator, number: int) -> Array:
    """A capital letter, white on black, in a font, size and place of its own."""
    canvas = Image.new("L", (CANVAS, CANVAS))
    file = Path(mpl.get_data_path(), "fonts", "ttf", f"{FONTS[rng.integers(len(FONTS))]}.ttf")
    size = of.form.letter + int(rng.integers(-6, 7))
    font = ImageFont.truetype(str(file), size)
    place = tuple(CANVAS / 2 + rng.uniform(-4, 4, 2))
    letter = string.ascii_uppercase[number % 26]
    ImageDraw.Draw(canvas).text(place, letter, fill=255, font=font, anchor="mm")
    return of.form.reduced(np.asarray(canvas))


def _patch(of: Sources, rng: np.random.Generator, number: int) -> Array:
    """A square of a photograph, four times as large and made small by means."""
    picture = of.photographs[number % len(of.photographs)]
    size = 4 * of.form.side
    top, left = (rng.integers(0, side - size + 1) for side in picture.shape)
    return of.form.reduced(picture[top : top + size, left : left + size])


def _handwritten(of: Sources, _rng: np.random.Generator, number: int) -> Array:
    """A digit of MNIST without its margin, which scikit-learn's have not."""
    return of.form.reduced(of.handwritten[number][3:-3, 3:-3])


def _scikit(of: Sources, _rng: np.random.Generator, number: int) -> Array:
    own = load_digits().test[number, 0].numpy()
    return of.form.levels_of(own / 16.0)


def _natural(of: Sources, _rng: np.random.Generator, number: int) -> Array:
    grey = of.natural[number]
    margin = (32 - of.form.side) // 2 if of.form.side > 16 else 0
    return of.form.reduced(grey[margin : 32 - margin, margin : 32 - margin])


MAKERS: dict[str, Maker] = {
    "mnist": _handwritten,
    "digits": _scikit,
    "cifar10": _natural,
    "letters": _letter,
    "photographs": _patch,
    "turned": _turned,
    "shuffled": _shuffled,
    "noise": _noise,
    "constant": _constant,
}
ALWAYS = ("letters", "turned", "shuffled", "noise", "constant")
SETS = {
    "digits": ("mnist", "photographs", *ALWAYS),
    "mnist": ("cifar10", "photographs", *ALWAYS),
    "natural": ("digits", "mnist", "photographs", *ALWAYS),
}
"""The other sets, by what the run was trained on."""
FORMATS = {"digits": DIGITS, "mnist": MNIST, "natural": DIGITS}


def images(name: str, of: Sources, count: int) -> Iterator[Array]:
    """The first images of a set, each (side, side) uint8."""
    for number in range(count):
        seed = [*name.encode(), of.form.side, number]
        yield MAKERS[name](of, np.random.default_rng(seed), number)


def written(name: str, of: Sources, count: int, folder: Path) -> Path:
    """A folder of PNGs with the first images of a set, and no others."""
    at = folder / name
    at.mkdir(parents=True, exist_ok=True)
    for other in sorted(at.glob("*.png"))[count:]:
        other.unlink()
    for number, image in enumerate(images(name, of, count)):
        Image.fromarray(image).save(at / f"{number:05d}.png")
    return at
