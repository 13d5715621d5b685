"""What was found while the images of a set were read: their number of levels, what was done.

A file of few levels, and one of 8 bits that is taken at fewer, gives brightness: 0 is black, 255
is white, and level k of L is shown at the integer nearest to 255 k / (L - 1). A value that is no
such integer is refused, or goes to the nearest level where conversions are allowed. Files of 8
bits whose values are all below L are taken as levels themselves, if no conversions are allowed.
Values of more than 8 bits are levels as they are stored.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from scoreflow.data.reading.conversion import PROFILE, Converted, Pixels
from scoreflow.data.reading.refusal import Refused
from scoreflow.data.reading.settings import AS_IT_IS, Reading
from scoreflow.errors import RequestError


def brightness(num_levels: int) -> Pixels:
    """Where the levels of a picture are shown: (L,) uint8, for L in 2..256."""
    top = num_levels - 1
    return ((np.arange(num_levels) * 510 + top) // (2 * top)).astype(np.uint8)


LOW, WHITE = 16, 255
"""Sets of 8 bits whose values are all below the one, or are 0 and the other, may be of levels."""
BLOCK = 1024
"""Images that are looked up at a time, for their indices take four times their memory."""


@dataclass(frozen=True)
class Scale:
    """From the values of pixels to levels.

    Attributes:
        num_levels: L.
        table: (256,) uint8, the level of each brightness; None where values are levels.
    """

    num_levels: int
    table: Tensor | None = None

    def levels(self, pixels: Tensor) -> Tensor:
        """Levels, uint8 for L up to 256 and int32 above, of pixels uint8 or uint16."""
        if self.table is None:
            return pixels.to(torch.uint8 if self.num_levels <= 256 else torch.int32)
        found = torch.empty_like(pixels, dtype=torch.uint8)
        for part, into in zip(pixels.split(BLOCK), found.split(BLOCK), strict=True):
            into.copy_(self.table.to(part.device)[part.int()])
        return found


@dataclass
class Tally:
    """Counts over all images that one data set is made of.

    Args:
        reading: how they are read.

    Attributes:
        total: images so far.
        done: how many had each conversion.
        kept: in how many something was left as it stands.
        converted: how many had a conversion.
        greys: how many without colour there are, and how many of these had no conversion.
        between: how many had a value between levels.
        resized: how many were resized.
        enlarged: how many of these grew.
        files: by the number of levels that files can hold, the first that has it.
        off: the first that has a value between levels, and the value.
        most: the greatest value.
        few: whether a file of fewer than 256 levels was among them.
        stored: the first whose values are levels as they are stored.
        spread: the greatest stored value of more than 8 bits that became 0..255, and the
            greatest that it could be.
        lit: whether there is an image that is not black.
        low: the greatest value of 8 bits, until one is not below `LOW`; then None.
        extreme: whether all values of 8 bits are 0 or 255.
    """

    reading: Reading = AS_IT_IS
    total: int = 0
    done: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    converted: int = 0
    greys: tuple[int, int] = (0, 0)
    resized: int = 0
    enlarged: int = 0
    between: int = 0
    files: dict[int, str] = field(default_factory=dict)
    off: tuple[str, int] | None = None
    most: int = 0
    few: bool = False
    stored: str | None = None
    spread: tuple[int, int] | None = None
    lit: bool = False
    low: int | None = 0
    extreme: bool = True

    def add(self, where: str, image: Converted) -> Pixels:
        """Count one image; its pixels.

        Raises:
            Refused: a stored value is none of the levels that are asked for.
        """
        if image.stored:
            self._refuse_above(where, int(image.pixels.max(initial=0)))
            self.stored = self.stored or where
        else:
            self._look_at_values(where, image)
        self.total += 1
        self.done.update(image.done)
        self.kept.update(image.kept)
        self.converted += bool(image.done)
        if len(image.pixels) == 1:
            self.greys = (self.greys[0] + 1, self.greys[1] + (not image.done))
        self.resized += image.resized
        self.enlarged += image.enlarged
        self.files.setdefault(image.levels, where)
        self.lit = self.lit or bool(image.pixels.any())
        if image.spread is not None:
            self.spread = max(image.spread, self.spread or image.spread)
        return image.pixels

    def _refuse_above(self, where: str, most: int) -> None:
        if most < self.reading.levels:
            return
        flag = self.reading.flag("levels", 2 ** most.bit_length())
        flag = self.reading.flag("mode", "grey") if self.reading.given else flag
        raise Refused(
            where, f"stored values that are not all in 0..{self.reading.levels - 1}", f"add {flag}"
        )

    def _look_at_values(self, where: str, image: Converted) -> None:
        """Whether the values are levels, or the brightness of levels."""
        wanted = self.reading.levels or image.levels
        if self.low is not None:
            low = max(self.low, int(image.pixels.max(initial=0)))
            self.low = low if low < LOW else None
        self.extreme = self.extreme and bool(np.isin(image.pixels, (0, WHITE)).all())
        if wanted >= 256:
            return
        shown = np.isin(np.arange(256), brightness(wanted))[image.pixels]
        self.between += not shown.all()
        if self.off is None and not shown.all():
            self.off = (where, int(image.pixels[~shown].flat[0]))
        self.most = max(self.most, int(image.pixels.max(initial=0)))
        self.few |= image.levels < 256

    # ---- levels ---------------------------------------------------------------------------------

    def scale(self) -> Scale:
        """How the pixels of the set become levels.

        Raises:
            RequestError: files differ in their number of levels, or values are no levels.
        """
        reading, own = self.reading, max(self.files, default=256)
        if self.spread is not None and self.spread[0] and not (self.lit or reading.given):
            raise RequestError(self._black(*self.spread))
        if self.stored is not None:
            return self._as_stored()
        if not reading.levels and len(self.files) > 1:
            if not reading.converts:
                raise RequestError(self._differ())
            own = 256
        if not reading.levels and reading.converts and self.off is not None:
            own = 256  # a conversion made values between the levels of the files
        wanted = reading.levels or own
        if wanted >= 256:
            return Scale(wanted)
        if self._below() and not reading.converts:
            return Scale(wanted)
        if self.off is not None and not reading.converts:
            raise RequestError(self._off(wanted))
        return Scale(wanted, _nearest(wanted))

    def _below(self) -> bool:
        """Whether 8-bit values are all below the number of levels that is asked for."""
        return 0 < self.most < self.reading.levels and not self.few

    def _as_stored(self) -> Scale:
        spread = next((name for levels, name in self.files.items() if levels <= 256), None)
        alike = self.reading.levels == 256 or (self.most < self.reading.levels and not self.few)
        if spread is not None and not alike:
            raise RequestError(
                f"images must all be of more than 8 bits or none, got {self.stored} whose stored "
                f"values are taken as levels, and {spread}; add "
                f"{self.reading.flag('mode', 'grey')} {self.reading.flag('levels', 0)}"
            )
        return Scale(self.reading.levels)

    def _differ(self) -> str:
        names = " and ".join(f"{levels} in {name}" for levels, name in self.files.items())
        return (
            f"images must share one number of levels, got {names}; add "
            f"{self.reading.flag('levels', 256)} to take all as brightness, 0 black and 255 white"
        )

    def _black(self, most: int, top: int) -> str:
        levels = self.reading.flag("levels", 2 ** max(most.bit_length(), 9))
        return (
            f"all images become black by data.mode={self.reading.mode}, which makes 0..{top} "
            f"0..255: their values are {most} or less; add {levels} and leave the mode at exact "
            "to take the stored values as levels"
        )

    def _off(self, wanted: int) -> str:
        assert self.off is not None, "asked by the caller"
        name, value = self.off
        grid = [str(each) for each in brightness(wanted)]
        shown = ", ".join(grid if wanted <= 4 else [*grid[:3], "...", "255"])
        remedy = f"add {self.reading.flag('levels', 256)}"
        nearest = f"{self.reading.flag('mode', 'auto')} for the nearest level"
        if self.reading.given:
            remedy = f"add {nearest}"
        elif self.reading.levels:
            remedy += f", or {nearest}"
        return (
            f"{name}: the value {value} is none of the {wanted} levels, which are shown at "
            f"{shown}; {remedy}"
        )

    # ---- words ----------------------------------------------------------------------------------

    def remarks(self) -> tuple[str, ...]:
        """A line each for what is to be known of how the set was read; none for a plain one."""
        parts = [*self._conversions(), *self._sizes()]
        lines = ["; ".join(parts)] if parts else []
        for what, count in self.kept.items():
            lines.append(
                f"{count} of {self.total} files have {what}, which is not applied: their values "
                f"are taken as they stand{self._remedy(what)}"
            )
        if self.spread is not None:
            most, top = self.spread
            become = (most * 510 + top) // (2 * top)
            lines.append(f"values up to {most} of {top} become at most {become} of 255")
        scale = self.scale()
        lines += self._levels(scale)
        if scale.num_levels == WHITE + 1 and not self.reading.levels and self.stored is None:
            lines += self._hints()
        return tuple(lines)

    def _hints(self) -> list[str]:
        """A line where 8-bit values look like levels of their own."""
        if not self.lit or self.reading.given:
            return []
        if self.extreme:
            flag = self.reading.flag("levels", 2)
            return [f"only the values 0 and 255 occur: {flag} counts them as levels"]
        if self.low is None or self.reading.converts:
            return []
        flag = self.reading.flag("levels", self.low + 1)
        return [f"only values 0..{self.low} occur: {flag} counts them as levels"]

    def _remedy(self, what: str) -> str:
        if self.reading.converts or what != PROFILE:
            return ""
        return f" ({self.reading.flag('mode', 'auto')} makes it sRGB)"

    def _conversions(self) -> list[str]:
        converted, kinds = self.converted, dict(self.done)
        if self.reading.mode == "auto" and 0 < self.greys[0] < self.total:  # beside colour
            kinds["grey to RGB"] = self.greys[0]
            converted += self.greys[1]
        if not kinds:
            return []
        shown = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        return [f"{converted} of {self.total} files converted: {shown}"]

    def _sizes(self) -> list[str]:
        if not self.resized:
            return []
        assert self.reading.size is not None, "else nothing is resized"
        height, width = self.reading.size
        many = "all" if self.resized == self.total else f"{self.resized} of {self.total}"
        grown = f", {self.enlarged} of them enlarged" if self.enlarged else ""
        return [f"{many} resized to {height}x{width} by {self.reading.fit}{grown}"]

    def _levels(self, scale: Scale) -> list[str]:
        count = scale.num_levels
        if self.stored is not None:
            return [] if self.reading.given else [f"{count} levels: the values as they are stored"]
        if count >= 256:
            return []
        if scale.table is None:
            return [f"{count} levels: all values are below {count} and taken as levels themselves"]
        if self._below():
            return [
                f"{count} levels: all values are below {count}, and dark, not levels themselves"
            ]
        if self.between:
            return [
                f"{count} levels: {self.between} of {self.total} files had values between them, "
                "which went to the nearest"
            ]
        return [] if self.reading.given else [f"{count} levels, from black to white"]


def _nearest(num_levels: int) -> Tensor:
    """The level nearest to each brightness, (256,) uint8."""
    values, top = torch.arange(256), num_levels - 1
    return ((values * 2 * top + 255) // 510).to(torch.uint8)
