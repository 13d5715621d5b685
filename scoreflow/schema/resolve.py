"""A config, complete and checked: its keys, types and ranges, and what a saved run allows."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from scoreflow.errors import RequestError
from scoreflow.schema import task_keys
from scoreflow.schema.config import (
    EVALUATION,
    KEYS,
    LATER,
    Config,
    belongs_to_weights,
    refuse_idle,
    refuse_missing_files,
    refuse_nonsense,
)
from scoreflow.schema.request import Flat, Request, flatten
from scoreflow.schema.section import WHERE_THE_DATA_FIT

OF_A_CHECKPOINT = ("sampling.step", "likelihood.step")
"""Keys that name a checkpoint."""
OF_NETWORK = ("sde", "model")
"""Sections that an imported network cannot do without."""
LISTED = 5
"""Differing keys that a refusal names."""
Changes = dict[str, list[Any]]
"""What a resumed training does otherwise: [old value, new value] by dotted key."""


def training_config(request: Request) -> ConfigDict:
    """The config of a new run; of one that is there, what was asked for alone.

    Raises:
        RequestError: it is none, sets a key without effect, or names a checkpoint that there
            cannot be yet.
    """
    refuse_checkpoint(request.config, "a training draws and measures at its end")
    config = resolve(request.config, "the experiment")
    refuse_nonsense(flatten(config.to_dict()))
    if request.mode == "train":
        refuse_missing_files(request.overrides)
    resumes = (_training_folder(request, config) / "config.json").exists()
    if request.mode != "train" or not resumes:
        refuse_idle(request.overrides, flatten(config.to_dict()))
    return config


def refuse_checkpoint(config: Flat, but: str) -> None:
    """Refuse a key that names a checkpoint where none can be meant.

    Args:
        config: what was asked for, by dotted keys.
        but: why none can be, for the message.
    """
    for key in OF_A_CHECKPOINT:
        if config.get(key):
            raise RequestError(
                f"{key} names a checkpoint of a run that is there, and {but}, got {config[key]}: "
                "leave it out"
            )


def resumed_config(
    request: Request, saved: Flat, where: Path, imported: bool = False
) -> tuple[ConfigDict, Changes]:
    """The config of the run in a folder, and what the request changes in it.

    Keys that no weight depends on may change, and those that each step reads anew
    (`Key.changes`), where the request sets them by name. What an experiment's file says otherwise
    is refused: a file that is named again must not take back what was changed since.

    Args:
        request: a training.
        saved: the config in the folder.
        where: its file.
        imported: whether the weights are another codebase's, never trained on here: what they are
            trained on with, and how, is still free.

    Raises:
        RequestError: another value of a key that is fixed.
    """
    config = resolve(completed(saved), str(where))
    saved = flatten(config.to_dict())
    wanted = request.config if request.names_experiment else {**saved, **request.overrides}
    if imported:
        free = {k: v for k, v in wanted.items() if k.split(".")[0] not in OF_NETWORK}
        config = resolve({**saved, **free}, "the request")
        saved = flatten(config.to_dict())
    named = {key: request.overrides[key] for key in request.overrides if may_change(key)}
    changed = resolve({**saved, **named}, "the request")
    new = flatten(changed.to_dict())
    differing = [k for k in sorted(saved) if saved[k] != wanted.get(k) and k not in named]
    if differing:
        raise RequestError(_another_config(saved, wanted, differing, where.parent))
    refuse_idle(request.overrides, new)
    return changed, {k: [saved[k], new[k]] for k in sorted(saved) if saved[k] != new[k]}


def may_change(key: str) -> bool:
    """Whether a resumed training may give a key another value."""
    return key in KEYS and (not belongs_to_weights(key) or bool(KEYS[key].changes))


def _another_config(saved: Flat, wanted: Flat, differing: list[str], folder: Path) -> str:
    """The refusal of keys that differ, with what there is to do about them."""
    listed = ", ".join(
        f"{key} ({saved[key]} there, {wanted.get(key)} asked)" for key in differing[:LISTED]
    )
    if len(differing) > LISTED:
        listed += f" and {len(differing) - LISTED} more"
    remedies = ["resume without these"]
    if any(may_change(key) for key in differing):
        remedies[0] = "resume without --config"
        able = next(key for key in differing if may_change(key))
        remedies.append(f"change a key by its own flag, as --config.{able}={wanted.get(able)}")
    if any(not may_change(key) and key.split(".")[0] not in OF_NETWORK for key in differing):
        remedies.append(
            f"begin a new run with the network of this one, --config.training.init={folder}"
        )
    remedies.append("choose another --workdir")
    return f"{folder} holds a run with another config: {listed}; {_or(remedies)}"


def _or(choices: list[str]) -> str:
    return ", or ".join([", ".join(choices[:-1]), choices[-1]])


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
    moved = {key for key in request.overrides if _is_a_place(key)}
    wanted = {k: wanted[k] for k in wanted if not bound or k in moved or not _is_a_place(k)}
    free = moved if bound else {key for key in saved if key.startswith("data.")}
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


def _is_a_place(key: str) -> bool:
    """Whether a key says where the data lie, not what they are."""
    return key in KEYS and KEYS[key].changes == WHERE_THE_DATA_FIT


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
