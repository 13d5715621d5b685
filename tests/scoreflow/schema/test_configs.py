"""Every experiment builds, and every key of a config does something."""

import contextlib
import importlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scoreflow.cli.modes import (
    classifier,
    compare,
    equivalence,
    likelihood,
    profile,
    sample,
    train,
)
from scoreflow.cli.modes.applications import (
    classify,
    compress,
    detection,
    feature_sweep,
    features,
    progressive,
)
from scoreflow.configs import default
from scoreflow.errors import RequestError, RunError
from scoreflow.factory.assembly import build_sde, experiment
from scoreflow.factory.data import build_data
from scoreflow.factory.editing import build_control, build_user_reading
from scoreflow.factory.model import build_network
from scoreflow.factory.sampling import SAMPLERS, build_drawing
from scoreflow.factory.training import build_training
from scoreflow.schema import request, resolve, task_keys
from scoreflow.schema.config import Config
from scoreflow.schema.section import Section
from scoreflow.storage.run_folder import RunDir
from scoreflow.trained_run import TrainedRun, asked_length, asked_step
from scoreflow.training.settings import TrainingSettings
from scoreflow.training_run import begin_with

EXPERIMENTS = sorted(p.stem for p in (Path(__file__).parents[3] / "configs").glob("[a-z]*.py"))
SHAPES = {"cifar10": (32, 32, 3), "mnist": (28, 28), "mnist_small": (28, 28), "default": (32, 32),
          "mnist_likelihood": (28, 28)}  # fmt: skip
CPU = torch.device("cpu")


def write_parquet(folder, shape, count=4):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pixels = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
    cells = []
    for image in pixels:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, format="PNG")
        cells.append({"bytes": stream.getvalue(), "path": None})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for split in ("train", "test"):
        table = pa.table({"img": pa.array(cells, kind), "label": [0] * count})
        parquet.write_table(table, folder / f"{split}-0.parquet")


def config_of(name, **changes):
    flat = request.flatten(
        importlib.import_module(f"scoreflow.configs.{name}").get_config().to_dict()
    )
    flat |= {key.replace("__", "."): value for key, value in changes.items()}
    return resolve.resolve(flat, name)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_builds(name, tmp_path):
    changes = {}
    if name in SHAPES:
        write_parquet(tmp_path, SHAPES[name])
        changes = {"data__name": "images", "data__path": str(tmp_path)}
    if name == "vectors":
        np.save(tmp_path / "table.npy", np.random.default_rng(0).normal(size=(20, 3)))
        changes = {"data__path": str(tmp_path / "table.npy")}
    made = experiment(config_of(name, **changes), CPU)
    event = tuple(made.data.train.shape[1:])
    parameters = sum(p.numel() for p in made.network.parameters())
    if name == "cifar10":
        assert event == (3, 32, 32)
        assert parameters == 35_746_307  # the published network
    else:
        x = torch.zeros(2, *event, dtype=torch.float64)
        t = torch.tensor([1.0, float(made.model.sde.num_steps)], dtype=torch.float64)
        made.network.eval()
        with torch.no_grad():
            assert made.model(x, t).eps.shape == x.shape


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_changes_keys_and_adds_none(name):
    flat = request.flatten(
        importlib.import_module(f"scoreflow.configs.{name}").get_config().to_dict()
    )
    assert flat.keys() == request.flatten(default.get_config().to_dict()).keys()


def test_the_same_seed_gives_the_same_network():
    networks = [
        experiment(config_of("toy", seed=seed), CPU).network.state_dict() for seed in (0, 0, 1)
    ]
    assert all(torch.equal(networks[0][k], networks[1][k]) for k in networks[0])
    assert not all(torch.equal(networks[0][k], networks[2][k]) for k in networks[0])


# ---- no dead keys: each is read by something


@pytest.fixture
def read(monkeypatch):
    """The keys that are read of typed sections, one by one."""
    names = set()

    def noting(section, name):
        names.update(key.name for key in type(section).declarations() if key.option == name)
        return object.__getattribute__(section, name)

    monkeypatch.setattr(Section, "__getattribute__", noting)
    return names


class Tracked:
    """A ConfigDict that notes which keys are read, one by one."""

    def __init__(self, config, read, prefix=""):
        self._config, self._read, self._prefix = config, read, prefix

    def __getitem__(self, key):
        return getattr(self, key)

    def __getattr__(self, key):
        value = getattr(self._config, key)
        if hasattr(value, "to_dict"):
            return Tracked(value, self._read, f"{self._prefix}{key}.")
        self._read.add(self._prefix + key)
        return value

    def keys(self):
        return self._config.keys()

    def to_dict(self):
        return self._config.to_dict()


SHORT = {
    "training__num_steps": 2,
    "training__batch_size": 4,
    "training__log_every": 1,
    "training__checkpoint_every": 2,
    "sampling__num_images": 2,
    "sampling__steps": 2,
    "sampling__tolerance": 0.5,
    "likelihood__num_images": 2,
    "likelihood__nodes": 8,
    "likelihood__checked": 1,
    "likelihood__ledger": True,
    "likelihood__terms": 2,
    "classify__times": 16,
    "profile__num_steps": 1,
    "profile__warmup": 1,
    "equivalence__num_images": 8,
    "equivalence__train_steps": 2,
    "equivalence__steps": 4,
    "classifier__num_steps": 2,
    "classifier__batch_size": 4,
    "compare__nfe": (5,),
    "compare__num_images": 8,
    "features__layer": "stem",
    "features__layers": ("stem",),
    "features__times": (1.0,),
    "features__beside": ("pixels",),
    "features__num_images": 8,
    "features__train_images": 80,
    "features__repeats": 2,
    "features__clusters": 2,
    "compress__num_images": 2,
    "compress__steps": 2,
    "compress__fit_images": 2,
}


REFUSED_OF_POINTS = ("classifier", "classify", "compress")
MODES = {
    "sample": sample.sample,
    "likelihood": likelihood.assess,
    "classify": classify.classify,
    "classifier": classifier.train,
    "compare": compare.compare,
    "equivalence": lambda run: equivalence.certify(run.experiment, run.folder, run.model, 2),
    "profile": lambda run: profile.profile(run.experiment, run.folder),
    "features": features.assess,
    "feature_sweep": feature_sweep.sweep,
    "compress": lambda run: compress.compress(run, run.folder.path / "a.sf", "run"),
}


def an_order(name, *_):
    row = {"sampler": name, "kind": "flow", "stated": 2, "order": 2.0, "order_error": 0.1}
    found = {"over": [4, 8, 16], "steps": [4, 8, 16], "errors": [0.16, 0.04, 0.01]}
    return {**row, **found, "errors_error": [0.0, 0.0, 0.0], "seconds": 0.0}


def test_every_key_is_read_by_a_run(tmp_path, monkeypatch, read):
    class TrackedSettings(TrainingSettings):
        def __getattribute__(self, name):
            if not name.startswith("_"):
                read.add(f"training.{name}")
            return super().__getattribute__(name)

    monkeypatch.setattr("scoreflow.factory.training.TrainingSettings", TrackedSettings)
    # what takes long and reads no key that is not read before it: identities, orders
    monkeypatch.setattr("scoreflow.certificate.certificate.certify", lambda *_: iter(()))
    monkeypatch.setattr("scoreflow.evaluation.convergence_order.measured_order", an_order)
    unet = {"model__channels": 8, "model__num_groups": 4, "model__blocks": 1}
    configs = [
        config_of("toy", sde__schedule="linear", model__width=8, training__times="real",
                  training__ema="power", compare__ema_lengths=(0.0, 0.1), compare__ema_images=2,
                  **SHORT),
        config_of("digits", sde__schedule="log_linear", sampling__corrector="langevin",
                  sampling__clip=True, model__conditional=True, sampling__label=3, **unet,
                  **SHORT),
    ]  # fmt: skip
    for number, config in enumerate(configs):
        tracked = Tracked(config, read)
        with RunDir.create(tmp_path / str(number), config.to_dict(), {}) as run:
            made = experiment(tracked, CPU)
            # splatting the section into TrainingSettings is no reading
            train.train(made, run)
        for name in SAMPLERS:
            build_drawing(tracked, name, made.model, made.data)
        for name, mode in MODES.items():
            # points in the plane have no classes, and no levels
            refused = RequestError if name in REFUSED_OF_POINTS and number == 0 else RunError
            # after two steps of training the laws of the samplers do differ
            with contextlib.suppress(RunError, refused):
                mode(TrainedRun(RunDir.open(tmp_path / str(number)), experiment(tracked, CPU)))
    for task in set(task_keys.TASKS) - {"colorize"}:  # which reads no key of its own
        asked = config_of("digits", sampling__task=task)
        build_control(Tracked(asked, read), made.data)
    assert progressive.asked_of(Tracked(config_of("digits"), read)).part_bits == 7
    tracked = Config.of(Tracked(config_of("digits"), read))
    for section in (tracked.likelihood, tracked.features):
        build_user_reading(section, tracked.data)
    build_user_reading(tracked.likelihood, tracked.data)
    detection.reference(tracked, made.data)
    residual = config_of("digits", model__prediction="residual", **unet)
    build_network(Tracked(residual, read), made.data)
    write_parquet(tmp_path, (16, 16))
    images = config_of("digits", data__name="images", data__path=str(tmp_path), **unet)
    build_data(Tracked(images, read), CPU)
    build_sde(Tracked(config_of("digits", sde__name="edm"), read))
    own = {"sde__schedule": "betas", "sde__num_steps": 2, "sde__betas": [0.1, 0.2]}
    build_sde(Tracked(config_of("digits", **own), read))
    named = config_of("toy", training__init=str(tmp_path / "0"), model__width=8)
    tracked = experiment(named, CPU)
    begin_with(replace(tracked, config=Tracked(named, read)), tmp_path / "2", None)
    assert asked_step(Tracked(named, read), "") == asked_length(Tracked(named, read), "") == 0
    known = request.flatten(default.get_config().to_dict()).keys()
    assert set(known) - read == set()


def test_the_tracker_would_find_a_dead_key(read):
    tracked = Tracked(config_of("toy"), read)
    build_training(tracked)
    assert read == {"training.precision", "training.compile", "model.name"}  # by device
    read.clear()
    tracked.sampling.to_dict()
    assert read == set()
    assert tracked.sampling["seed"] == 0
    assert read == {"sampling.seed"}
    typed = Config.of(tracked)
    assert Config.of(typed) is typed
    assert typed.to_dict() == tracked.to_dict()
    assert read == {"sampling.seed"}
    assert (typed.seed, typed.sde.name) == (0, "vp")
    assert read == {"sampling.seed", "seed", "sde.name"}
