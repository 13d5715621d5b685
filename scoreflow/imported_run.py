"""A checkpoint of another codebase as a run: its settings and weights, checked on arrival.

run = import_network("ddpm-cifar10-32", "runs/google", data="cifar10/test")
run.sample(16, sampler="dpm", steps=20)

The folder appears whole, or not at all: it is made under another name and renamed at the end.
"""

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import Tensor, nn

from scoreflow.data.levels import points
from scoreflow.errors import RequestError, RunError
from scoreflow.factory import assembly
from scoreflow.factory.assembly import Experiment
from scoreflow.factory.model import build_network
from scoreflow.factory.sampling import build_drawing
from scoreflow.factory.training import build_objective
from scoreflow.generation.generate import draw_samples
from scoreflow.interop import formats, hub
from scoreflow.interop.arrival_check import Arrival, check
from scoreflow.interop.imported import Imported, Weights
from scoreflow.interop.other_readings import Reading, others_of
from scoreflow.likelihood.dequantization import Dequantizer, at_most_bits
from scoreflow.models.score_model import ScoreModel
from scoreflow.paths import user_path
from scoreflow.runtime.device import build_device, states_of
from scoreflow.runtime.environment import environment
from scoreflow.runtime.gpu.transfer import load_weights
from scoreflow.runtime.progress_bar import Progress
from scoreflow.runtime.terminal import tell
from scoreflow.schema.config import Config, refuse_idle
from scoreflow.schema.request import Flat, Source, data_keys, flatten
from scoreflow.schema.resolve import frozen, refuse_checkpoint, resolve
from scoreflow.sde.noise import Noise, Stream
from scoreflow.storage.atomic_files import Json, check_writable, make_folder, reason_of
from scoreflow.storage.checkpoints.content import trained_with
from scoreflow.storage.regular_files import sweep, temporary_folder
from scoreflow.storage.run_folder import RunDir, Say
from scoreflow.trained_run import TrainedRun

CHECKED, OWN_SAMPLES, OWN_STEPS = 32, 16, 50
"""Images of the check on arrival; without any, samples of the network's own, and their steps."""
WHY_DEQUANTIZED = {
    "truncated_normal": (
        "it was trained on the levels themselves, not on points spread over their bins: its "
        "density peaks there, and points anywhere in a bin would pay for all that are not"
    ),
    "last_step": (
        "it was trained on the levels themselves, and its noise at the least time reaches far "
        "over a level's bin, so that what a truncated normal cuts off would be dear"
    ),
}
MOST_CUT_BITS = 0.02
"""Bits a dimension that a truncated normal may cost before last_step is written instead."""


def import_network(
    path: str | Path,
    workdir: str | Path,
    *,
    format: str = "",
    recipe: str = "",
    data: str | Path = "",
    options: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    anyway: bool = False,
    device: str = "",
) -> TrainedRun:
    """A run from a checkpoint of another codebase; docs/interop.md lists them.

    Args:
        path: a file, a folder, or the name of a repository on the Hugging Face Hub.
        workdir: the run's folder, new or empty.
        format: "diffusers", "improved_diffusion", ...; "" to recognise it.
        recipe: of a published network, by its file's name.
        data: images to measure on: a folder, a name on the Hub, or "digits"; "" for none yet.
        options: answers to what the file does not say, as {"heads": 4}.
        overrides: other values of config keys, dotted or a dict a section.
        anyway: keep it although the check on arrival fails.
        device: "cpu", "cuda", "cuda:1"; "" for the best one found.

    Raises:
        RequestError: the file cannot be read or had, or the check on arrival fails.
    """
    source = Source(str(path), format, recipe, dict(options or {}), anyway)
    own = flatten(dict(overrides or {})) | (data_keys(str(data)) if data else {})
    command = f"scoreflow.import_network({str(path)!r}, {str(workdir)!r})"
    return bring_in(source, user_path(workdir, "the run's folder"), own, device, command, tell)


def bring_in(
    source: Source, workdir: Path, overrides: Flat, device: str, command: str, say: Say
) -> TrainedRun:
    """The run of a source, as `import_network` and --mode import make it.

    Args:
        source: what is imported.
        workdir: the run's folder, new or empty.
        overrides: other values of config keys, dotted.
        device: its name, "" for the best one found.
        command: what env.json says it was started by.
        say: gets a line for each thing found.
    """
    workdir = workdir.resolve()
    _refuse_used(workdir)
    check_writable(workdir, "choose another --workdir")
    path = hub.local(source.path)
    imported = formats.read(path, source.format, source.recipe, source.options)
    experiment = assembly.experiment(
        config_of(imported, overrides), build_device(device), training=False, bound=False
    )
    load(experiment.network, imported.weights, path)
    if imported.raw is not None:
        load(build_network(experiment.config, experiment.data), imported.raw, path)
    experiment.network.eval()  # a check under dropout would be of another network
    facts = {**imported.facts, "dequantization": _told(experiment.config)}
    say(f"{path} is of the format {imported.format}")
    for subject, text in facts.items():
        say(f"  {subject:14s} {text}")
    for remark in experiment.remarks:
        say(f"  {'data':14s} {remark}")
    arrival = checked(experiment)
    say(f"  {'check':14s} {_verdict(arrival)}")
    if not arrival.passed and not source.anyway:
        raise RequestError(
            f"the check on arrival failed on {arrival.on}: {arrival.trouble()}; nothing was "
            "written, and --anyway keeps it all the same"
        )
    about = {
        "source": str(source.path),
        "format": imported.format,
        "recipe": source.recipe,
        "options": source.options,
        "sha256": hub.digests(path, *imported.also),
    }
    env = {"command": command, "imported": about, **environment(str(experiment.device))}
    result = {**about, "facts": facts, "step": imported.step, "check": arrival.as_result()}
    _write(workdir, experiment, imported, env, result)
    return TrainedRun(RunDir.open(workdir), experiment, say)


def config_of(imported: Imported, overrides: Flat) -> ConfigDict:
    """The config of an imported network: its settings, the defaults, and what was asked for.

    Raises:
        RequestError: a key is unknown, or its value of a wrong type or range.
    """
    refuse_checkpoint(overrides, "an imported network has one alone")
    centred = imported.settings.get("training.dequantization") == "centre"
    levels = 17 if overrides.get("data.name") == "digits" else 256
    flat = {
        **flatten(Config().to_dict()),
        "data.name": "none",
        # all of these codebases show a network level k of L as 2 k / (L - 1) - 1
        "model.data_scale": (levels - 1) / levels,
        "likelihood.dequantization": "truncated_normal" if centred else "uniform",
        **_of_training(imported.settings),
        **imported.settings,
        **overrides,
    }
    config = resolve(flat, "the import")
    refuse_idle(overrides, flatten(config.to_dict()))
    asked = "likelihood.dequantization" in overrides
    if centred and not asked and _cut_bits(config, levels) > MOST_CUT_BITS:
        config = resolve({**flat, "likelihood.dequantization": "last_step"}, "the import")
    return config


def load(network: nn.Module, weights: Weights, where: Path) -> None:
    """Weights into a network, every name and shape alike.

    Raises:
        RequestError: they are of another architecture.
    """
    try:
        load_weights(network, weights)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise RequestError(
            f"{where}: its weights are not of the architecture that it tells "
            f"({lines[min(1, len(lines) - 1)]}): an option or a config key is wrong, or the file "
            "is of another version"
        ) from error


def checked(experiment: Experiment) -> Arrival:
    """The check on arrival: on the data's test images, or on samples of the network's own."""
    model, data = experiment.model, experiment.data
    labels: Tensor | None = None
    if len(data.test) >= 2:
        x_0, on = _images(experiment), f"{min(CHECKED, len(data.test))} images of {data.name}"
        if data.test_labels is not None:
            labels = data.test_labels[:CHECKED].to(x_0.device)
    else:
        x_0, on = _own_samples(experiment), f"{OWN_SAMPLES} samples of its own, for want of images"
    labels = _classes(model, labels, len(x_0))
    others, asked = others_of(model), Reading("as it was read", model, "")
    with Progress("check on arrival", 1 + len(others), "reading") as progress:
        done = partial(progress.advance, 1)
        return check(asked, others, x_0, on, labels, on_call=progress.evaluated, on_reading=done)


# ---- parts of these -----------------------------------------------------------------------------


def _refuse_used(workdir: Path) -> None:
    """Refuse a folder with anything in it: an import never goes over a run."""
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        what = "holds a run already" if (workdir / "config.json").exists() else "is not empty"
        raise RequestError(f"{workdir} {what}: choose another --workdir")


def _of_training(settings: Mapping[str, Any]) -> Flat:
    """Keys of `training` that an imported network needs if it is to be trained on."""
    if settings.get("model.conditional") and not settings.get("model.null_class", True):
        return {"training.label_dropout": 0.0}  # it has no row for a datum without class
    return {}


def _cut_bits(config: ConfigDict, num_levels: int) -> float:
    """What a truncated normal cuts off of so many levels at the least time, bits a dimension."""
    c = Config.of(config)
    t_min = build_objective(c).least_time
    dequantizer = Dequantizer("truncated_normal", num_levels, t_min, "centre")
    return at_most_bits(dequantizer, assembly.build_sde(c)) or 0.0


def _told(config: ConfigDict) -> str:
    name = config.likelihood.dequantization
    return f"{name}: {WHY_DEQUANTIZED[name]}" if name in WHY_DEQUANTIZED else name


def _verdict(arrival: Arrival) -> str:
    e = arrival.errors
    told = f"{'passed' if arrival.passed else 'FAILED'} on {arrival.on}: mean |eps error|^2 "
    ends = f"{e.mean[-1]:.2g} at t = {e.times[-1]:g}, {e.mean[0]:.2g} at t = {e.times[0]:g}"
    return f"{told}{ends} ({e.of_gaussian[0]:.2g} of a Gaussian)"


def _images(experiment: Experiment) -> Tensor:
    """Test images as the network's x_0."""
    data, embedding = experiment.data, experiment.settings.dequantization
    few = data.test[:CHECKED]
    noise = Noise.of(experiment.config.seed, 0, len(few), few.device)
    return points(few, data.num_levels, noise, Stream.DEQUANTIZE, embedding)


def _own_samples(experiment: Experiment) -> Tensor:
    """Samples that the network makes in a few deterministic steps, as x_0."""
    flat = flatten(experiment.config.to_dict())
    steps = min(OWN_STEPS, experiment.model.sde.num_steps)
    flat |= {"sampling.steps": steps, "sampling.grid": "auto", "sampling.final": "mean"}
    flat |= {"sampling.shift": 1.0}
    flat |= {"sampling.label": -1, "sampling.guidance": 1.0}
    model = experiment.model
    labels = _classes(model, None, OWN_SAMPLES)
    model = model if labels is None else model.labelled(labels)
    plan = build_drawing(resolve(flat, "the import"), "ddim", model, experiment.data)
    noise = Noise.of(experiment.config.seed, 0, OWN_SAMPLES, experiment.data.train.device)
    event = tuple(experiment.data.train.shape[1:])
    return draw_samples(plan, model.sde, noise, event, OWN_SAMPLES, "samples of its own")


def _classes(model: ScoreModel, labels: Tensor | None, count: int) -> Tensor | None:
    """The data's classes, or the network's own in turn, where it cannot do without."""
    if not model.needs_class:
        return None
    if labels is not None and int(labels.max()) < model.num_classes:
        return labels
    device = states_of(next(model.network.parameters()).device)
    return torch.arange(count, device=device) % model.num_classes


def _write(
    workdir: Path, experiment: Experiment, imported: Imported, env: Json, result: Json
) -> None:
    """The run's folder, whole: made under another name beside it, and renamed."""
    ema = {name: value.cpu() for name, value in experiment.network.state_dict().items()}
    raw = ema if imported.raw is None else {**ema, **imported.raw}
    optimizer = torch.optim.Adam(
        experiment.network.parameters(), lr=experiment.settings.learning_rate, fused=True
    )
    state = {
        "step": imported.step,
        "model": raw,
        "ema": ema,
        "optimizer": optimizer.state_dict(),  # a fresh one, for a training that goes on from here
        **trained_with(config=frozen(flatten(experiment.config.to_dict()))),
    }
    make_folder(workdir.parent)
    sweep(workdir.parent, workdir.name)  # what a kill left
    try:
        with temporary_folder(workdir) as hidden:
            with RunDir.create(hidden, experiment.config.to_dict(), env) as folder:
                folder.save_checkpoint(imported.step, state)
                folder.write_result("import", result)
            for name in ("lock", "lock.pid"):
                (hidden / name).unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                workdir.rmdir()  # empty, and a folder is not renamed over another everywhere
            hidden.rename(workdir)
    except OSError as error:
        raise RunError(f"cannot write {workdir} ({reason_of(error)}): nothing is kept") from error
