"""Rows of a source: where an image comes from, its bytes or path, its label."""

from collections.abc import Iterable
from pathlib import Path

Row = tuple[str, bytes | Path | None, int | None]
"""Where an image comes from (for messages), its file's bytes or path, its label."""

Rows = tuple[Iterable[Row], int, str]
"""The rows of a split, how many they are, and where they come from."""
