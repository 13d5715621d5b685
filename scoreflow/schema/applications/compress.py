"""The `compress` section: images as a file, lossless or sent down to a time."""

from dataclasses import dataclass
from typing import ClassVar

from scoreflow.schema.ranges import COUNT_OR_NONE, AllBut, Range
from scoreflow.schema.section import Condition, Section, key

LOSSLESS: Condition = {"compress.stop": (0,)}
PROGRESSIVE: Condition = {"compress.stop": AllBut((0,))}


@dataclass(frozen=True, kw_only=True)
class CompressConfig(Section):
    """How images become a file, and are found again in it."""

    NAME: ClassVar[str] = "compress"
    MODES: ClassVar[tuple[str, ...]] = ("compress",)

    data: str = key(
        "test",
        "which images: test or train, those of the run; or others that fit it, a folder or a name "
        "on the Hub",
    )
    num_images: int = key(0, "the first so many; 0 for all", COUNT_OR_NONE)
    batch_size: int = key(
        1,
        "images in flight: as many are evaluated at once, and as many borrow bits that the file "
        "holds beside its images",
        Range(1, 4096, "[]"),
        only=LOSSLESS,
    )
    steps: int = key(
        40, "K, steps of the chain: evaluations an image", Range(2, 128, "[]"), only=LOSSLESS
    )
    precision: int = key(
        2,
        "b: a cell of the grid is at most 2^-b of a standard deviation wide",
        Range(1, 8, "[]"),
        only=LOSSLESS,
    )
    fit_images: int = key(
        256, "training images that the laws are measured on", Range(2, 65536, "[]")
    )
    seed: int = key(0, "seed of that measurement, of the bits lent, of candidates", COUNT_OR_NONE)
    verify: bool = key(True, "decode the file once, and compare", only=LOSSLESS)
    stop: int = key(
        0,
        "t, in steps, at which images end that are sent from the noise down, every beginning of "
        "their file being all of them, coarser; 0 for all of each, lossless. decompress: the "
        "last time that is read of such a file; 0 for all that it has",
        Range(0, 2**31),
        modes=("compress", "decompress"),
    )
    part_bits: int = key(
        7,
        "bits of KL of a part of an image, at most: larger parts waste fewer bits, and take some "
        "three times as long for each",
        Range(1, 12, "[]"),
        only=PROGRESSIVE,
    )
