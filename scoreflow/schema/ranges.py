"""What a value may be: ranges of numbers, written [low, high), and all names but some."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """Numbers from low to high; `ends` says which ends belong to it, "[)" the lower one alone."""

    low: float
    high: float = math.inf
    ends: str = "[)"

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        above = self.low <= value if self.ends[0] == "[" else self.low < value
        return above and (value <= self.high if self.ends[1] == "]" else value < self.high)

    def __str__(self) -> str:
        return f"{self.ends[0]}{self.low:g}, {self.high:g}{self.ends[1]}"


@dataclass(frozen=True)
class AllBut:
    """Every name but these, for choices that others add to; or every number but these.

    Attributes:
        names: those left out.
        such_as: one of the others, to be named as a remedy; "" for none.
    """

    names: tuple[str | int, ...]
    such_as: str = ""

    def __contains__(self, value: object) -> bool:
        return value not in self.names

    def __str__(self) -> str:
        return f"all but {', '.join(map(str, self.names))}"


COUNT, COUNT_OR_NONE = Range(1, 2**31), Range(0, 2**31)
POSITIVE = Range(0, ends="()")
NOT_NEGATIVE = Range(0)
TOLERANCE = Range(1e-30, 1e30, "[]")  # times any number of dimensions, still a float above 0
LEARNING_RATE = Range(0, 1e30, "(]")  # Adam's step, ten times that at first, is a float32
LENGTH = Range(0, 0.28, "(]")  # of a power average: its profile rises up to 0.2887
LENGTH_OR_NONE = Range(0, 0.28, "[]")
FRACTION = Range(0, 1, "()")
EVALUATIONS = Range(8, 2**31)  # a step takes six, and two more choose the first
