"""From argv to a mode: flags, the resolved config, and one line with an exit status for what is wrong."""

import difflib
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from scoreflow.errors import RequestError, RunError

ROOT = Path(__file__).resolve().parent.parent
MODES = ("train", "sample", "likelihood")
EVALUATION = ("sampling", "likelihood")
"""Sections that may change after training; the others belong to the weights."""

HELP = """ScoreFlow: diffusion as a discrete VP-SDE: train, sample, exact likelihood.

  python run.py --mode train [--sde vp] [--config configs/digits.py] [--workdir runs/digits-vp]
  python run.py --mode sample --sampler ancestral|pc|ode --workdir DIR
  python run.py --mode likelihood --workdir DIR

  --mode      train (again: resumes), sample or likelihood
  --workdir   the run's folder; default for train: runs/DATA-SDE
  --config    an experiment, configs/*.py; default digits
  --sde       vp                       (short for --config.sde.name)
  --sampler   ancestral, pc or ode     (short for --config.sampling.sampler)
  --device    cpu, cuda, cuda:1, ...; default: the best one found
  --config.SECTION.KEY=VALUE           any key of configs/default.py; after training, those of
                                       sampling and likelihood
"""


def main(argv: list[str]) -> int:
    """Run a command; returns the exit status: 0 done, 1 the run failed, 2 the request was wrong."""
    if {"--help", "-h", "--helpfull", "-help"} & set(argv[1:]):
        print(HELP)
        return 0
    try:
        _run(argv)
    except RequestError as error:
        return _fail(error, 2)
    except (RunError, RuntimeError) as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def _fail(error: Exception, status: int) -> int:
    print(f"run.py: {' '.join(str(error).split())}", file=sys.stderr)
    return status


def _run(argv: list[str]) -> None:
    values, config, overrides = _parse(argv)
    if values.mode not in MODES:
        raise RequestError(_unknown("--mode", values.mode or "", MODES))
    # torch and all that needs it come late: a wrong flag is answered at once
    from scoreflow import build, modes
    from scoreflow.run_dir import RunDir

    device = build.build_device(values.device or "")
    if values.mode == "train":
        workdir = Path(values.workdir or f"runs/{config.data.name}-{config.sde.name}")
        exists = (workdir / "config.json").exists()
        if exists:
            config = _resumed_config(workdir, config, overrides, given="config" in values.given)
        data = _checked(config, device)
        with (
            RunDir.open(workdir, training=True)
            if exists
            else RunDir.create(workdir, config.to_dict(), {}) as run
        ):
            run.write_env(_environment(argv, str(device)))
            modes.train(config, run, device, data)
        return
    run = modes.require_run(values.workdir, values.mode)
    config = _evaluation_config(run.config, overrides)
    data = _checked(config, device)
    model, step = modes.evaluate(config, run, device, data)
    if values.mode == "sample":
        modes.draw(config, config.sampling.sampler, run, model, data, step)
    else:
        modes.measure_likelihood(config, run, model, data, step)


def _checked(config: ConfigDict, device: Any) -> Any:  # noqa: ANN401
    """The data of a config, after every choice in it has been tried: nothing is made before this."""
    from scoreflow import build, modes

    sde = build.build_sde(config)
    settings = build.build_training(config)
    build.choose("sampler", config.sampling.sampler, modes.FINAL_SAMPLERS)
    build.build_solver(config)
    data = build.build_data(config, device)
    network = build.build_network(config, data)
    build.compiled(network, settings)
    model = build.build_model(config, network, sde)
    for name in modes.FINAL_SAMPLERS:
        build.build_drawing(config, name, model, data)
    return data


# ---- flags --------------------------------------------------------------------------------------


class _Values:
    """The flags of one command line."""

    def __init__(self, values: flags.FlagValues, given: set[str]) -> None:
        self.mode: str | None = values.mode
        self.workdir: str | None = values.workdir
        self.device: str | None = values.device
        self.given = given


def _parse(argv: list[str]) -> tuple[_Values, ConfigDict, dict[str, Any]]:
    """Flags, the config of --config with its overrides, and those overrides by their dotted keys."""
    values = flags.FlagValues()
    for name in ("mode", "workdir", "device", "sde", "sampler"):
        flags.DEFINE_string(name, None, "", flag_values=values)
    holder = config_flags.DEFINE_config_file(
        "config", str(ROOT / "configs" / "digits.py"), flag_values=values
    )
    given = {
        argument.lstrip("-").split("=")[0] for argument in argv[1:] if argument.startswith("--")
    }
    try:
        rest = values(argv)
        config = holder.value
    except Exception as error:  # whatever a config file or a parser raises, the request was wrong
        raise RequestError(_explain(error, argv)) from error
    if len(rest) > 1:
        raise RequestError(f"unexpected argument {rest[1]!r}; every option begins with --")
    overrides = dict(config_flags.get_override_values(values["config"]))
    for flag, key in (("sde", "sde.name"), ("sampler", "sampling.sampler")):
        if values[flag].value is not None:
            overrides[key] = values[flag].value
            config.update_from_flattened_dict({key: values[flag].value})
    return _Values(values, given), config, overrides


def _explain(error: Exception, argv: list[str]) -> str:
    """One line for what the flag parser or the config file raised."""
    path = next((a for a in argv[1:] if a.startswith("--config.")), "")
    text = str(error).strip("'\"") or type(error).__name__
    if isinstance(error, (AttributeError, KeyError)) and path:
        keys = _default_keys()
        for argument in argv[1:]:
            key = argument.removeprefix("--config.").split("=")[0]
            if argument.startswith("--config.") and key not in keys:
                return _unknown("config key", key, keys)
    if isinstance(error, FileNotFoundError):
        return f"no such config file: {error.filename or text}; the experiments are configs/*.py"
    return text


def _default_keys() -> tuple[str, ...]:
    from configs import default

    config = default.get_config()
    return tuple(
        k for k, v in config.iteritems(preserve_field_references=False) if k == "seed"
    ) + tuple(
        f"{section}.{key}"
        for section, values in config.items()
        if isinstance(values, ConfigDict)
        for key in values
    )


def _unknown(what: str, got: str, options: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(got, options, n=1, cutoff=0.4)
    if near:
        return f"unknown {what} {got!r}; did you mean {near[0]!r}?"
    return f"unknown {what} {got!r}; it is one of {', '.join(options)}"


# ---- configs of existing runs -------------------------------------------------------------------


def _resumed_config(
    workdir: Path, config: ConfigDict, overrides: dict[str, Any], given: bool
) -> ConfigDict:
    """The config of the run, after refusing a request for another one."""
    from scoreflow.run_dir import RunDir

    saved = _flat(RunDir.open(workdir).config)
    wanted = _flat(config.to_dict()) if given else {**saved, **_plain(overrides)}
    differing = [k for k in sorted(saved.keys() | wanted.keys()) if saved.get(k) != wanted.get(k)]
    if differing:
        listed = ", ".join(f"{k} ({saved.get(k)} there, {wanted.get(k)} asked)" for k in differing)
        raise RequestError(
            f"{workdir} holds a run with another config: {listed}; resume without these, "
            "or choose another --workdir"
        )
    return _unflat(saved)


def _evaluation_config(saved: dict[str, Any], overrides: dict[str, Any]) -> ConfigDict:
    """A run's config with other sampling or likelihood settings."""
    flat = _flat(saved)
    for key, value in _plain(overrides).items():
        if key.split(".")[0] not in EVALUATION and flat.get(key) != value:
            raise RequestError(
                f"{key} belongs to the trained weights ({flat.get(key)} there, {value} asked); "
                f"after training only the sections {' and '.join(EVALUATION)} can change"
            )
        flat[key] = value
    return _unflat(flat)


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def _plain(overrides: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in overrides.items()}


def _unflat(flat: dict[str, Any]) -> ConfigDict:
    """A ConfigDict with the keys of configs/default.py and these values."""
    from configs import default

    config = default.get_config()
    known = _flat(config.to_dict())
    if flat.keys() != known.keys():
        odd = sorted(flat.keys() ^ known.keys())
        raise RequestError(
            f"config.json and configs/default.py differ in the keys {', '.join(odd)}"
        )
    config.update_from_flattened_dict(
        {k: tuple(v) if isinstance(known[k], list) else v for k, v in flat.items()}
    )
    return config.lock()


# ---- where it ran -------------------------------------------------------------------------------


def _environment(argv: list[str], device: str) -> dict[str, Any]:
    """Commit, versions, device and command of this process."""
    import torch

    names = ("torch", "torchdiffeq", "scipy", "numpy", "ml-collections")
    return {
        "command": shlex.join(argv),
        "commit": _commit(),
        "device": device,
        "device_name": torch.cuda.get_device_name(device)
        if device.startswith("cuda")
        else platform.processor(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in names},
    }


def _commit() -> str | None:
    """The commit of the code, marked if files differ from it; None outside a checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
