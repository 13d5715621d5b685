"""A config, complete and checked: its keys, types and ranges, and what a saved run allows."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from scoreflow.configs import default
from scoreflow.errors import RequestError
from scoreflow.schema import ranges, task_keys
from scoreflow.schema.request import Flat, Request, flatten

EVALUATION = (
    "sampling",
    "control",
    "classifier",
    "likelihood",
    "compare",
    "equivalence",
    "profile",
)
"""Sections that may change after training; the others belong to the weights."""


LATER = (
    "model.conditional",
    "training.dequantization",
    "training.label_dropout",
    "training.micro_batches",
    "training.recompute",
    "training.compile_mode",
)
"""Keys of the weights that came after the first runs; their defaults do what these did."""


KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "whole numbers, as (1,2,2)",
}
"""What a value must be, by the type of the default."""


LISTED = 5
"""Differing keys that a refusal names."""


def training_config(request: Request) -> ConfigDict:
    """The config of a new run."""
    return resolve(request.config, "the experiment")


def resumed_config(request: Request, saved: Flat, where: Path) -> ConfigDict:
    """The config of the run in a folder, after refusing a request for another one."""
    config = resolve(completed(saved), str(where))
    saved = flatten(config.to_dict())
    wanted = request.config if request.names_experiment else {**saved, **request.overrides}
    differing = [key for key in sorted(saved) if saved[key] != wanted.get(key)]
    if differing:
        listed = ", ".join(
            f"{key} ({saved[key]} there, {wanted.get(key)} asked)" for key in differing[:LISTED]
        )
        if len(differing) > LISTED:
            listed += f" and {len(differing) - LISTED} more"
        raise RequestError(
            f"{where.parent} holds a run with another config: {listed}; resume without these, "
            "or choose another --workdir"
        )
    return config


def untrained_config(request: Request, saved: Flat, where: Path) -> ConfigDict:
    """The config to evaluate a fresh network with, where a folder may hold its results already."""
    config = training_config(request)
    wanted = flatten(config.to_dict())
    for key, value in wanted.items():
        if key.split(".")[0] not in EVALUATION and saved.get(key) != value:
            raise RequestError(
                f"{where.parent} holds the results of another config: {key} ({saved.get(key)} "
                f"there, {value} asked); remove it first"
            )
    return config


def evaluation_config(request: Request, saved: Flat, where: Path) -> ConfigDict:
    """A run's config with other sampling or likelihood settings."""
    saved = flatten(resolve(completed(saved), str(where)).to_dict())
    wanted = request.config if request.names_experiment else request.overrides
    for key, value in wanted.items():
        if key.split(".")[0] not in EVALUATION and saved.get(key) != value:
            raise RequestError(
                f"{key} belongs to the trained weights ({saved.get(key)} there, {value} asked); "
                f"after training only the sections {', '.join(EVALUATION)} can change"
            )
    given = {key: wanted[key] for key in wanted if key.split(".")[0] in EVALUATION}
    config = resolve({**saved, **given}, "the request")
    if request.mode == "sample":
        task_keys.refuse_idle(flatten(config.to_dict()), request.overrides)
    return config


def completed(saved: Flat) -> Flat:
    """A run's config with the keys that it is older than: `LATER`, and settings of evaluation."""
    known = flatten(default.get_config().to_dict())
    newer = {
        key: value
        for key, value in known.items()
        if key in LATER or key.split(".")[0] in EVALUATION
    }
    return {**newer, **saved}


def resolve(flat: Flat, where: str) -> ConfigDict:
    """A locked config with exactly the keys of configs/default.py, each of its type and range."""
    config = default.get_config()
    known = flatten(config.to_dict())
    for key in flat:
        if key not in known:
            raise RequestError(f"{where}: {unknown('config key', key, known)}")
    if missing := sorted(known.keys() - flat.keys()):
        raise RequestError(f"{where} lacks the config keys {', '.join(missing)}")
    for key, value in flat.items():
        try:
            given = _listed(value, known[key]) if isinstance(known[key], list) else value
            config.update_from_flattened_dict({key: given})
        except (TypeError, ValueError) as error:
            raise RequestError(f"{where}: {wrong_kind(key, known[key], value)}") from error
    ranges.check(flatten(config.to_dict()))
    return config.lock()


def _listed(value: object, standard: list[Any]) -> tuple[Any, ...]:
    """A list of as many things as there may be, each of the kind of the default's."""
    things = value if isinstance(value, list | tuple) else None
    kind = type(standard[0])
    if things is not None and kind is float:  # 2 is a number as 2.0 is
        things = [float(thing) if type(thing) is int else thing for thing in things]
    if things is None or any(type(thing) is not kind for thing in things):
        raise TypeError
    return tuple(things)


def wrong_kind(key: str, standard: object, got: object) -> str:
    """What is wrong with a value of another type than its key's default."""
    kind = KINDS[type(standard)]
    if isinstance(standard, list) and isinstance(standard[0], str):
        kind = "names, as ('ddim','ode')"
    if isinstance(standard, list) and isinstance(standard[0], float):
        kind = "numbers, as (0,1.5,3)"
    return f"{key} must be {kind}, got {got!r}"


def unknown(what: str, got: str, options: Iterable[str]) -> str:
    """What is wrong with a name that is none of the options; the nearest, or all of them."""
    options = list(options)
    near = difflib.get_close_matches(got.lower(), options, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"they are {', '.join(options)}"
    return f"unknown {what} {got!r}; {hint}"
