"""A config, complete and checked: its keys, types and ranges, and what a saved run allows."""

from collections.abc import Mapping, Sequence
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
    as_flag,
    belongs_to_weights,
    refuse_idle,
    refuse_missing_files,
    refuse_nonsense,
)
from scoreflow.schema.request import Flat, Request, flatten, overridden
from scoreflow.schema.section import AUTO, IN_ALL_MODES, WHERE_THE_DATA_FIT, Value

OF_A_CHECKPOINT = {
    "sampling.step": "a checkpoint",
    "likelihood.step": "a checkpoint",
    "sampling.ema_length": "an average",
    "likelihood.ema_length": "an average",
}
"""Keys that name a checkpoint, or what is made of some."""
OF_NETWORK = ("sde", "model")
"""Sections that an imported network cannot do without."""
LIKELIHOOD, COMPRESS = "likelihood", "compress"
READ_IN_FULL = {
    LIKELIHOOD: (LIKELIHOOD,),
    "classify": ("classify", LIKELIHOOD),
    COMPRESS: (COMPRESS,),
}
"""Sections of trained runs, by mode, whose keys are refused where nothing reads them."""
RENEWED: Flat = {"likelihood.method": "dopri5", "likelihood.probes": 2}
"""Keys whose default is not what it was once, and what it was."""
LISTED = 5
"""Differing keys that a refusal names."""
IN_DATA = ("shape", "dtype", "num_levels", "num_classes", "empty_classes", "train", "test")
"""What data.json says that a training depends on; the rest are names and places."""
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
        measured = request.mode if request.mode in (LIKELIHOOD, COMPRESS) else ""
        refuse_idle(request.overrides, flatten(config.to_dict()), measured)
    return config


def refuse_checkpoint(config: Flat, but: str) -> None:
    """Refuse a key that names a checkpoint where none can be meant.

    Args:
        config: what was asked for, by dotted keys.
        but: why none can be, for the message.
    """
    for key, what in OF_A_CHECKPOINT.items():
        if config.get(key):
            raise RequestError(
                f"{key} names {what} of a run that is there, and {but}, got {config[key]}: "
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
    wanted = {**saved, **request.overrides}
    if request.names_experiment:
        wanted = _yielding(request.config, saved, request.overrides)
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


def restarted_config(request: Request, saved: Flat, where: Path) -> tuple[ConfigDict, Changes]:
    """The config of a run that has no weights yet, so that every key is free.

    Args:
        request: a training; what it does not ask for stays as it is in the folder.
        saved: the config there.
        where: its file.

    Returns:
        The config, and what it has otherwise than the one in the folder.

    Raises:
        RequestError: a value is wrong, or sets a key without effect.
    """
    saved = flatten(resolve(completed(saved), str(where)).to_dict())
    wanted = request.config if request.names_experiment else overridden(saved, request.overrides)
    config = resolve(wanted, "the request")
    new = flatten(config.to_dict())
    refuse_idle(request.overrides, new)
    return config, {k: [saved[k], new[k]] for k in sorted(saved) if saved[k] != new[k]}


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
    wanted = flatten(training_config(request).to_dict())
    wanted = _yielding(wanted, saved, request.overrides)
    config = resolve(wanted, "the experiment")
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
    wanted = request.overrides
    if request.names_experiment:
        wanted = _yielding(request.config, saved, request.overrides)
    moved = {key for key in request.overrides if _is_a_place(key) or _is_of_speed(key)}
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
    for section in READ_IN_FULL.get(request.mode, ()):
        asked = {
            key: value for key, value in request.overrides.items() if key.startswith(f"{section}.")
        }
        refuse_idle(asked, flatten(config.to_dict()), section)
    if request.mode == "sample":
        task_keys.refuse_unread_keys(flatten(config.to_dict()), request.overrides)
    return config


def _yielding(wanted: Flat, saved: Flat, overrides: Flat) -> Flat:
    """What an experiment asks for; what it leaves to the device or us stays as it is saved.

    A run that is older than that choice or default, or was told otherwise once, is not asked for
    another value by a file that says nothing of it.
    """
    left = {key for key, each in KEYS.items() if each.automatic} - overrides.keys()
    kept = {key: saved[key] for key in left & saved.keys() if wanted.get(key) == AUTO}
    for key in {*RENEWED} & saved.keys() - overrides.keys():
        if wanted.get(key) == KEYS[key].default:
            kept[key] = saved[key]
    return {**wanted, **kept}


def _is_of_speed(key: str) -> bool:
    """Whether a key may be given another value in all modes, as it changes their speed alone."""
    return key in KEYS and KEYS[key].changes == IN_ALL_MODES


def _is_a_place(key: str) -> bool:
    """Whether a key says where the data lie, not what they are."""
    return key in KEYS and KEYS[key].changes == WHERE_THE_DATA_FIT


def _training_folder(request: Request, config: ConfigDict) -> Path:
    """The folder of the run that a request trains."""
    return request.workdir or Path(f"runs/{request.experiment}-{config.sde.name}")


def frozen(saved: Flat) -> Flat:
    """What weights are trained with: all keys of the weights, but for places of data.

    Args:
        saved: the config of a run, which may be older than some keys.
    """
    flat = flatten(resolve(completed(saved), "the config").to_dict())
    keys = (key for key in sorted(flat) if belongs_to_weights(key) and not _is_a_place(key))
    return {key: flat[key] for key in keys}


def refuse_edited(
    recorded: Flat, saved: Flat, history: Sequence[Mapping[str, Any]], step: int, where: Path
) -> None:
    """Refuse a config.json that is no longer what a checkpoint was trained with.

    What a training was told to do otherwise from a step on is in its history, and no edit.

    Args:
        recorded: values that the checkpoint holds, by dotted key; a part of all, or none.
        saved: the config in the folder.
        history: beside it.
        step: of the checkpoint.
        where: the file of the config.

    Raises:
        RequestError: names the key, both values and what to do.
    """
    if not recorded:
        return
    later = {key: KEYS[key].default for key in LATER if key.split(".")[0] in _sections(recorded)}
    known, now = {**later, **recorded}, frozen(saved)
    then, back = dict(now), dict(now)  # as of the checkpoint, and as of each entry of the history
    edited: dict[str, tuple[Value, Value, str]] = {}
    for entry in reversed(history):
        for key, (old, new) in entry["changes"].items():
            if key not in now:
                continue
            trained = entry["step"] < step and _plain(known.get(key)) == _plain(now[key])
            if _plain(back[key]) != _plain(new) and not trained:
                edited.setdefault(key, (now[key], new, "its history"))
            back[key] = old
            if entry["step"] >= step:
                then[key] = old
    for key in then.keys() & known.keys():
        if _plain(then[key]) != _plain(known[key]):
            edited.setdefault(key, (now[key], known[key], f"the checkpoint of step {step}"))
    if edited:
        raise RequestError(_edited(dict(sorted(edited.items())), where))


def _edited(edited: Mapping[str, tuple[Value, Value, str]], where: Path) -> str:
    told = [f"{k} = {here}, and {who} {there}" for k, (here, there, who) in edited.items()]
    more = f" and {len(told) - LISTED} more" if len(told) > LISTED else ""
    back = ", ".join(f"{key} = {there}" for key, (_, there, _) in list(edited.items())[:LISTED])
    able = next((key for key, (here, there, _) in edited.items() if _may(key, there, here)), None)
    flag = f", then change it by --config.{able}={as_flag(edited[able][0])}" if able else ""
    return (
        f"{where} was edited after training: it has {'; '.join(told[:LISTED])}{more}; put back "
        f"{back}{more}{flag}, or train with the new values in another --workdir"
    )


def _may(key: str, old: Value, new: Value) -> bool:
    """Whether a training may be resumed with that change."""
    fewer = isinstance(old, int) and isinstance(new, int) and new < old
    return bool(KEYS[key].changes) and not (key == "training.num_steps" and fewer)


def facts_of_data(record: Mapping[str, Any]) -> dict[str, Any]:
    """What of data.json the weights depend on; {} of a run without one."""
    return {key: record[key] for key in IN_DATA if key in record}


def refuse_edited_data(
    recorded: Mapping[str, Any], record: Mapping[str, Any], step: int, where: Path
) -> None:
    """Refuse a data.json that is no longer of the data that a checkpoint was trained on.

    Args:
        recorded: what the checkpoint holds of it; {} for nothing.
        record: what the file holds; {} where there is none.
        step: of the checkpoint.
        where: the file.

    Raises:
        RequestError: names the first entry that differs.
    """
    for key in recorded if record else ():
        if record.get(key, recorded[key]) != recorded[key]:
            raise RequestError(
                f"{where} was edited after training: it has {key} = {record[key]!r:.60}, and the "
                f"checkpoint of step {step} {recorded[key]!r:.60}: put that back"
            )


def _sections(flat: Flat) -> set[str]:
    return {key.split(".")[0] for key in flat}


def _plain(value: object) -> object:
    """A value as JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value


def completed(saved: Flat) -> Flat:
    """A run's config with the keys that it is older than: `LATER`, and settings of evaluation."""
    known = flatten(Config().to_dict())
    newer = {
        key: value for key, value in known.items() if key in LATER or not belongs_to_weights(key)
    }
    return {**newer, **RENEWED, **saved}


def resolve(flat: Flat, where: str) -> ConfigDict:
    """A locked ConfigDict with exactly the keys of `Config`, each of its type and range."""
    return Config.of_flat(flat, where).to_config_dict().lock()
