"""An encoding that was stopped, kept in a file so that the same command goes on after it."""

import base64
import binascii
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scoreflow.storage.atomic_files import Json, write_atomic

EVERY = 5.0
"""Seconds between two states that are kept, at the least."""


@dataclass(frozen=True)
class Halfway:
    """A stack with some batches on it.

    Attributes:
        words: all of it, those that were lent among them.
        least: fewest words there have been (`AnsStack.least`).
        net_bits: that each batch added, the last batch first; so many are done.
    """

    words: NDArray[np.uint32]
    least: int
    net_bits: list[int] = field(default_factory=list)


@dataclass
class Keeper:
    """Where the state of one encoding is kept.

    Attributes:
        folder: of the file.
        question: all that the bytes of the stack depend on.
    """

    folder: Path
    question: Json

    def __post_init__(self) -> None:
        asked = json.dumps(self.question, sort_keys=True).encode()
        self._asked = hashlib.sha256(asked).hexdigest()
        self._kept_at = time.monotonic()

    @property
    def path(self) -> Path:
        """The file, which each question has for itself."""
        return self.folder / f"compression-{self._asked[:8]}.part"

    def begun(self) -> Halfway | None:
        """What was kept; None where there is nothing, or what is there is damaged."""
        try:
            held = json.loads(self.path.read_bytes())
            state = held["state"]
            if held["asked"] != self._asked or held["sha256"] != _digest(state):
                return None
            words = np.frombuffer(base64.b64decode(state["words"], validate=True), dtype="<u4")
            return Halfway(words.astype(np.uint32), state["least"], state["net_bits"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError, binascii.Error):
            return None

    def __call__(self, state: Callable[[], Halfway]) -> None:
        """Keep the state, unless one was kept a moment ago."""
        if time.monotonic() - self._kept_at < EVERY:
            return
        found = state()
        told = {
            "words": base64.b64encode(found.words.astype("<u4").tobytes()).decode(),
            "least": found.least,
            "net_bits": found.net_bits,
        }
        held = {"asked": self._asked, "state": told, "sha256": _digest(told)}
        write_atomic(self.path, json.dumps(held).encode())
        self._kept_at = time.monotonic()

    def done(self) -> None:
        """Forget it: the file is written."""
        self.path.unlink(missing_ok=True)


def _digest(state: Json) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
