"""The flags of --mode import: which checkpoint, of what codebase, and what its file leaves out."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from scoreflow.errors import RequestError
from scoreflow.schema.request import Flat, Source

SOURCE_FLAGS = {"from": "path", "as": "format", "recipe": "recipe"}
"""Flags of one text, and the field of `Source` that each is."""
DATA_SETS = ("digits", "toy", "none")
"""Data that have a name of their own; all others are images at a path."""
WORDS = {"true": True, "false": False, "True": True, "False": False}


def source_of(mode: str, told: Mapping[str, Any], names_experiment: bool) -> Source | None:
    """The source that the flags name; None in the other modes.

    Args:
        mode: of the command line.
        told: the flags that were given, by name: `SOURCE_FLAGS`, "set" and "anyway".
        names_experiment: whether --config was given.

    Raises:
        RequestError: flags of import in another mode, or import without --from or with --config.
    """
    if mode != "import":
        if told:
            raise RequestError(f"--{next(iter(told))} is of --mode import, got --mode {mode}")
        return None
    if not told.get("from"):
        raise RequestError("--mode import needs --from PATH, the checkpoint of another codebase")
    if names_experiment:
        raise RequestError(
            "--config names an experiment, but the checkpoint says what an imported run is: leave "
            "it out, and set single keys by --config.SECTION.KEY=VALUE"
        )
    texts = {field: told[flag] for flag, field in SOURCE_FLAGS.items() if told.get(flag)}
    return Source(**texts, options=options(told.get("set", ())), anyway=told.get("anyway", False))


def options(settings: Sequence[str]) -> Flat:
    """The answers of --set heads=4,steps=4000, each in the type that it looks like.

    Raises:
        RequestError: one is not written NAME=VALUE.
    """
    found: Flat = {}
    for part in ",".join(settings).split(",") if settings else ():
        name, assigned, text = part.partition("=")
        if not assigned or not re.fullmatch(r"\w+", name.strip()):
            raise RequestError(f"--set takes NAME=VALUE, as heads=4,steps=4000, got {part!r}")
        found[name.strip()] = value(text.strip())
    return found


def value(text: str) -> bool | int | float | str:
    """A text as the truth value or number that it is written like."""
    if text in WORDS:
        return WORDS[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def data_keys(data: str) -> Flat:
    """The config keys of --data: digits, toy, none, or images by a folder or the Hub's name."""
    if data in DATA_SETS:
        return {"data.name": data, "data.path": ""}
    return {"data.name": "images", "data.path": data}
