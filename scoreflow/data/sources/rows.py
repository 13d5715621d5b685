"""Rows of a source: where an image comes from, its bytes, path or array, its label."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scoreflow.errors import RequestError, first_line

Array = np.ndarray[Any, Any]
Source = bytes | Path | Array | None
"""An image: its file's bytes or path, or its values (H, W) or (H, W, C), bool, uint8 or uint16."""

Row = tuple[str, Source, object]
"""Where an image comes from (for messages), the image, its label as it stands there."""

Rows = tuple[Iterable[Row], int, str]
"""The rows of a split, how many they are, and where they come from."""

MOST_CHANNELS = 4
"""An axis of so many entries at most is taken for that of channels."""

MOST_SHOWN = 4
"""So many names a message lists."""


@dataclass(frozen=True)
class Found:
    """What lies at a path, by splits; no image is read before its row is asked for.

    Attributes:
        name: of the data set.
        root: what the names of rows begin with, and are shown without.
        splits: the rows of "train", "validation" and "test"; of "" what belongs to no split.
        classes_by: what the labels are: "folder", "column `label`"; "" where there are none.
        class_names: the names of labels 0, 1, ...; empty where the labels name themselves.
        unlabelled: why there are no labels, where that is worth a line.
        sure: whether the user said where the labels are, so that many of them are classes too.
        remarks: a line each for what is to be known of how the path was understood.
        left_out: files, below the root, that hold no image of this data set.
    """

    name: str
    root: str
    splits: dict[str, Rows]
    classes_by: str = ""
    class_names: tuple[str, ...] = ()
    unlabelled: str = ""
    sure: bool = False
    remarks: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def damaged(where: str, kind: str, error: Exception) -> RequestError:
    """The refusal of a file that cannot be read.

    Args:
        where: it lies.
        kind: what it should be, "zip archive" say.
        error: what was raised.
    """
    why = shown(first_line(error))
    return RequestError(f"{where}: not a whole {kind} ({why}); replace or remove it")


def joined(parts: list[Rows]) -> Rows:
    """The rows of several parts, one after the other."""
    if len(parts) == 1:
        return parts[0]

    def rows() -> Iterator[Row]:
        for part in parts:
            yield from part[0]

    return rows(), sum(total for _, total, _ in parts), ", ".join(where for *_, where in parts)


def some(names: Iterable[str]) -> str:
    """The first names of many: "a, b, c, d and 3 more"."""
    each = list(names)
    first, more = each[:MOST_SHOWN], len(each) - MOST_SHOWN
    return ", ".join(map(shown, first)) + (f" and {more} more" if more > 0 else "")


def named(columns: Iterable[str]) -> str:
    """The first names of many columns: "`a`, `b`"."""
    return some(f"`{column}`" for column in columns)


def shown(name: str) -> str:
    """A file's name as it can be printed: one line, "?" for what is no character."""
    return "".join(each if each.isprintable() else "?" for each in name)
