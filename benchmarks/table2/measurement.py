"""Train one cell and measure its bound, its exact likelihood and its samples."""

import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from ml_collections import ConfigDict
from torch import Tensor

from benchmarks.table2.cells import Cell
from scoreflow.data.levels import dequantize
from scoreflow.errors import RunError
from scoreflow.evaluation.sample_summary import sample_metrics
from scoreflow.factory import assembly
from scoreflow.factory.assembly import Experiment
from scoreflow.factory.likelihood import build_question
from scoreflow.factory.model import build_model
from scoreflow.factory.sampling import build_drawing
from scoreflow.generation.generate import draw_samples
from scoreflow.likelihood.dataset_likelihood import measure
from scoreflow.likelihood.flow_likelihood import to_bits_per_dim
from scoreflow.losses import variational
from scoreflow.models.score_model import ScoreModel
from scoreflow.runtime.progress_bar import Progress
from scoreflow.sde.noise import Noise, Stream
from scoreflow.storage.atomic_files import Json
from scoreflow.storage.result_rows import Rows
from scoreflow.training.ema import EMA
from scoreflow.training.trainer import Trainer
from scoreflow.uncertainty import rate_error

STRATA = 63
"""Strata of the bound's timesteps."""
TRIED_FIRST = 32
"""Images whose flow is solved first, so that a cell that cannot be solved fails early."""
NO_RATE: Json = {"two_sample": None, "two_sample_error": None}


def measured(cell: Cell, config: ConfigDict, device: torch.device) -> Json:
    """Train a cell and measure it.

    Args:
        cell: one of `CELLS`.
        config: the whole config of the cell.
        device: where it is trained.

    Returns:
        A row: bits/dim and accuracies with standard errors; None for a number that could not be
        measured.
    """
    start = time.monotonic()
    experiment = assembly.experiment(config, device)
    row: Json = {
        "prediction": cell.prediction,
        "objective": cell.objective,
        "variance": cell.variance,
        "max_evaluations": experiment.config.likelihood.max_evaluations,
    }
    try:
        model = _trained(experiment, cell)
    except RunError as error:  # a loss that is not finite
        row |= {"failed": str(error), **_nothing("bound"), **_nothing("exact"), **NO_RATE}
    else:
        row |= _bound(model, experiment, cell)
        row |= _exact(model, experiment)
        row |= _samples(model, experiment)
    return {**row, "seconds": time.monotonic() - start}


def _trained(experiment: Experiment, cell: Cell) -> ScoreModel:
    e = experiment
    ema = EMA(e.network, e.settings.ema_decay)
    trainer = Trainer(e.model, e.network, ema, e.data, e.objective, e.settings, e.config.seed)
    with Progress(f"{cell.prediction} {cell.title}", e.settings.num_steps, "step") as progress:
        for interval in trainer.run():
            progress.advance(interval.step - progress.bar.n, loss=f"{interval.loss:.4f}")
    trainer.state()  # refuses weights that the last step made infinite
    return build_model(e.config, ema.module, e.model.sde)


@torch.no_grad()
def _bound(model: ScoreModel, experiment: Experiment, cell: Cell) -> Json:
    data, c = experiment.data, experiment.config.likelihood
    test, bits = data.test[: c.num_images], []
    for first in range(0, len(test), c.batch_size):
        levels = test[first : first + c.batch_size]
        noise = Noise.of(c.seed, first, first + len(levels), levels.device)
        u = noise.uniform(Stream.DEQUANTIZE, tuple(levels.shape[1:]))
        x_0 = dequantize(levels, u, _levels(experiment))
        nats = variational.estimate(model, model.sde, x_0, noise, STRATA, cell.variance)
        bits.append(to_bits_per_dim(-nats, x_0[0].numel(), _levels(experiment)))
    return _summary("bound", torch.cat(bits))


def _levels(experiment: Experiment) -> int:
    levels = experiment.data.num_levels
    assert levels is not None, "parse() has refused vectors"
    return levels


def _summary(name: str, values: Tensor) -> Json:
    """Mean, standard error, and each image's value, so that cells can be compared in pairs."""
    if not bool(values.isfinite().all()):
        return _nothing(name)
    return {
        name: float(values.mean()),
        f"{name}_error": float(values.std()) / len(values) ** 0.5,
        f"{name}_each": [round(value, 4) for value in values.tolist()],
    }


def _nothing(name: str) -> Json:
    return {name: None, f"{name}_error": None, f"{name}_each": None}


def _exact(model: ScoreModel, experiment: Experiment) -> Json:
    """Exact likelihood; a few images are solved first, and not solved again with the others."""
    with TemporaryDirectory() as folder:
        rows = Rows(Path(folder) / "rows.jsonl", {})
        try:
            for count in (TRIED_FIRST, experiment.config.likelihood.num_images):
                _solve(model, experiment, count, rows)
        except RunError as error:
            return {**_nothing("exact"), "exact_failed": str(error)}
    found = [rows.done[k] for k in sorted(rows.done)]
    bits = torch.tensor([row["bits_per_dim"] for row in found], dtype=torch.float64)
    evaluations = sum(row["evaluations"] for row in found) / len(found)
    return {**_summary("exact", bits), "exact_evaluations": evaluations}


def _solve(model: ScoreModel, experiment: Experiment, count: int, rows: Rows) -> None:
    """Add the first `count` test images to the rows, where missing; a RunError if one fails."""
    config, data = experiment.config, experiment.data
    question = replace(build_question(config, model, data), checked=0)
    measure(model, data, min(count, config.likelihood.num_images), question, rows=rows)


def _samples(model: ScoreModel, experiment: Experiment) -> Json:
    c, data = experiment.config.sampling, experiment.data
    drawing = build_drawing(experiment.config, "ancestral", model, data)
    noise = Noise.of(c.seed, 0, c.num_images, data.train.device)
    event = tuple(data.train.shape[1:])
    x = draw_samples(drawing, model.sde, noise, event, c.batch_size, "ancestral")
    if not bool(x.isfinite().all()):
        return dict(NO_RATE)
    found = sample_metrics(x, data)["two_sample"]
    rate, n = found["accuracy"], 2 * found["num_each"]
    return {"two_sample": rate, "two_sample_error": rate_error(rate, n)}
