"""Train a run: from a config to a folder of checkpoints, interval by interval.

for interval in train("digits", "runs/mine", {"training.num_steps": 500}):
    print(interval.step, interval.loss)
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from scoreflow.data.dataset import Data
from scoreflow.errors import RequestError
from scoreflow.factory import assembly
from scoreflow.factory.assembly import Experiment
from scoreflow.runtime import distributed
from scoreflow.runtime.device import build_device
from scoreflow.runtime.distributed import Shard
from scoreflow.runtime.environment import environment
from scoreflow.schema.experiments import load_experiment
from scoreflow.schema.request import Request, flatten
from scoreflow.schema.resolve import resumed_config, training_config, untrained_config
from scoreflow.storage.atomic_files import Json
from scoreflow.storage.run_folder import RunDir, Say, wrong_network
from scoreflow.training.ema import EMA
from scoreflow.training.trainer import ALONE, Interval, Trainer


def train(
    config: str | Path | ConfigDict,
    workdir: str | Path,
    overrides: dict[str, Any] | None = None,
    device: str = "",
    data: object = None,
    data_test: object = None,
) -> Iterator[Interval]:
    """Train a run, or go on with the one in the folder; an iterator over log intervals.

    Checkpoints and metrics are written as --mode train writes them, and a run that was stopped
    goes on bit for bit on a CPU. Nothing happens before the first iteration.

    Args:
        config: an experiment by its name ("digits"), its file, or a ConfigDict.
        workdir: the run's folder; made if it is not there.
        overrides: other values, as {"training.num_steps": 500}, or a dict a section.
        device: "cpu", "cuda", "cuda:1"; "" for the best one found.
        data: in place of the config's: an array or tensor of images (n, C, H, W) or (n, H, W, C)
            or of vectors (n, D), a pair (array, labels), or a sequence of images or (image,
            label) such as a torch Dataset (docs/python_data.md). The same again to go on.
        data_test: the held-out part of `data`; None to cut it by data.test_fraction.

    Raises:
        RequestError: the config is wrong, or the folder holds a run with another one.
        RunError: a loss was not finite.
    """
    name, found = load_experiment(config)
    own = flatten(overrides or {})
    flat = {**flatten(found.to_dict()), **own}
    given = None if data is None else assembly.given_of(flat, data, data_test)
    if given is not None:
        flat |= assembly.keys_of_given(flat, given)
    path = Path(workdir).expanduser()
    request = Request("train", path, device, name, flat, own, True)
    command = f"scoreflow.train({name!r}, {str(workdir)!r}, {overrides or {}!r})"
    with opened(request, path, command, given) as (experiment, folder):
        trainer = trainer_of(experiment, distributed.shard())
        if folder.checkpoint_steps():
            resume(trainer, experiment, folder, print)
        yield from intervals(trainer, folder)


@contextmanager
def opened(
    request: Request, path: Path, command: str, given: Data | None = None
) -> Iterator[tuple[Experiment, RunDir]]:
    """The experiment of a request and its folder, made or opened by the first process alone.

    Args:
        request: a training.
        path: the run's folder.
        command: what env.json says it was started by.
        given: the data, where they come from Python.
    """
    config, shard = training_config(request), distributed.shard()
    resumes, imported = (path / "config.json").exists(), False
    shard.wait()  # the first process makes the folder that the others ask about
    if resumes:
        there = RunDir.open(path)
        imported = not there.bound
        config = resumed_config(request, flatten(there.config), path / "config.json", imported)
    experiment = assembly.experiment(config, build_device(request.device), given=given, home=path)
    if not len(experiment.data.train):
        if config.data.name == "given":
            raise RequestError(
                f"{path} was trained on data given from Python: go on by "
                "scoreflow.train(..., data=DATA)"
            )
        raise RequestError(
            f"{path} has no images (data.name = none), and training needs some: add --data PATH"
        )
    if not distributed.is_main_process():
        shard.wait()
        yield experiment, RunDir.open(path)
        return
    with (
        RunDir.open(path, training=True)
        if resumes
        else RunDir.create(path, config.to_dict(), {}) as folder
    ):
        if imported:  # what it is trained on with is its config from here on
            folder.write_config(config.to_dict())
        folder.write_env({"command": command, **environment(str(experiment.device))})
        shard.wait()
        yield experiment, folder


@contextmanager
def fresh_run(request: Request, command: str) -> Iterator[tuple[Experiment, RunDir]]:
    """A fresh network of a request's config, and runs/MODE-EXPERIMENT-SDE for its results.

    Args:
        request: for a mode that can do without a trained run.
        command: what env.json says it was started by.
    """
    config = training_config(request)
    path = Path(f"runs/{request.mode}-{request.experiment}-{config.sde.name}")
    exists = (path / "config.json").exists()
    if exists:
        saved = flatten(RunDir.open(path).config)
        untrained_config(request, saved, path / "config.json")
    training = request.mode == "profile"
    if config.data.name == "none":
        raise RequestError(
            f"--mode {request.mode} needs images, got data.name = none: add --data PATH, a folder "
            "of images or a name on the Hub"
        )
    experiment = assembly.experiment(config, build_device(request.device), training, home=path)
    folder = RunDir.open(path) if exists else RunDir.create(path, config.to_dict(), {})
    folder.write_env({"command": command, **environment(str(experiment.device))})
    with folder:
        yield experiment, folder


def trainer_of(experiment: Experiment, shard: Shard = ALONE) -> Trainer:
    """The training of an experiment, at its beginning.

    Args:
        experiment: what is trained.
        shard: this process's share of every batch.
    """
    return Trainer(
        experiment.model,
        experiment.network,
        EMA(experiment.network, experiment.settings.ema_decay),
        experiment.data,
        experiment.objective,
        experiment.settings,
        experiment.config.seed,
        shard,
    )


def resume(trainer: Trainer, experiment: Experiment, folder: RunDir, say: Say) -> None:
    """Take up the last whole checkpoint: weights, averaged weights, optimiser and step.

    Raises:
        RequestError: there is no whole checkpoint, or it is of another network.
    """
    _, state = folder.load_checkpoint(map_location=experiment.device, warn=say)
    try:
        trainer.load_state(state)
    except (RuntimeError, ValueError, KeyError) as error:
        raise wrong_network(folder, error) from error


def intervals(trainer: Trainer, folder: RunDir) -> Iterator[Interval]:
    """Train to the last step; the first process keeps metrics, curves and checkpoints."""
    if not distributed.is_main_process():
        yield from trainer.run()
        return
    from torch.utils.tensorboard import SummaryWriter  # seconds that sampling should not pay for

    settings, start, first = trainer.settings, time.monotonic(), trainer.step
    with SummaryWriter(str(folder.path / "tensorboard"), purge_step=first + 1) as writer:
        for interval in trainer.run():
            seconds = time.monotonic() - start
            rate = settings.batch_size * (interval.step - first) / seconds
            scalars = {key: value for key, value in asdict(interval).items() if key != "step"}
            folder.log(interval.step, seconds, **scalars)
            for name, value in {**scalars, "images_per_second": rate}.items():
                writer.add_scalar(name, value, interval.step)
            due = interval.step % settings.checkpoint_every == 0
            if due or interval.step == settings.num_steps:
                folder.save_checkpoint(interval.step, trainer.state())
                folder.write_result("training", summary(trainer))
            yield interval


def summary(trainer: Trainer) -> Json:
    """What was trained, when, and on what data: results/training.json, for the report."""
    data = trainer.data
    return {
        "step": trainer.step,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "parameters": sum(each.numel() for each in trainer.network.parameters()),
        "data": {
            "name": data.name,
            "num_train": len(data.train),
            "num_test": len(data.test),
            "shape": list(data.train.shape[1:]),
            "num_levels": data.num_levels,
            "num_classes": 0 if data.train_labels is None else len(data.train_labels.unique()),
        },
    }
