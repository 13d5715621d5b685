"""A parsed command line, and configs by dotted keys.

Wherever a config comes from (a file, overrides, the config.json of a run), `schema.config` takes
it key by key: an unknown key and a value of another type are refused.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Flat = dict[str, Any]
"""A config by dotted keys; tuples as lists, as in JSON."""


@dataclass(frozen=True)
class Source:
    """A checkpoint of another codebase, as --mode import names it.

    Attributes:
        path: a file, a folder, or a repository on the Hugging Face Hub as owner/name.
        format: its codebase, "" to recognise it.
        recipe: a published network whose flags are known, "" for none.
        options: answers to what its reader asks.
        anyway: whether it is kept also where the check on arrival fails.
    """

    path: str
    format: str = ""
    recipe: str = ""
    options: Flat = field(default_factory=dict)
    anyway: bool = False


@dataclass(frozen=True)
class Target:
    """Where --mode export writes a network, and in which format.

    Attributes:
        format: its codebase or container.
        path: a new folder or file.
        weights: "ema" for the averaged ones, "raw" for the others.
    """

    format: str
    path: Path
    weights: str


@dataclass(frozen=True)
class Request:
    """A command line.

    Attributes:
        mode: one of `MODES`.
        workdir: the run's folder, None where it was not given.
        device: its name, "" for the best one found.
        experiment: the name of the config file, without its ending.
        config: the experiment with its overrides.
        overrides: what was given on the command line, short flags among them.
        names_experiment: whether --config was given.
        source: what is imported; None in all other modes.
        target: what is exported to; None in all other modes.
    """

    mode: str
    workdir: Path | None
    device: str
    experiment: str
    config: Flat
    overrides: Flat
    names_experiment: bool
    source: Source | None = None
    target: Target | None = None


def flatten(config: Flat, prefix: str = "") -> Flat:
    """A nested config by its dotted keys."""
    flat: Flat = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat
