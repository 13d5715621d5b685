"""Train a run: from a config to a folder of checkpoints, interval by interval.

for interval in train("digits", "runs/mine", {"training.num_steps": 500}):
    print(interval.step, interval.loss)
"""

import io
import math
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from scoreflow.data import identity
from scoreflow.data.dataset import Data
from scoreflow.errors import RequestError, Stopped
from scoreflow.factory import assembly
from scoreflow.factory.assembly import Experiment
from scoreflow.factory.data import data_of_run, given_of, keys_of_given
from scoreflow.factory.training import record_of, refuse_edited
from scoreflow.paths import user_path
from scoreflow.runtime import distributed
from scoreflow.runtime.compiling import Compiler
from scoreflow.runtime.curves import Curves
from scoreflow.runtime.device import build_device
from scoreflow.runtime.distributed import Shard
from scoreflow.runtime.environment import environment
from scoreflow.runtime.terminal import tell
from scoreflow.schema.config import as_flag, shown
from scoreflow.schema.experiments import load_experiment
from scoreflow.schema.request import Request, flatten, overridden
from scoreflow.schema.resolve import (
    Changes,
    completed,
    restarted_config,
    resumed_config,
    training_config,
    untrained_config,
)
from scoreflow.storage.atomic_files import Json, check_writable
from scoreflow.storage.checkpoints import averages
from scoreflow.storage.checkpoints.content import Accept
from scoreflow.storage.run_folder import IMPORT, RunDir, Say
from scoreflow.training import initial
from scoreflow.training.posthoc_ema.power_average import averages_of
from scoreflow.training.preview import preview
from scoreflow.training.stopping import Stop
from scoreflow.training.trainer import (
    ALONE,
    Interval,
    Trainer,
    check_parts,
    check_state,
    labels_of,
)

FREE_OF_INIT = (
    "model.dropout",
    "model.conditional",
    "model.num_classes",
    "model.num_levels",
    "model.null_class",
    "model.shape",
)
"""Keys of the network that may be others than those of the weights that it begins with; what
does not fit all the same is refused by its shape."""


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
    goes on bit for bit on a CPU. Nothing happens before the first iteration. Overrides of a run
    that is there may be of keys that may change (docs/runs.md). Ctrl-C and SIGTERM that come while
    steps are taken in the main thread end the loop with a KeyboardInterrupt, after the step is
    saved; a loop that is left by `break` keeps its last checkpoint.

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
    flat = overridden(flatten(found.to_dict()), own)
    given = None if data is None else given_of(flat, data, data_test)
    if given is not None:
        flat |= keys_of_given(flat, given)
    path = user_path(workdir, "the run's folder")
    request = Request("train", path, device, name, flat, own, True)
    command = f"scoreflow.train({name!r}, {str(workdir)!r}, {overrides or {}!r})"
    with opened(request, path, command, given=given) as (experiment, folder):
        trainer = trainer_of(experiment, distributed.shard(), folder.history, tell)
        if folder.checkpoint_steps():
            resume(trainer, experiment, folder, tell)
        yield from intervals(trainer, folder)


@contextmanager
def opened(
    request: Request,
    path: Path,
    command: str,
    say: Say = tell,
    given: Data | None = None,
) -> Iterator[tuple[Experiment, RunDir]]:
    """The experiment of a request and its folder, made or opened by the first process alone.

    What can be refused is, before anything is written: another config, data that are not those
    that the run was trained on, weights to begin with that are of another network.

    Args:
        request: a training.
        path: the run's folder.
        command: what env.json says it was started by.
        say: gets a line for what is to be known of the data, and for what is changed.
        given: the data, where they come from Python.
    """
    config, shard = training_config(request), distributed.shard()
    there = RunDir.open(path) if (path / "config.json").exists() else None
    shard.wait()  # the first process makes the folder that the others ask about
    imported, begun = False, there is None or _has_begun(there)
    changes: Changes = {}
    if there is not None and begun:
        refuse_edited(there, *there.glance())
        saved, where, imported = flatten(there.config), path / "config.json", not there.bound
        config, changes = resumed_config(request, saved, where, imported)
        _refuse_fewer_steps(there, changes)
    elif there is not None:
        config, changes = restarted_config(request, flatten(there.config), path / "config.json")
    if imported and config.training.ema == "power":
        raise RequestError(
            f"training.ema = power averages a training from its first step, and {path} was "
            f"imported: begin a new run with its weights, --config.training.init={path}"
        )
    before = there if begun else None
    check_writable(path, "choose another --workdir")
    if there is not None:
        there.check_writable(training=True)
    experiment, found = _experiment(request, config, path, before, given)
    if not len(experiment.data.train):
        raise RequestError(
            f"{path} has no images (data.name = none), and training needs some: add --data PATH"
        )
    check_parts(experiment.settings, shard.world)
    labels_of(experiment.data, experiment.model)
    if before is not None:
        _refuse_without_a_step(before, experiment, changes)
    # weights to begin with that are others by now are noticed, while nothing else is new
    init = begin_with(experiment, path, there if not changes else before)
    if not distributed.is_main_process():
        shard.wait()
        yield experiment, RunDir.open(path)
        return
    with (
        RunDir.create(path, config.to_dict(), {})
        if there is None
        else RunDir.open(path, training=True)
    ) as folder:
        for line in (*experiment.data.remarks, *experiment.remarks):
            say(line)
        if not begun:
            _begin_anew(folder, config, changes, say)
        # what the data are before a config that is trained with: it tells that training has begun
        folder.write_data(identity.record(experiment.data, config.data.path, path, found))
        if there is not None and imported:  # what it is trained on with is its config from here on
            folder.write_config(config.to_dict())
        if config.training.ema == "power":
            say(_size_of_averages(experiment))
        if begun:
            _change(folder, experiment, changes, say)
        if config.training.batch_size > (count := len(experiment.data.train)):
            say(
                f"training.batch_size = {config.training.batch_size} is more than the {count} "
                "training data: a step shows some of them more than once"
            )
        if init:
            folder.write_result("init", init)
        folder.write_env({"command": command, **_environment(experiment)})
        shard.wait()
        yield experiment, folder


def _size_of_averages(experiment: Experiment) -> str:
    """A line about what the snapshots of averages take on the disk."""
    settings = experiment.settings
    each = averages.size(experiment.network, len(settings.ema_lengths)) / 2**20
    count = -(-settings.num_steps // settings.checkpoint_every)
    return (
        f"training.ema = power: each checkpoint leaves {each:.3g} MiB in averages/, which "
        f"training.keep does not drop: {count * each:.3g} MiB by step {settings.num_steps}"
    )


def _has_begun(folder: RunDir) -> bool:
    """Whether a run has weights, or had some: a checkpoint comes with results/training.json."""
    traces = (folder.path / "results" / "training.json", folder.path / IMPORT)
    return bool(folder.checkpoint_steps()) or any(each.exists() for each in traces)


def _begin_anew(folder: RunDir, config: ConfigDict, changes: Changes, say: Say) -> None:
    """Give a run that has no weights the config that is asked for now; its rows go.

    Raises:
        RequestError: it has some by now.
    """
    if _has_begun(folder):
        raise RequestError(f"{folder.path} was trained just now: give the same command again")
    (folder.path / "results" / "init.json").unlink(missing_ok=True)
    folder.forget_metrics_after(0)  # of data that may have been others
    averages.forget_after(folder.path, 0)
    if changes:
        say(f"{folder.path} has no checkpoint yet, and begins anew with {_told(changes)}")
        folder.write_config(config.to_dict(), [])


def _experiment(
    request: Request,
    config: ConfigDict,
    path: Path,
    there: RunDir | None,
    given: Data | None = None,
) -> tuple[Experiment, str]:
    """The objects of a config, with the data that the run was trained on, and where they are."""
    device, data, found = build_device(request.device), None, ""
    if there is not None and there.bound:
        moved = "data.path" in request.overrides
        moved = moved and config.data.path != there.config["data"].get("path", "")
        data, found = data_of_run(config, device, there.data, path, moved, given)
    return assembly.experiment(config, device, data=data, given=given, home=path), found


def _refuse_fewer_steps(folder: RunDir, changes: Changes) -> None:
    done = max(folder.checkpoint_steps(), default=0)
    old, new = changes.get("training.num_steps", [done, done])
    if new < done:
        raise RequestError(
            f"training.num_steps may grow, but {folder.path} has done {done} of {old} steps, got "
            f"{new}: ask for more, or use an earlier checkpoint by --config.sampling.step=K"
        )


def _refuse_without_a_step(folder: RunDir, experiment: Experiment, changes: Changes) -> None:
    """Refuse to train otherwise from here on where nothing is left to train."""
    idle = [k for k in changes if k.startswith("training.") and k != "training.num_steps"]
    steps = experiment.config.training.num_steps
    if idle and (folder.whole_step(_accept(experiment, folder)) or 0) >= steps:
        raise RequestError(
            f"{folder.path} has done all of its {steps} steps, and nothing is left to train with "
            f"another {', '.join(idle)}: ask for more, --config.training.num_steps=N, or leave "
            "it out"
        )


def _change(folder: RunDir, experiment: Experiment, changes: Changes, say: Say) -> None:
    """Write down what a training does otherwise from here on; rows of what it leaves go.

    Where the checkpoint that a change was made at is lost, it holds from the one before.
    """
    if not changes and not folder.history:
        return
    config, step = experiment.config, folder.whole_step(_accept(experiment, folder)) or 0
    history = [{**each, "step": min(each["step"], step)} for each in folder.history]
    moved = history != folder.history
    if changes:
        date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        history.append({"step": step, "date": date, "changes": changes})
        say(f"from step {step} on: {_told(changes)}")
        if "training.num_steps" in changes and config.training.decay == "cosine":
            say(
                "training.decay = cosine falls to 0 at training.num_steps, and so at another step "
                "from here on: the learning rate is that of a training of the new length"
            )
    if moved or any(key.startswith("training.") for key in changes):
        folder.forget_metrics_after(step)
    if moved or changes:
        folder.write_config(config.to_dict(), history)


def _told(changes: Changes) -> str:
    """Changes as flags have the values: "training.compile auto -> false"."""
    return ", ".join(f"{key} {shown(old)} -> {shown(new)}" for key, (old, new) in changes.items())


def begin_with(experiment: Experiment, path: Path, there: RunDir | None) -> Json:
    """Weights of training.init into a network that has no checkpoint; {} where there is nothing.

    Returns:
        What the run keeps of where they are from.

    Raises:
        RequestError: they cannot be read, are of another network, or no longer what they were.
    """
    source = experiment.config.training.init
    if not source or (there is not None and there.checkpoint_steps()):
        return {}
    found = initial.read(user_path(source, "training.init"))
    if found.state:
        refuse_edited(RunDir.open(found.source), found.step, found.state)
    theirs = completed(flatten(found.config))
    ours = flatten(experiment.config.to_dict())
    of_network = [k for k in theirs if k.startswith("model.") and k not in FREE_OF_INIT]
    differing = [key for key in sorted(of_network, key=_kind_first) if theirs[key] != ours[key]]
    if differing:
        told = ", ".join(f"{key} = {theirs[key]}, got {ours[key]}" for key in differing)
        flags = " ".join(f"--config.{key}={as_flag(theirs[key])}" for key in differing)
        raise RequestError(
            f"training.init: {source} was trained with {told}: its weights would be taken for "
            f"another function; add {flags}"
        )
    initial.load(experiment.network, found)
    if there is not None and (there.path / "results" / "init.json").exists():
        before = there.read_result("init")["sha256"]
        if before != found.sha256:
            raise RequestError(
                f"training.init: the weights of {source} are not those that {path} began with: "
                "begin anew in another --workdir"
            )
    return found.as_result()


def _kind_first(key: str) -> bool:
    """Keys by how telling they are: which network it is, and then what it is like."""
    return key != "model.name"


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
        config = untrained_config(request, saved, path / "config.json")
    training = request.mode == "profile"
    if config.data.name == "none":
        raise RequestError(
            f"--mode {request.mode} needs images, got data.name = none: add --data PATH, a folder "
            "of images or a name on the Hub"
        )
    check_writable(path, "work in a folder of your own: results go to runs/ below it")
    if exists:
        RunDir.open(path).check_writable()
    experiment = assembly.experiment(config, build_device(request.device), training, home=path)
    for line in experiment.remarks:
        tell(line)
    folder = RunDir.open(path) if exists else RunDir.create(path, config.to_dict(), {})
    folder.write_env({"command": command, **_environment(experiment)})
    with folder:
        yield experiment, folder


def _environment(experiment: Experiment) -> Json:
    """Provenance, with what the config leaves to the device as it is there."""
    settings = experiment.settings
    settled = {"precision": settings.precision, "compile": settings.compile}
    return {**environment(str(experiment.device)), "training": settled}


def trainer_of(
    experiment: Experiment,
    shard: Shard = ALONE,
    history: Sequence[Json] = (),
    say: Say = lambda line: None,
) -> Trainer:
    """The training of an experiment, at its beginning.

    Args:
        experiment: what is trained.
        shard: this process's share of every batch.
        history: of the run, as its folder keeps it.
        say: gets a line about a CUDA graph, if one is asked for.
    """
    ema, *more = averages_of(experiment.network, experiment.settings)
    return Trainer(
        experiment.model,
        experiment.network,
        ema,
        experiment.data,
        experiment.objective,
        experiment.settings,
        experiment.config.seed,
        shard,
        eras_of(history),
        say,
        more,
    )


def eras_of(history: Sequence[Json]) -> tuple[tuple[int, int], ...]:
    """(first step, batch size) of each part of a training; () where the size never changed."""
    sizes = [
        (each["step"], *each["changes"]["training.batch_size"])
        for each in history
        if "training.batch_size" in each["changes"]
    ]
    return ((0, sizes[0][1]), *((step, new) for step, _, new in sizes)) if sizes else ()


def resume(trainer: Trainer, experiment: Experiment, folder: RunDir, say: Say) -> None:
    """Take up the last whole checkpoint: weights, averaged weights, optimiser and step.

    Raises:
        RequestError: there is no whole checkpoint, or it is of another network.
    """
    step, state = folder.load_checkpoint(warn=say, accept=_accept(experiment, folder))
    refuse_edited(folder, step, state)
    trainer.load_state(state)
    if distributed.is_main_process():  # a kill between a snapshot and its checkpoint left one
        averages.forget_after(folder.path, step)
    if lost := _lost_rows(folder, step, trainer.settings.log_every):
        say(lost)


def _accept(experiment: Experiment, folder: RunDir) -> Accept:
    """What a checkpoint must hold for the training of a run to go on from it."""
    fresh = (folder.path / IMPORT).exists()
    settings = experiment.settings
    more = len(settings.ema_lengths) - 1 if settings.ema == "power" else 0
    return lambda step, state: check_state(experiment.network, step, state, fresh, more)


def _lost_rows(folder: RunDir, step: int, every: int) -> str:
    """A line about log intervals before a checkpoint whose rows are gone; "" where all are there.

    Args:
        folder: of the run.
        step: of the checkpoint.
        every: steps of an interval.
    """
    if any("training.log_every" in each["changes"] for each in folder.history):
        return ""
    first = folder.read_result("import").get("step") if (folder.path / IMPORT).exists() else 0
    if not isinstance(first, int):
        return ""
    logged = {row["step"] for row in folder.read_metrics()}
    wanted = range(first // every * every + every, step + 1, every)
    lost = [each for each in wanted if each not in logged]
    if not lost:
        return ""
    return (
        f"metrics.jsonl lacks {len(lost)} of the {len(wanted)} rows up to step {step} (the first "
        f"is of step {lost[0]}, the last of {lost[-1]}): it was lost or cut after they were "
        "trained; weights are not affected, and the curves go on without them"
    )


def intervals(trainer: Trainer, folder: RunDir, stop: Stop | None = None) -> Iterator[Interval]:
    """Train to the last step; the first process keeps metrics, curves and checkpoints.

    At SIGINT or SIGTERM the step that is under way is done and saved.

    Args:
        trainer: where it begins.
        folder: of the run.
        stop: that listens already; None to listen while steps are taken, and no longer.

    Raises:
        Stopped: a signal came, and the step is saved; it is a KeyboardInterrupt.
        RunError: a loss was not finite.
    """
    asked = Stop() if stop is None else stop
    steps = trainer.run(asked)
    if stop is None:
        steps = _listening(steps, asked)
    if distributed.is_main_process():
        yield from _kept(steps, trainer, folder)
    else:
        yield from steps
    # a signal that came after the last step, say while that was saved, is one as well
    if trainer.stopped or trainer.shard.asking_any(asked)():
        trainer.shard.wait()  # a process that ends has torchrun end those that are still saving
        # of several processes another one may have got it
        raise Stopped(trainer.step, asked.signal or signal.SIGTERM)


def _listening(steps: Iterator[Interval], stop: Stop) -> Iterator[Interval]:
    while True:
        with stop.listening():
            interval = next(steps, None)
        if interval is None:
            return
        yield interval


def _kept(steps: Iterator[Interval], trainer: Trainer, folder: RunDir) -> Iterator[Interval]:
    """The intervals, their numbers in metrics.jsonl and TensorBoard, and checkpoints when due."""
    settings, start, first = trainer.settings, time.monotonic(), trainer.step
    saved, compiler = first, _for_previews(trainer)
    if first == settings.num_steps:
        _finish(trainer, folder)
    with Curves(folder.path / "tensorboard", first + 1) as curves:
        for each in folder.history:
            if each["step"] == first:
                curves.text("changed", _told(each["changes"]), first)
        for interval in steps:
            seconds = time.monotonic() - start
            rate = settings.batch_size * (interval.step - first) / seconds
            scalars = {k: v for k, v in asdict(interval).items() if k != "step" and _is_number(v)}
            folder.log(interval.step, seconds, **scalars)
            for name, value in {**scalars, "images_per_second": rate}.items():
                curves.scalar(name, value, interval.step)
            if settings.preview_every and interval.step % settings.preview_every == 0:
                _look(trainer, folder, curves, seconds, compiler)
            due = interval.step % settings.checkpoint_every == 0
            if due or interval.step == settings.num_steps:
                saved = _save(trainer, folder)
            yield interval
        if trainer.step > saved:
            _save(trainer, folder)


def _for_previews(trainer: Trainer) -> Compiler:
    """What compiles the averaged network, where that is done without a word: on CUDA."""
    settings, device = trainer.settings, trainer.data.train.device
    return Compiler(settings.compile and device.type == "cuda", settings.compile_mode, tell)


def _look(
    trainer: Trainer, folder: RunDir, curves: Curves, seconds: float, compiler: Compiler
) -> None:
    """A preview of this step: previews/STEP.png, a row of metrics.jsonl, and TensorBoard."""
    found = preview(trainer, compiler)
    folder.write_image(folder.preview_path(trainer.step), found.picture)
    pixels = np.array(Image.open(io.BytesIO(found.picture), formats=("PNG",)).convert("RGB"))
    curves.image("preview", pixels, trainer.step)
    if found.loss is not None:
        folder.log(trainer.step, seconds, held_out_loss=found.loss)
        curves.scalar("held_out_loss", found.loss, trainer.step)


def _save(trainer: Trainer, folder: RunDir) -> int:
    """A checkpoint of the step that is done, and the summary up to it; the step."""
    record, settings = record_of(folder), trainer.settings
    state = {**trainer.state(), **record}
    if settings.ema == "power":  # before the checkpoint: there is none without
        held = trainer.states_of_averages()
        averages.write(folder.path, trainer.step, settings.ema_lengths, held, record)
    folder.save_checkpoint(trainer.step, state, trainer.settings.keep)
    folder.write_result("training", summary(trainer, folder))
    return trainer.step


def _finish(trainer: Trainer, folder: RunDir) -> None:
    """Do what a kill right after the last checkpoint has left undone."""
    folder.drop_before(trainer.step, trainer.settings.keep)
    try:
        step = folder.read_result("training").get("step")
    except RequestError:  # missing, or damaged
        step = None
    if step != trainer.step:
        folder.write_result("training", summary(trainer, folder))


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def summary(trainer: Trainer, folder: RunDir) -> Json:
    """What was trained, when, and on what data: results/training.json, for the report."""
    data, init = trainer.data, folder.path / "results" / "init.json"
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
            "remarks": list(data.remarks),
        },
        "history": folder.history,
        "init": folder.read_result("init") if init.exists() else None,
    }
