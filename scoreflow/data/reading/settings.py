"""How image files are read: their size, their mode, their number of levels."""

from dataclasses import dataclass
from typing import Literal

Fit = Literal["refuse", "crop", "resize", "pad"]
Mode = Literal["exact", "auto", "grey", "rgb"]


@dataclass(frozen=True)
class Reading:
    """What may be done to an image so that it fits; the default does nothing.

    Attributes:
        size: (H, W) that every image gets; None for the size of the files, which must be one.
        fit: what is done where a file has another size.
        mode: "exact" takes what can be read without a conversion; the others convert.
        background: colour under transparent pixels, as "#ffffff"; "" to refuse them.
        levels: L of each channel; 0 for those of the files.
    """

    size: tuple[int, int] | None = None
    fit: Fit = "refuse"
    mode: Mode = "exact"
    background: str = ""
    levels: int = 0


AS_IT_IS = Reading()
