"""Horizontal bars as data: values of named things, each of a kind that has a colour."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Bar:
    """A bar.

    Attributes:
        label: its name, on the left.
        value: its length, finite and at least 0.
        kind: what its colour stands for.
        text: written at its end.
    """

    label: str
    value: float
    kind: str
    text: str


@dataclass(frozen=True)
class Bars:
    """Bars below one another, the first on top.

    Attributes:
        title: what it shows.
        x_label: quantity and unit of the lengths.
        bars: from top to bottom.
        kinds: in the order of their colours; the legend has those that occur.
    """

    title: str
    x_label: str
    bars: tuple[Bar, ...]
    kinds: tuple[str, ...]
