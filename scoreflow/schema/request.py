"""What was asked for: flags and configs, checked key by key before anything else is looked at.

However a config comes (a file, overrides, the config.json of a run), its values are put into the
keys of configs/default.py, so a key that is not there and a value of another type are refused.
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from configs import default
from scoreflow import limits, tasks
from scoreflow.errors import RequestError

ROOT = Path(__file__).resolve().parent.parent
MODES = ("train", "sample", "likelihood", "compare", "classifier", "equivalence", "profile")
SHORT = {"sde": "sde.name", "sampler": "sampling.sampler"}
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
USED = {
    "sample": ("sampling.", "control."),
    "classifier": ("classifier.",),
    "likelihood": ("likelihood.",),
    "compare": ("compare.", "sampling."),
    "equivalence": ("equivalence.", "sampling.batch_size"),
    "profile": ("profile.",),
}
"""How the keys of these sections begin that have an effect on a mode; on training all have."""
IDLE = {
    "compare": (
        "sampling.sampler",  # --samplers, and all else by the budget
        "sampling.seed",
        "sampling.num_images",
        "sampling.steps",
        "sampling.tolerance",
        "sampling.progressive",
        "sampling.task",
    ),
}
"""Keys among them that have none."""
INSTEAD = {("compare", "sampling.sampler"): "name samplers by --samplers ddim,dpm"}
"""What was meant by one of them."""
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

Flat = dict[str, Any]
"""A config by dotted keys; tuples as lists, as in JSON."""


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
    """

    mode: str
    workdir: Path | None
    device: str
    experiment: str
    config: Flat
    overrides: Flat
    names_experiment: bool


def parse(argv: list[str]) -> Request:
    """The request of a command line, or a RequestError that says what is wrong with it."""
    logging.set_verbosity(logging.ERROR)  # what absl warns of is refused here, in one line
    values = flags.FlagValues()
    for name in ("mode", "workdir", "device", "samplers", *SHORT):
        flags.DEFINE_string(name, None, "", flag_values=values)
    try:
        holder = config_flags.DEFINE_config_file(
            "config", str(ROOT / "configs" / "digits.py"), flag_values=values, sys_argv=argv
        )
        rest = values(argv)
        config = flatten(holder.value.to_dict())
        overrides = flatten(dict(config_flags.get_override_values(values["config"])))
    except Exception as error:  # whatever a config file or a parser raises, the request was wrong
        raise RequestError(_explain(error, argv)) from error
    if len(rest) > 1:
        raise RequestError(f"unexpected argument {rest[1]!r}; every option begins with --")
    if values.mode is None:
        raise RequestError(f"--mode is missing: it is one of {', '.join(MODES)}")
    if values.mode not in MODES:
        raise RequestError(_unknown("--mode", values.mode, MODES))
    short = {key: values[name].value for name, key in SHORT.items() if values[name].present}
    if values["samplers"].present:
        short["compare.samplers"] = values.samplers.split(",")
    workdir = Path(values.workdir).expanduser() if values.workdir else None
    given = _config_file(argv) is not None
    experiment = Path(config_flags.get_config_filename(values["config"])).stem
    config, overrides = {**config, **short}, {**overrides, **short}
    _refuse_idle(values.mode, overrides)
    device = values.device or ""
    return Request(values.mode, workdir, device, experiment, config, overrides, given)


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
        tasks.refuse_idle(flatten(config.to_dict()), request.overrides)
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
            raise RequestError(f"{where}: {_unknown('config key', key, known)}")
    if missing := sorted(known.keys() - flat.keys()):
        raise RequestError(f"{where} lacks the config keys {', '.join(missing)}")
    for key, value in flat.items():
        try:
            given = _listed(value, known[key]) if isinstance(known[key], list) else value
            config.update_from_flattened_dict({key: given})
        except (TypeError, ValueError) as error:
            raise RequestError(f"{where}: {_wrong_kind(key, known[key], value)}") from error
    limits.check(flatten(config.to_dict()))
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


def flatten(config: Flat, prefix: str = "") -> Flat:
    """A nested config by its dotted keys."""
    flat: Flat = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def _refuse_idle(mode: str, overrides: Flat) -> None:
    """Refuse an override that could change nothing, for it was meant to."""
    if mode not in USED:
        return
    for key in overrides:
        idle = not key.startswith(USED[mode]) or key in IDLE.get(mode, ())
        if key.split(".")[0] in EVALUATION and idle:
            instead = INSTEAD.get((mode, key), "leave it out")
            raise RequestError(f"{key} has no effect on --mode {mode}; {instead}")


def _config_file(argv: list[str]) -> str | None:
    """What --config was given, None where it was not."""
    found = None
    for k, argument in enumerate(argv[1:], start=1):
        flag, assigned, value = argument.partition("=")
        if flag in ("-config", "--config"):
            found = value if assigned else "".join(argv[k + 1 : k + 2])
    return found


def _explain(error: Exception, argv: list[str]) -> str:
    """One line for what the flag parser or the config file raised."""
    keys = flatten(default.get_config().to_dict())
    wrong = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL)
    if wrong and wrong[1] in keys:
        return _wrong_kind(wrong[1], keys[wrong[1]], wrong[2])
    file = _config_file(argv)
    if file is not None and not Path(file.split(":")[0]).is_file():
        return _no_file(file)
    for argument in argv[1:]:
        key, assigned, _ = argument.lstrip("-").removeprefix("config.").partition("=")
        if not argument.lstrip("-").startswith("config.") or key in keys:
            continue
        if any(known.startswith(f"{key}.") for known in keys):
            return f"{key} is a section; set one of its keys, --config.{key}.KEY=VALUE"
        if assigned or isinstance(error, AttributeError | KeyError):
            return _unknown("config key", key, keys)
    text = str(error)
    if isinstance(error, KeyError):  # whose text is the repr of its argument
        text = text.strip("'\"")
    if "has no attribute 'get_config'" in text or "Unexpected None value" in text:
        return f"{file} has no get_config() that returns a config"
    if "Error whilst parsing config file" in text:  # and a traceback
        return f"{file}: {text.strip().splitlines()[-1]}"
    _, earlier, reason = text.partition("earlier failure to load: ")
    if earlier:
        return f"{file} cannot be loaded: {reason.splitlines()[-1].strip()}"
    return text or type(error).__name__


def _wrong_kind(key: str, standard: object, got: object) -> str:
    kind = KINDS[type(standard)]
    if isinstance(standard, list) and isinstance(standard[0], str):
        kind = "names, as ('ddim','ode')"
    if isinstance(standard, list) and isinstance(standard[0], float):
        kind = "numbers, as (0,1.5,3)"
    return f"{key} must be {kind}, got {got!r}"


def _no_file(file: str) -> str:
    """A --config that is no file: the nearest experiment, or what there is."""
    stems = {path.stem: path for path in (ROOT / "configs").glob("[!_]*.py")}
    near = difflib.get_close_matches(Path(file).stem.lower(), stems, n=1)
    hint = f"did you mean configs/{near[0]}.py?" if near else "the experiments are configs/*.py"
    return f"no such config file: {file or repr(file)}; {hint}"


def _unknown(what: str, got: str, options: Iterable[str]) -> str:
    options = list(options)
    near = difflib.get_close_matches(got.lower(), options, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"they are {', '.join(options)}"
    return f"unknown {what} {got!r}; {hint}"
