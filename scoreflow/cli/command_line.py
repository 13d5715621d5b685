"""Parse and validate the command line, before torch is imported."""

import ast
import os
import re
import shlex
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from absl import flags, logging
from ml_collections import config_flags

from scoreflow.errors import RequestError, nearest
from scoreflow.paths import user_path
from scoreflow.schema import experiments
from scoreflow.schema.config import (
    KEYS,
    as_flag,
    refuse_nonsense,
    unknown,
    without_effect,
    without_effect_on_runs,
)
from scoreflow.schema.experiments import CONFIGS
from scoreflow.schema.request import (
    LISTING_FLAGS,
    PACKED,
    SOURCE_FLAGS,
    TARGET_FLAGS,
    Flat,
    Request,
    data_keys,
    flatten,
    listing_of,
    out_of,
    overridden,
    source_of,
    target_of,
)
from scoreflow.schema.request import value as as_value

MODES = (
    "train",
    "sample",
    "likelihood",
    "classify",
    "compare",
    "classifier",
    "equivalence",
    "profile",
    "import",
    "export",
    "table",
    "features",
    "compress",
    "decompress",
)
HIDDEN = ("undefok", "flagfile")
"""Flags that absl gives every program: names that may be wrong, files of more flags."""
REPEATED = ("set",)
"""Flags that may be given again, to say more."""
PATHS = ("data", "data.path")
"""Flags of a path that a short flag and a key give."""
SHORT = {"sde": "sde.name", "sampler": "sampling.sampler"}


def parse(argv: list[str]) -> Request:
    """The request of a command line, or a RequestError that says what is wrong with it."""
    argv = _once(argv)
    _refuse_hidden_flags(argv)
    argv = experiments.located(argv)
    logging.set_verbosity(logging.ERROR)  # what absl warns of is refused here, in one line
    values = _defined()
    try:
        holder = config_flags.DEFINE_config_file(
            "config", str(CONFIGS / "digits.py"), flag_values=values, sys_argv=argv
        )
        rest = values(argv)
        config = flatten(holder.value.to_dict())
        overrides = flatten(dict(config_flags.get_override_values(values["config"])))
    except Exception as error:  # whatever a config file or a parser raises, the request was wrong
        raise RequestError(_explain(error, argv)) from error
    if len(rest) > 1 and values.mode != "table":
        raise RequestError(f"unexpected argument {rest[1]!r}; every option begins with --")
    if values.mode is None:
        raise RequestError(f"--mode is missing: it is one of {', '.join(MODES)}")
    if values.mode not in MODES:
        raise RequestError(unknown("--mode", values.mode, MODES))
    short = {key: values[name].value for name, key in SHORT.items() if values[name].present}
    if values["samplers"].present:
        if values.mode == "train":
            raise RequestError(
                "--samplers is of --mode compare; to keep it in the config of the run write "
                f"--config.compare.samplers={as_flag(tuple(values.samplers.split(',')))}"
            )
        short["compare.samplers"] = values.samplers.split(",")
    if values["data"].present:
        short |= data_keys(values.data)
    _refuse_contradiction(short, overrides)
    if values.workdir == "":
        raise RequestError("--workdir is empty: write a folder, or leave it out")
    workdir = user_path(values.workdir, "--workdir") if values.workdir else None
    given = _config_file(argv) is not None
    experiment = Path(config_flags.get_config_filename(values["config"])).stem
    overrides = {key: _switch(key, value) for key, value in {**overrides, **short}.items()}
    config = _overridden(config, overrides, config_flags.get_config_filename(values["config"]))
    _refuse_without_effect(values.mode, overrides, values.runs is not None)
    refuse_nonsense(overrides)
    device = values.device or ""
    mode = values.mode
    source = source_of(mode, _given(values, (*SOURCE_FLAGS, PACKED, "set", "anyway")), given)
    target = target_of(mode, _given(values, TARGET_FLAGS))
    told = _given(values, (*LISTING_FLAGS, "out"))
    listing = listing_of(mode, told, rest[1:], overrides)
    of_mode = source, target, listing, out_of(mode, told)
    return Request(mode, workdir, device, experiment, config, overrides, given, *of_mode)


def _overridden(config: Flat, overrides: Flat, file: str) -> Flat:
    """The experiment with its overrides; where these name EDM's process, as its file names one."""
    named = {"sde.name": config["sde.name"]}
    if overrides.get("sde.name") == "edm":
        with suppress(RequestError):  # a file that takes an argument is read by the parser alone
            named = {"sde.name": experiments.load_experiment(file)[1].sde.name}
    return overridden({**config, **named}, overrides)


def _switch(key: str, value: object) -> object:
    """The value of a key; of one that the device may decide a truth value, however written."""
    return KEYS[key].convert(value) if key in KEYS and KEYS[key].undecided else value


def _given(values: flags.FlagValues, names: tuple[str, ...]) -> dict[str, Any]:
    """The values of those flags that were given."""
    return {name: values[name].value for name in names if values[name].present}


def _refuse_without_effect(mode: str, overrides: Flat, of_runs: bool) -> None:
    """Refuse an override that could change nothing, for it was meant to."""
    compared = of_runs and mode == "compare"
    for key in overrides:
        instead = without_effect_on_runs(key) if compared else without_effect(key, mode)
        if instead:
            what = f"{mode} --runs" if compared else mode
            raise RequestError(f"{key} has no effect on --mode {what}; {instead}")


def _defined() -> flags.FlagValues:
    """The flags that there are, but for --config and its keys."""
    values = flags.FlagValues()
    for name in (
        "mode",
        "workdir",
        "device",
        "samplers",
        "data",
        *SHORT,
        *SOURCE_FLAGS,
        PACKED,
        *TARGET_FLAGS,
        *LISTING_FLAGS,
    ):
        flags.DEFINE_string(name, None, "", flag_values=values, allow_overwrite=False)
    flags.DEFINE_multi_string("set", None, "", flag_values=values)
    flags.DEFINE_boolean("anyway", None, "", flag_values=values)
    return values


def _refuse_hidden_flags(argv: list[str]) -> None:
    """Refuse flags of the parser's own, and --config twice, of which it would take the last."""
    for argument in argv[1:]:
        flag = argument.partition("=")[0].lstrip("-")
        if argument.startswith("-") and flag in HIDDEN:
            raise RequestError(f"--{flag} is no flag of ScoreFlow; leave it out")
    if len(files := _config_files(argv)) > 1:
        raise RequestError(f"--config is given {len(files)} times ({', '.join(files)}); name one")


def _refuse_contradiction(short: Flat, overrides: Flat) -> None:
    """Refuse a short flag beside another value of the key that it is short for."""
    for key, value in short.items():
        if key in overrides and not _same(key, overrides[key], value):
            raise RequestError(
                f"{key} is given twice: {value!r} by its short flag, and --config.{key}="
                f"{overrides[key]}; leave one out"
            )


def _once(argv: list[str]) -> list[str]:
    """A command line with each flag once.

    Raises:
        RequestError: a flag that is no key is given two values, of which the parser would take the
            last.
    """
    kept, seen, rest = argv[:1], dict[str, str](), iter(argv[1:])
    for argument in rest:
        words = [argument]
        if argument == "--":
            kept += words
            break
        name, assigned, text = argument.lstrip("-").partition("=")
        if not assigned and argument.startswith("-"):
            name, text, following = _without_sign(name)
            words += [text := each for each in islice(rest, following)]
        told = argument.startswith("-") and name not in REPEATED
        earlier = seen.get(name) if told else None
        # of a key the last value counts, as after a shell's variable of flags
        is_key = name.startswith("config")
        if earlier is not None and not is_key and not _same(name, earlier, text):
            raise RequestError(f"--{name} is given twice, {earlier} and {text}; leave one out")
        if earlier is None or (is_key and earlier != text):
            kept += words
        if told:
            seen[name] = text
    return [*kept, *rest]


def _without_sign(name: str) -> tuple[str, str, int]:
    """A flag without "=": its name, the value that it says itself, and words that say it else."""
    for plain, text in ((name, "true"), (name.removeprefix("no"), "false")):
        key = KEYS.get(plain.removeprefix("config."))
        if plain == "anyway" or (key and (key.undecided or isinstance(key.default, bool))):
            return plain, text, 0
    return name, "", 1


def _same(flag: str, one: object, other: object) -> bool:
    """Whether two values of a flag are one: 1e-3 and 0.001, or a path and it with a slash."""
    if one == other or not (isinstance(one, str) and isinstance(other, str)):
        return one == other
    if flag.removeprefix("config.") in PATHS and one and other:
        mine, theirs = (Path(os.path.expanduser(each)).absolute() for each in (one, other))
        return mine == theirs
    return bool(flag.startswith("config.") and _meant(one) == _meant(other))


def _meant(text: str) -> object:
    """A number, a tuple or a truth value, however it is written; else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return as_value(text)


def _config_files(argv: list[str]) -> list[str]:
    """What --config was given, each time."""
    found = []
    for k, argument in enumerate(argv[1:], start=1):
        flag, assigned, value = argument.partition("=")
        if flag in ("-config", "--config"):
            found.append(value if assigned else "".join(argv[k + 1 : k + 2]))
    return found


def _config_file(argv: list[str]) -> str | None:
    """What --config was given, None where it was not."""
    return next(iter(_config_files(argv)), None)


def _explain(error: Exception, argv: list[str]) -> str:
    """One line for what the flag parser or the config file raised."""
    wrong = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL)
    if wrong and wrong[1] in KEYS:
        return KEYS[wrong[1]].wrong_kind(wrong[2])
    file = _config_file(argv)
    if file is not None and not Path(file.split(":")[0]).is_file():
        return _no_file(file)
    for argument in argv[1:]:
        key, assigned, _ = argument.lstrip("-").removeprefix("config.").partition("=")
        if not argument.lstrip("-").startswith("config.") or key in KEYS:
            continue
        if any(known.startswith(f"{key}.") for known in KEYS):
            return f"{key} is a section; set one of its keys, --config.{key}.KEY=VALUE"
        if assigned or isinstance(error, AttributeError | KeyError):
            return unknown("config key", key, sorted(KEYS))
    text = str(error)
    if isinstance(error, KeyError):  # whose text is the repr of its argument
        text = text.strip("'\"")
    none = ("has no attribute 'get_config'", "Unexpected None value", "attribute 'to_dict'")
    if any(sign in text for sign in none):
        return f"{file} has no get_config() that returns a config"
    if "Error whilst parsing config file" in text:  # and a traceback
        return f"{file}: {text.strip().splitlines()[-1]}"
    _, earlier, reason = text.partition("earlier failure to load: ")
    if earlier:
        return f"{file} cannot be loaded: {reason.splitlines()[-1].strip()}"
    if file is not None and isinstance(error, NameError | SyntaxError | ImportError):
        return f"{file} cannot be loaded: {type(error).__name__}: {text}"
    return text or type(error).__name__


def _no_file(file: str) -> str:
    """A --config that is no file: the nearest experiment, or what there is."""
    near = nearest(Path(file).stem, experiments.names(), cutoff=0.6)
    hint = f"did you mean configs/{near}.py?" if near else "the experiments are configs/*.py"
    return f"no such config file: {file or repr(file)}; {hint}"


def program_of(argv: list[str]) -> str:
    """How the command line was called: by run.py of a checkout, or as it is installed."""
    return "python run.py" if Path(argv[0]).name == "run.py" else "scoreflow"


def command_of(argv: list[str]) -> str:
    """The command line as env.json keeps it."""
    return shlex.join(argv)
