"""The content of a report before it is HTML: sections of text, tables, plots and pictures.

All text is plain; the templates escape it.
"""

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from scoreflow.figures.bars import Bars
from scoreflow.figures.fields import Cloud, HeatMap
from scoreflow.figures.plot import Plot

Mark = Literal["", "best", "passed", "failed"]
"""What a cell is marked as."""


@dataclass(frozen=True)
class Picture:
    """A picture inside the page, shown at whole multiples of its pixels.

    Attributes:
        data: of the file, in base64.
        kind: "png" or "gif".
        width: of the file, in pixels.
        height: of the file, in pixels.
        scale: CSS pixels a pixel, on a wide screen.
        narrow: CSS pixels a pixel, on a phone.
        title: what stands below it in bold, "" for nothing.
        caption: the lines below that.
        link: the file that it was made from, relative to the run's folder; "" for none.
    """

    data: str
    kind: str
    width: int
    height: int
    scale: int
    narrow: int
    title: str
    caption: tuple[str, ...] = ()
    link: str = ""

    @property
    def alt(self) -> str:
        """What stands for it where it cannot be seen."""
        return self.title or ", ".join(self.caption)


@dataclass(frozen=True)
class Text:
    """A paragraph.

    Attributes:
        text: of it.
        number: a number to show in large type before it, "" for none.
        small: whether it is an explanation that may be passed over.
    """

    text: str
    number: str = ""
    small: bool = False
    kind: ClassVar = "text"


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: of it.
        sort: the number that it is sorted by; None for its text.
        mark: as what it stands out.
        picture: shown in place of the text.
        link: a file that the text links to, relative to the run's folder; "" for none.
        shade: how deep it is tinted, from 0 (a warning) to 1 (as good as can be); None for not.
    """

    text: str = ""
    sort: float | None = None
    mark: Mark = ""
    picture: Picture | None = None
    link: str = ""
    shade: float | None = None


@dataclass(frozen=True)
class Table:
    """A table with a line of headings.

    Attributes:
        columns: the headings.
        rows: as many cells a row.
        foot: rows below those, which keep their place when the table is sorted.
        note: a sentence below it, "" for none.
        sortable: whether a click on a heading sorts it.
        prose: whether its cells hold sentences, whose lines may be broken.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    foot: tuple[tuple[Cell, ...], ...] = ()
    note: str = ""
    sortable: bool = True
    prose: bool = False
    kind: ClassVar = "table"


@dataclass(frozen=True)
class Figures:
    """Plots, bars and pictures next to each other, as many a line as there is room for."""

    items: tuple[Plot | Bars | HeatMap | Cloud | Picture, ...]
    kind: ClassVar = "figures"


@dataclass(frozen=True)
class Fold:
    """Blocks behind a line that a click opens.

    Attributes:
        title: the line.
        blocks: behind it.
        open: whether it is open at first.
        mark: of the line.
    """

    title: str
    blocks: tuple["Block", ...]
    open: bool = False
    mark: Mark = ""
    kind: ClassVar = "fold"


@dataclass(frozen=True)
class Heading:
    """The title of a part of a section."""

    text: str
    kind: ClassVar = "heading"


Block = Text | Table | Figures | Fold | Heading


@dataclass(frozen=True)
class Section:
    """A part of the page that its contents name.

    Attributes:
        title: of it, unlike those of the others.
        blocks: from top to bottom.
    """

    title: str
    blocks: tuple[Block, ...]

    @property
    def anchor(self) -> str:
        """The id of its heading."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Headline:
    """One of the numbers on top of the page.

    Attributes:
        number: with its error.
        label: what it is.
        anchor: of the section that it is from.
        mark: "failed" for what must be seen.
    """

    number: str
    label: str
    anchor: str
    mark: Mark = ""


def with_error(value: float, error: float | None, form: str = ".4f", sign: str = "") -> str:
    """A number and its standard error."""
    return f"{value:{sign}{form}}" + ("" if error is None else f" ± {error:{form}}")


def number(value: float, error: float | None = None, form: str = ".4f", sign: str = "") -> Cell:
    """A cell with a number and its standard error, sorted by the number."""
    return Cell(with_error(value, error, form, sign), float(value))


def plain(value: object) -> str:
    """A value of a config or result in words: no brackets, quotes or braces."""
    if isinstance(value, dict):
        return "; ".join(f"{key} {plain(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else str(value)
