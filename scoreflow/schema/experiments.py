"""Experiments: a config file by its path, or one that comes with ScoreFlow by its name."""

import importlib.util
from pathlib import Path

from ml_collections import ConfigDict

from scoreflow.errors import RequestError
from scoreflow.paths import user_path
from scoreflow.schema.config import Config, unknown

_PACKAGE = Path(__file__).resolve().parents[1]
CONFIGS = next(
    folder
    for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs")
    if folder.is_dir() or folder.parent != _PACKAGE
)
"""Those that come with ScoreFlow, wherever it is installed; beside the package in a checkout whose
symbolic links are none (Windows)."""


def names() -> dict[str, Path]:
    """The experiments that come with ScoreFlow, by name."""
    return {path.stem: path for path in sorted(CONFIGS.glob("[!_]*.py"))}


def find(config: str | Path) -> Path | None:
    """The file of a config: a path, or NAME, NAME.py or configs/NAME.py of one that comes with us.

    None if there is no such file.
    """
    path = user_path(str(config), "--config")
    if path.is_file():
        return path
    shipped = names().get(path.stem)
    return shipped if str(path.parent) in (".", "configs") else None


def located(argv: list[str]) -> list[str]:
    """A command line whose --config names a file, also where it named an experiment of ours."""
    found = list(argv)
    for k, argument in enumerate(argv[1:], start=1):
        flag, assigned, value = argument.partition("=")
        if flag not in ("-config", "--config"):
            continue
        if assigned and (path := find(value)):
            found[k] = f"{flag}={path}"
        elif not assigned and k + 1 < len(argv) and (path := find(argv[k + 1])):
            found[k + 1] = str(path)
    return found


def default_config() -> ConfigDict:
    """Every key at its default."""
    return Config().to_config_dict()


def load_experiment(config: str | Path | ConfigDict) -> tuple[str, ConfigDict]:
    """The name and the config of an experiment.

    Raises:
        RequestError: there is no such file, or it has no get_config().
    """
    if isinstance(config, ConfigDict):
        return "config", config
    path = find(config)
    if path is None:
        raise RequestError(unknown("experiment", str(config), names()))
    spec = importlib.util.spec_from_file_location(f"scoreflow_experiment_{path.stem}", path)
    assert spec is not None, "a Python file has a spec"
    assert spec.loader is not None, "and a loader"
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        found = module.get_config() if hasattr(module, "get_config") else None
    except Exception as error:  # whatever a config file raises, the request was wrong
        raise RequestError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(found, ConfigDict):
        raise RequestError(f"{path} has no get_config() that returns a config")
    return path.stem, found
