"""Schemas of config.json, data.json, env.json, metrics.jsonl and of results that modes read."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from scoreflow.storage.validation import Length, Range, conform, parse_json

MOST = 2**53
"""Steps and counts beyond which a float would round them."""
Count = Annotated[int, Range(0, MOST)]
Step = Annotated[int, Range(0, MOST)]
Scalars = dict[str, int | float]


# ---- config.json --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """What was changed on resuming: [old, new] by dotted key."""

    step: Step
    date: str
    changes: dict[str, tuple[object, object]]


@dataclass(frozen=True)
class ConfigFile:
    """config.json beside its sections, whose keys `schema.resolve` checks."""

    history: list[Change] = field(default_factory=list)


# ---- data.json ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A part of the data; the hashes are in hexadecimal."""

    count: Count
    sha256: str
    content: str
    labels_sha256: str


@dataclass(frozen=True)
class DataFile:
    """What the training data are, and where they were."""

    name: str
    path: str
    absolute: str
    relative: str
    shape: Annotated[list[Annotated[int, Range(1, 2**31)]], Length(1, 3)]
    dtype: Literal["uint8", "uint16", "int16", "int32", "int64", "float32", "float64"]
    num_levels: Annotated[int, Range(2, 2**31)] | None
    num_classes: Annotated[int, Range(0, 2**31)]
    empty_classes: list[Count]
    class_names: list[str]
    train: Part
    test: Part
    remarks: list[str] = field(default_factory=list)


# ---- env.json -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class EnvFile:
    """Where a run ran last; all of it is only shown."""

    command: str = ""
    commit: str | None = None
    device: str | None = None
    device_name: str | None = None
    python: str = ""
    versions: dict[str, str | None] = field(default_factory=dict)


# ---- results that modes read --------------------------------------------------------------------


@dataclass(frozen=True)
class ImportFile:
    """results/import.json, as far as later modes go by it."""

    format: str
    step: Step | None = None


@dataclass(frozen=True)
class InitFile:
    """results/init.json: the weights that a training began with."""

    source: str
    step: Step
    sha256: str


READ: dict[str, type[object]] = {"import": ImportFile, "init": InitFile}
"""By the name of a result."""


# ---- metrics.jsonl ------------------------------------------------------------------------------


@dataclass(frozen=True)
class MetricsRow:
    """A line of metrics.jsonl; the others of its names have finite numbers, too."""

    step: Step
    seconds: Annotated[float, Range(0)] = 0.0


def metrics_row(line: bytes) -> Scalars:
    """A line of metrics.jsonl.

    Raises:
        InvalidError: it is none.
    """
    row = parse_json(line)
    conform(row, MetricsRow)
    return conform(row, Scalars)
