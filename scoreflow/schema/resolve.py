"""A config, complete and checked: its keys, types and ranges, and what a saved run allows."""

from pathlib import Path

from ml_collections import ConfigDict

from scoreflow.errors import RequestError
from scoreflow.schema import task_keys
from scoreflow.schema.config import (
    EVALUATION,
    LATER,
    Config,
    belongs_to_weights,
    refuse_idle,
)
from scoreflow.schema.request import Flat, Request, flatten

OF_NETWORK = ("sde", "model")
"""Sections that an imported network cannot do without."""
LISTED = 5
"""Differing keys that a refusal names."""


def training_config(request: Request) -> ConfigDict:
    """The config of a new run; of one that is there, what was asked for alone."""
    config = resolve(request.config, "the experiment")
    resumes = (_training_folder(request, config) / "config.json").exists()
    if request.mode != "train" or not resumes:
        refuse_idle(request.overrides, flatten(config.to_dict()))
    return config


def resumed_config(
    request: Request, saved: Flat, where: Path, imported: bool = False
) -> ConfigDict:
    """The config of the run in a folder, after refusing a request for another one.

    Args:
        request: a training.
        saved: the config in the folder.
        where: its file.
        imported: whether the weights are another codebase's, never trained on here: what they are
            trained on with, and how, is still free.
    """
    config = resolve(completed(saved), str(where))
    saved = flatten(config.to_dict())
    wanted = request.config if request.names_experiment else {**saved, **request.overrides}
    if imported:
        free = {k: v for k, v in wanted.items() if k.split(".")[0] not in OF_NETWORK}
        config = resolve({**saved, **free}, "the request")
        saved = flatten(config.to_dict())
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
    refuse_idle(request.overrides, saved)
    return config


def untrained_config(request: Request, saved: Flat, where: Path) -> ConfigDict:
    """The config to evaluate a fresh network with, where a folder may hold its results already."""
    config = training_config(request)
    wanted = flatten(config.to_dict())
    for key, value in wanted.items():
        if belongs_to_weights(key) and saved.get(key) != value:
            raise RequestError(
                f"{where.parent} holds the results of another config: {key} ({saved.get(key)} "
                f"there, {value} asked); remove it first"
            )
    return config


def evaluation_config(
    request: Request, saved: Flat, where: Path, bound: bool = True
) -> ConfigDict:
    """A run's config with other sampling or likelihood settings.

    Args:
        request: for a run that exists.
        saved: its config.
        where: the file of that.
        bound: whether its data belong to its weights. Those of another codebase were trained on
            none of ours: whatever images fit them can be measured.
    """
    saved = flatten(resolve(completed(saved), str(where)).to_dict())
    wanted = request.config if request.names_experiment else request.overrides
    free = set() if bound else {key for key in saved if key.startswith("data.")}
    for key, value in wanted.items():
        if belongs_to_weights(key) and key not in free and saved.get(key) != value:
            raise RequestError(
                f"{key} belongs to the trained weights ({saved.get(key)} there, {value} asked); "
                f"after training only the sections {', '.join(EVALUATION)} can change"
            )
    given = {k: wanted[k] for k in wanted if not belongs_to_weights(k) or k in free}
    config = resolve({**saved, **given}, "the request")
    set_now = {key: wanted[key] for key in free & request.overrides.keys()}
    refuse_idle(set_now, flatten(config.to_dict()))
    if request.mode == "sample":
        task_keys.refuse_unread_keys(flatten(config.to_dict()), request.overrides)
    return config


def _training_folder(request: Request, config: ConfigDict) -> Path:
    """The folder of the run that a request trains."""
    return request.workdir or Path(f"runs/{request.experiment}-{config.sde.name}")


def completed(saved: Flat) -> Flat:
    """A run's config with the keys that it is older than: `LATER`, and settings of evaluation."""
    known = flatten(Config().to_dict())
    newer = {
        key: value for key, value in known.items() if key in LATER or not belongs_to_weights(key)
    }
    return {**newer, **saved}


def resolve(flat: Flat, where: str) -> ConfigDict:
    """A locked ConfigDict with exactly the keys of `Config`, each of its type and range."""
    return Config.of_flat(flat, where).to_config_dict().lock()
