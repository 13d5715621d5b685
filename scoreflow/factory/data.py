"""The data of a config: loaded, found again where they lie now, or given from Python."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from ml_collections import ConfigDict

from scoreflow.data import identity, toy
from scoreflow.data import loading as data_sets
from scoreflow.data.dataset import Data
from scoreflow.data.given import given_data, no_data
from scoreflow.data.reading.settings import Reading, size_of
from scoreflow.data.stored import sets
from scoreflow.data.stored.images import available_memory
from scoreflow.data.vectors import load_vectors
from scoreflow.errors import RequestError
from scoreflow.factory.choose import choose, choose_key
from scoreflow.paths import user_path
from scoreflow.runtime.device import states_of
from scoreflow.schema.config import AnyConfig, Config
from scoreflow.schema.request import Flat
from scoreflow.schema.training_sections import DataConfig

MEMORY_SHARE = 4
"""Images are kept on the disk where they would take more than 1/4 of the memory that is free."""


def build_data(
    config: AnyConfig,
    device: torch.device,
    bound: bool = True,
    given: Data | None = None,
    home: Path | None = None,
) -> Data:
    """The data of the `data` section, on the device.

    Args:
        config: the config.
        device: where the data shall lie.
        bound: whether they are what the network is trained on; of other images nothing is split.
        given: what data.name = given stands for; None where it is not here.
        home: the run's folder, where images that do not fit into memory are kept decoded, unless
            data.cache names another; None to have them in memory.
    """
    checked, device = Config.of(config), states_of(device)
    c, shape = checked.data, checked.model.shape
    reading = build_reading(c)
    loaders: dict[str, Callable[[], Data]] = {
        "digits": lambda: data_sets.load_digits(c.test_fraction, c.split_seed),
        "toy": lambda: toy.load(c.test_fraction, c.split_seed),
        "images": lambda: _images(c, device, bound, reading, home),
        "vectors": lambda: load_vectors(c.path, c.test_fraction, c.split_seed),
        "given": lambda: given or no_data(shape, c.levels),
        "none": lambda: data_sets.no_images(shape),
    }
    data = choose("data.name", c.name, loaders)()
    train = data.train.to(device)
    test = train if data.test is data.train else data.test.to(device)
    return replace(data, train=train, test=test)


def data_of_run(
    config: ConfigDict,
    device: torch.device,
    record: identity.Record,
    run: Path,
    moved: bool,
    given: Data | None = None,
) -> tuple[Data, str]:
    """The data that a run was trained on, wherever they lie now, and their path.

    Args:
        config: of the run, with a `data.path` that may be another one.
        device: where they shall lie.
        record: what the run knows of them; {} for a run that is older than its record, whose data
            are taken as they are.
        run: its folder.
        moved: whether the user said where they are now.
        given: what they are, where they come from Python.

    Raises:
        RequestError: they are gone, or no longer what they were.
    """
    checked = Config.of(config)
    c, path = checked.data, checked.data.path
    if not record:
        return build_data(checked, device, given=given, home=run), path
    if c.name == "given" and given is None:
        raise RequestError(
            f"the data of {run} were given from Python: pass them again, as "
            f"scoreflow.load({str(run)!r}, data=DATA) or scoreflow.train(..., data=DATA)"
        )
    files = c.name in ("images", "vectors")
    paths = [path] if moved or not files else identity.candidates(record, path, run)
    if not paths:
        raise RequestError(
            f"the data of {run} are gone: {record['absolute']} is not there; say where they are "
            "now by --config.data.path=PATH (drawing samples needs none)"
        )
    refused = []
    for each in paths:
        place = f"at {each}" if each else c.name
        place = "from Python" if c.name == "given" else place
        try:
            at = replace(checked, data=replace(c, path=each))
            data = build_data(at, device, given=given, home=run)
        except RequestError as error:
            refused.append(f"the data of {run}, {place}, cannot be read: {error}")
            continue
        if not (different := identity.differences(record, data)):
            return data, each
        refused.append(f"the data {place} are not those that {run} was trained on: {different}")
    if c.name == "given":
        raise RequestError(
            f"{refused[0]}; pass the same data again, or train on these in a new folder, with "
            f"overrides={{'training.init': {str(run)!r}}} to begin with its network"
        )
    raise RequestError(
        f"{refused[0]}; put them back, say where the old ones are by --config.data.path=PATH, or "
        f"train on these in a new folder, --config.training.init={run} to begin with its network"
    )


def given_of(flat: Flat, data: object, data_test: object = None) -> Data:
    """Data from Python under the settings of a config's `data` section.

    Args:
        flat: the config by its dotted keys.
        data: as in `scoreflow.train`.
        data_test: the same.
    """
    option = {name: flat[f"data.{name}"] for name in ("test_fraction", "split_seed")}
    return given_data(data, data_test, flat.get("data.levels", 0), **option)


def keys_of_given(flat: Flat, given: Data) -> Flat:
    """What a config says of data from Python, so that the run can be used without them."""
    keys: Flat = {
        "data.name": "given",
        "data.path": "",
        "data.levels": given.num_levels or 0,
        "model.shape": list(given.train.shape[1:]),
    }
    if flat["model.conditional"] and not flat.get("model.num_classes"):
        keys["model.num_classes"] = given.num_classes
    return keys


def _images(
    c: DataConfig, device: torch.device, bound: bool, reading: Reading, home: Path | None
) -> Data:
    """Images at data.path, in memory or, where they are more than its share, on the disk."""

    def load() -> Data:
        return data_sets.load_images(
            c.path, c.test_fraction, c.split_seed, not bound, reading, c.labels
        )

    source = user_path(c.path, "data.path")
    folder = user_path(c.cache, "data.cache") if c.cache else home and home / "cache"
    if folder is None or not c.path or not source.exists():
        return load()
    most = 0 if c.cache else available_memory(device) // MEMORY_SHARE
    settings = {**asdict(reading), "whole": not bound, "labels": c.labels}
    settings |= {"test_fraction": c.test_fraction, "split_seed": c.split_seed}
    return sets.loaded(load, source, settings, folder, most)


def build_reading(c: DataConfig) -> Reading:
    """How the `data` section says that image files are read."""
    fit, mode = choose_key("data.fit", c.fit), choose_key("data.mode", c.mode)
    size = size_of(c.size)
    if size is None and fit != "refuse":
        raise RequestError(
            f"data.fit = {fit} needs the size that images get: add --config.data.size=64, say"
        )
    return Reading(size, fit, mode, c.background, c.levels)
