"""Parts that several schemas of results share."""

from dataclasses import dataclass, field
from typing import Annotated

from scoreflow.storage.validation import Range

Count = Annotated[int, Range(0)]
Step = Annotated[int, Range(0, 2**53)]
Size = Annotated[float, Range(0)]
"""A number that is not below 0: a time, a cost, a standard error."""
LONGEST_NAME = 200
"""Letters of a file's name without its ending."""


@dataclass(frozen=True)
class FileName:
    """Texts that name a file of a folder, and none elsewhere."""

    def wrong(self, value: str) -> str:
        """The rule, for another text."""
        parted = any(letter in value for letter in "/\\\0") or value in ("", ".", "..")
        return "the name of a file" if parted or len(value) > LONGEST_NAME else ""


Name = Annotated[str, FileName()]


# ---- parts of several results -------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """What a measurement answers, and when it was made."""

    as_: Name = "none"
    hash: str = ""
    date: str = ""


@dataclass(frozen=True)
class Digests:
    """SHA-256 of the images."""

    test: str


@dataclass(frozen=True)
class MeasuredOn:
    """Whose images a result is of."""

    path: str
    name: str
    sha256: Digests


@dataclass(frozen=True)
class Result:
    """What any result may have."""

    kept: Kept | None = None
    measured_on: MeasuredOn | None = None
    step: Step | None = None
    settings: dict[str, object] | None = None
    class_names: list[str] = field(default_factory=list)
    metric: str = ""


@dataclass(frozen=True)
class Rate:
    """A share with its standard error."""

    rate: float
    standard_error: Size


@dataclass(frozen=True)
class Extreme:
    """A datum with a high or low value."""

    value: float
    image: Count = 0
    name: str = ""


@dataclass(frozen=True)
class Auroc:
    """How well a score separates other data from the test set."""

    auroc: Annotated[float, Range(0, 1)]
    standard_error: Size | None = None
