"""The `compress` section: lossless compression of images."""

from dataclasses import dataclass
from typing import ClassVar

from scoreflow.schema.ranges import COUNT_OR_NONE, Range
from scoreflow.schema.section import Section, key


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
    )
    steps: int = key(40, "K, steps of the chain: evaluations an image", Range(2, 128, "[]"))
    precision: int = key(
        2,
        "b: a cell of the grid is at most 2^-b of a standard deviation wide",
        Range(1, 8, "[]"),
    )
    fit_images: int = key(
        256, "training images that the laws are measured on", Range(2, 65536, "[]")
    )
    seed: int = key(0, "seed of that measurement and of the bits lent", COUNT_OR_NONE)
    verify: bool = key(True, "decode the file once, and compare")
