"""What a reader of a foreign checkpoint hands over: settings, weights, and what was found."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from scoreflow.schema.config import Config

Weights = Mapping[str, Tensor]
"""Tensors by their names in ScoreFlow's U-Net, float32."""


@dataclass(frozen=True)
class Imported:
    """A foreign checkpoint, read.

    Attributes:
        format: the codebase that wrote it, one of `FORMATS`.
        settings: config keys that it fixes, dotted; all others keep their defaults.
        weights: those that are to be used: the averaged ones where the file has them.
        raw: the raw ones, where the file has both; None where it has one set.
        facts: what was found, by its subject in the user's words ("schedule": "linear, ...").
        step: training steps behind it, 0 where the file does not say.
        also: files that were read besides the one that was named.
    """

    format: str
    settings: dict[str, Any]
    weights: Weights
    raw: Weights | None
    facts: dict[str, str]
    step: int = 0
    also: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Exported:
    """What a writer of a foreign checkpoint is handed.

    Attributes:
        config: of the run.
        weights: by our names.
        event: (C, H, W) of its images, or (D,).
        which: "ema" or "raw".
        step: training steps behind it.
    """

    config: Config
    weights: Weights
    event: tuple[int, ...]
    which: str
    step: int
