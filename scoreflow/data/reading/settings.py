"""How image files are read: their size, their mode, their number of levels."""

import re
from dataclasses import dataclass, replace
from typing import Literal

from PIL import ImageColor

from scoreflow.errors import RequestError

Fit = Literal["refuse", "crop", "resize", "pad"]
Mode = Literal["exact", "auto", "grey", "rgb"]

MODE_OF: dict[int, Mode] = {1: "grey", 3: "rgb"}
"""By the number of channels."""
SIZE = re.compile(r"\s*(\d{1,6})\s*(?:[xX]\s*(\d{1,6})\s*)?")


@dataclass(frozen=True)
class Reading:
    """What may be done to an image so that it fits; the default does nothing.

    Attributes:
        size: (H, W) that every image gets; None for the size of the files, which must be one.
        fit: what is done where a file has another size.
        mode: "exact" takes what can be read without a conversion; the others convert.
        background: colour under transparent pixels, as "#ffffff"; "" to refuse them.
        levels: L of each channel; 0 for those of the files.
        section: of the config keys that messages name.
        channels: that every image must have; None for those of the files.
    """

    size: tuple[int, int] | None = None
    fit: Fit = "refuse"
    mode: Mode = "exact"
    background: str = ""
    levels: int = 0
    section: str = "data"
    channels: int | None = None

    def __post_init__(self) -> None:
        if self.levels == 1:
            raise RequestError(
                f"{self.section}.levels must be 2 or more, or 0 for those of the files, got 1"
            )
        if self.background:
            _ = self.colour

    @property
    def given(self) -> bool:
        """Whether a run states the size and the levels, so that no key does."""
        return self.section != "data"

    @property
    def converts(self) -> bool:
        """Whether the pixels of a file may be converted."""
        return self.mode != "exact"

    @property
    def colour(self) -> tuple[int, int, int]:
        """Red, green and blue of the background, each in 0..255; black for none.

        Raises:
            RequestError: it is no colour, or a transparent one.
        """
        refusal = RequestError(
            f"{self.section}.background must be an opaque colour, as #ffffff or white, got "
            f"{self.background!r}"
        )
        try:
            found = ImageColor.getrgb(self.background or "#000000")
        except ValueError as error:
            raise refusal from error
        if len(found) != 3:
            raise refusal
        return found

    def like(self, shape: tuple[int, ...], num_levels: int) -> "Reading":
        """The same for images that must have the shape (C, H, W) and the levels of a run's."""
        channels, height, width = shape
        mode = MODE_OF.get(channels, "exact") if self.converts else "exact"
        size = (height, width)
        return replace(self, size=size, channels=channels, levels=num_levels, mode=mode)

    def flag(self, option: str, value: object) -> str:
        """The flag of the command line that sets one of these, for a message."""
        return f"--config.{self.section}.{option}={value}"


AS_IT_IS = Reading()


def size_of(text: str | int, name: str = "data.size") -> tuple[int, int] | None:
    """(H, W) from "64" for a square, or "48x64" for height x width; None from "".

    Args:
        text: as in the config.
        name: of the key, for the message.

    Raises:
        RequestError: it is neither.
    """
    if text == "":
        return None
    found = SIZE.fullmatch(str(text))
    height, width = (int(each or found[1]) for each in found.groups()) if found else (0, 0)
    if not height or not width:
        raise RequestError(
            f"{name} must be a side in pixels, as 64, or height x width, as 48x64, got {text!r}"
        )
    return height, width
