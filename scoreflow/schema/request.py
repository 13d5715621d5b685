"""A parsed command line, and configs by dotted keys.

Wherever a config comes from (a file, overrides, the config.json of a run), `schema.config` takes
it key by key: an unknown key and a value of another type are refused.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scoreflow.errors import RequestError
from scoreflow.paths import user_path

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
class Listing:
    """Which runs --mode table shows, or --mode compare measures, side by side.

    Attributes:
        runs: their folders.
        sort: a column, "-" in front for the greatest first; "" for the likelihood.
        out: a file that it is also written to, None for none.
    """

    runs: tuple[Path, ...]
    sort: str = ""
    out: Path | None = None


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
        listing: what a table shows, or which runs are compared; None in all other modes.
        out: a file that features are written to; None for one in the run's folder.
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
    listing: Listing | None = None
    out: Path | None = None


def flatten(config: Flat, prefix: str = "") -> Flat:
    """A nested config by its dotted keys."""
    flat: Flat = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


OF_EDM: Flat = {"sde.sigma_min": 0.002, "sde.sigma_max": 80.0}
"""EDM's noise scales (Karras et al. 2022, section 3 and Table 1)."""


def overridden(config: Flat, overrides: Flat) -> Flat:
    """A config with other values; EDM's process, set in another's place, brings its noise scales.

    Those of the config are of the process that it names.
    """
    switched = overrides.get("sde.name") == "edm" and config.get("sde.name") != "edm"
    return {**config, **(OF_EDM if switched else {}), **overrides}


# ---- the flags of --mode import ----------------------------------------------------------------

SOURCE_FLAGS = {"from": "path", "as": "format", "recipe": "recipe"}
"""Flags of one text, and the field of `Source` that each is."""
PACKED = "in"
"""The flag of a file of --mode compress, which is the source of --mode decompress."""
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
    if PACKED in told or mode == "decompress":
        return _packed(mode, told)
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


def _packed(mode: str, told: Mapping[str, Any]) -> Source:
    """The file that --mode decompress reads."""
    if mode != "decompress":
        raise RequestError(f"--{PACKED} is of --mode decompress, got --mode {mode}")
    for flag in told:
        if flag != PACKED:
            raise RequestError(f"--{flag} is of --mode import, got --mode {mode}")
    if not told.get(PACKED):
        raise RequestError("--mode decompress needs --in FILE, as --mode compress wrote it")
    return Source(told[PACKED])


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


# ---- the flags of --mode export ----------------------------------------------------------------

TARGET_FLAGS = ("to", "out", "weights")
WITH_OUT = ("table", "features")
"""Other modes that --out names a file for."""
WRITTEN = {"compress": "a new file", "decompress": "a new folder"}
"""What --out is of the modes that write images."""


def target_of(mode: str, told: Mapping[str, str]) -> Target | None:
    """The target that the flags name; None in the other modes.

    Args:
        mode: of the command line.
        told: those of `TARGET_FLAGS` that were given.

    Raises:
        RequestError: flags of export in another mode, or a mode without what it needs.
    """
    if mode in WRITTEN:
        for flag in told:
            if flag != "out":
                raise RequestError(f"--{flag} is of --mode export, got --mode {mode}")
        if not told.get("out"):
            raise RequestError(f"--mode {mode} needs --out, {WRITTEN[mode]}")
        return Target(mode, user_path(told["out"], "--out"), "ema")
    if mode != "export":
        if mode in WITH_OUT:
            told = {flag: value for flag, value in told.items() if flag != "out"}
        if told:
            raise RequestError(f"--{next(iter(told))} is of --mode export, got --mode {mode}")
        return None
    for flag, what in (("to", "diffusers or safetensors"), ("out", "a new folder or file")):
        if not told.get(flag):
            raise RequestError(f"--mode export needs --{flag}, {what}")
    return Target(told["to"], user_path(told["out"], "--out"), told.get("weights", "ema"))


def out_of(mode: str, told: Mapping[str, str]) -> Path | None:
    """The file of --mode features; None where it is left out, and in the other modes.

    Args:
        mode: of the command line.
        told: the flags that were given, by name.

    Raises:
        RequestError: it is called as no npz file is.
    """
    if mode != "features" or "out" not in told:
        return None
    if not told["out"].endswith(".npz"):
        raise RequestError(f"--out must name a .npz file, got {told['out']!r}")
    return user_path(told["out"], "--out")


# ---- the flags of --mode table -----------------------------------------------------------------

LISTING_FLAGS = ("runs", "sort")


def listing_of(
    mode: str, told: Mapping[str, str], folders: Sequence[str], overrides: Flat
) -> Listing | None:
    """The runs of a table, or of a comparison.

    Args:
        mode: of the command line.
        told: those of `LISTING_FLAGS` and "out" that were given.
        folders: arguments without a flag.
        overrides: config keys that were given, which a table has no use for.

    Raises:
        RequestError: flags of a table in another mode, or a table without runs, or a comparison
            of fewer than two.
    """
    of_runs = mode == "compare" and "runs" in told
    if mode != "table":
        for flag in told.keys() & set(LISTING_FLAGS):
            if not of_runs or flag != "runs":
                of = "table and compare" if flag == "runs" else "table"
                raise RequestError(f"--{flag} is of --mode {of}, got --mode {mode}")
    if mode != "table" and not of_runs:
        return None
    named = [part for part in (told.get("runs") or "").split(",") if part]
    runs = tuple(user_path(each, "a run's folder") for each in (*folders, *named))
    if of_runs:
        refuse_no_pairs(runs)
        return Listing(runs)
    if not runs:
        raise RequestError("--mode table needs runs: --mode table DIR DIR, or --runs DIR,DIR")
    for key in overrides:
        raise RequestError(f"{key} has no effect on --mode table; leave it out")
    out = user_path(told["out"], "--out") if told.get("out") else None
    return Listing(runs, told.get("sort") or "", out)


def refuse_no_pairs(runs: Sequence[Path]) -> None:
    """Refuse runs that make no pair: fewer than two, or a folder twice.

    Raises:
        RequestError: with what to do.
    """
    if len(runs) < 2:
        raise RequestError(
            f"--runs takes the folders of two runs or more, as --runs DIR,DIR, got {len(runs)}; "
            "for the samplers of one run: --mode compare --workdir DIR"
        )
    seen: dict[Path, Path] = {}
    for run in runs:
        if (same := seen.setdefault(run.resolve(), run)) is not run:
            raise RequestError(f"--runs names one folder twice, {same} and {run}: leave one out")
