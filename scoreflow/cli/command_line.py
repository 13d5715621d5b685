"""Parse and validate the command line, before torch is imported."""

import difflib
import re
import shlex
from pathlib import Path

from absl import flags, logging
from ml_collections import config_flags

from scoreflow.configs import default
from scoreflow.errors import RequestError
from scoreflow.schema import experiments
from scoreflow.schema.experiments import CONFIGS
from scoreflow.schema.request import Flat, Request, flatten
from scoreflow.schema.resolve import EVALUATION, unknown, wrong_kind

MODES = ("train", "sample", "likelihood", "compare", "classifier", "equivalence", "profile")


SHORT = {"sde": "sde.name", "sampler": "sampling.sampler"}


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


def parse(argv: list[str]) -> Request:
    """The request of a command line, or a RequestError that says what is wrong with it."""
    argv = experiments.located(argv)
    logging.set_verbosity(logging.ERROR)  # what absl warns of is refused here, in one line
    values = flags.FlagValues()
    for name in ("mode", "workdir", "device", "samplers", *SHORT):
        flags.DEFINE_string(name, None, "", flag_values=values)
    try:
        holder = config_flags.DEFINE_config_file(
            "config", str(CONFIGS / "digits.py"), flag_values=values, sys_argv=argv
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
        raise RequestError(unknown("--mode", values.mode, MODES))
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
        return wrong_kind(wrong[1], keys[wrong[1]], wrong[2])
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
            return unknown("config key", key, keys)
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


def _no_file(file: str) -> str:
    """A --config that is no file: the nearest experiment, or what there is."""
    stems = experiments.names()
    near = difflib.get_close_matches(Path(file).stem.lower(), stems, n=1)
    hint = f"did you mean configs/{near[0]}.py?" if near else "the experiments are configs/*.py"
    return f"no such config file: {file or repr(file)}; {hint}"


def command_of(argv: list[str]) -> str:
    """The command line as env.json keeps it."""
    return shlex.join(argv)
