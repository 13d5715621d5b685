"""What each --mode does: objects from `build`, files through `run_dir`, words to the terminal."""

import math
import time
from dataclasses import asdict
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import Tensor

from samplers import Counted, sample
from scoreflow import build, metrics, report
from scoreflow.data import Data, dequantize, quantize, to_uint8
from scoreflow.ema import EMA
from scoreflow.errors import RequestError, RunError
from scoreflow.grid import image_grid
from scoreflow.likelihood import log_likelihood, to_bits_per_dim, truncation_bits
from scoreflow.model import ScoreModel
from scoreflow.progress import Progress
from scoreflow.run_dir import RunDir
from scoreflow.train import Trainer
from sde.noise import Noise, Stream
from sde.ode import Status

FINAL_SAMPLERS = ("ancestral", "pc", "ode")
GRID_IMAGES, GRID_COLUMNS = 64, 8
TWO_SAMPLE_IMAGES = 512


def train(config: ConfigDict, run: RunDir, device: torch.device, data: Data) -> None:
    """Train, or go on training; then draw with every sampler and measure the likelihood."""
    trainer = _trainer(config, data)
    if run.checkpoint_steps():
        _, state = run.load_checkpoint(map_location=device, warn=_say)
        trainer.load_state(state)
        _say(f"resuming {run.path} at step {trainer.step}")
    for name in FINAL_SAMPLERS:  # refuses what could not be drawn before hours of training
        build.build_drawing(config, name, trainer.model, data)
    build.build_solver(config)
    _train_to_the_end(trainer, run)
    model = _evaluation_model(config, trainer.ema, trainer.model)
    for name in FINAL_SAMPLERS:
        draw(config, name, run, model, data, trainer.step)
    measure_likelihood(config, run, model, data, trainer.step)
    page = report.write(run)
    _say(
        f"\nLook at   {page}\n"
        f"curves    tensorboard --logdir {run.path / 'tensorboard'}\n"
        f"next      python run.py --mode sample --sampler ode --workdir {run.path}"
    )


def _trainer(config: ConfigDict, data: Data) -> Trainer:
    settings = build.build_training(config)
    sde = build.build_sde(config)
    network = build.build_network(config, data)
    model = build.build_model(config, build.compiled(network, settings), sde)
    return Trainer(model, network, EMA(network, settings.ema_decay), data, settings, config.seed)


def _train_to_the_end(trainer: Trainer, run: RunDir) -> None:
    from torch.utils.tensorboard import SummaryWriter  # seconds that sampling should not pay for

    settings, start = trainer.settings, time.monotonic()
    writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=trainer.step + 1)
    with Progress("train", settings.num_steps, "step", trainer.step) as progress:
        for interval in trainer.run():
            seconds = time.monotonic() - start
            done = interval.step - progress.bar.n
            images = settings.batch_size * (interval.step - progress.bar.initial) / seconds
            scalars = {k: v for k, v in asdict(interval).items() if k != "step"}
            run.log(interval.step, seconds, **scalars)
            for name, value in {**scalars, "images_per_second": images}.items():
                writer.add_scalar(name, value, interval.step)
            progress.advance(done, loss=f"{interval.loss:.4f}", images_per_s=f"{images:.0f}")
            if (
                interval.step % settings.checkpoint_every == 0
                or interval.step == settings.num_steps
            ):
                run.save_checkpoint(interval.step, trainer.state())
    writer.close()


def evaluate(
    config: ConfigDict, run: RunDir, device: torch.device, data: Data
) -> tuple[ScoreModel, int]:
    """The run's averaged network as a Denoiser, and its step."""
    trainer = _trainer(config, data)
    step, state = run.load_checkpoint(map_location=device, warn=_say)
    trainer.load_state(state)
    return _evaluation_model(config, trainer.ema, trainer.model), step


def _evaluation_model(config: ConfigDict, ema: EMA, trained: ScoreModel) -> ScoreModel:
    return build.build_model(config, ema.module, trained.sde)


def draw(
    config: ConfigDict, name: str, run: RunDir, model: ScoreModel, data: Data, step: int
) -> None:
    """Draw samples with one sampler; write its picture and its numbers."""
    drawing = build.build_drawing(config, name, model, data)
    settings, device = config.sampling, data.train.device
    start = time.monotonic()
    x, evaluations = [], 0
    with Progress(f"draw {name}", settings.num_images, "img") as progress:
        for first in range(0, settings.num_images, settings.batch_size):
            last = min(first + settings.batch_size, settings.num_images)
            counted = Counted(drawing.denoiser, progress.evaluated)
            noise = Noise.of(settings.seed, first, last, device)
            event = tuple(data.train.shape[1:])
            x.append(sample(drawing.sampler, counted, model.sde, drawing.times, noise, event))
            evaluations += counted.rows
            progress.advance(last - first)
    seconds = time.monotonic() - start
    samples = torch.cat(x)
    result = {
        "value": None,
        "nfe": evaluations / len(samples),
        "seconds": seconds,
        "images_per_second": len(samples) / seconds,
        "num_images": len(samples),
        "step": step,
        "settings": {**settings.to_dict(), "sampler": name, "device": str(device)},
        **_sample_metrics(samples, data),
    }
    if data.num_levels is not None:
        levels = quantize(samples, data.num_levels)
        picture = to_uint8(levels[:GRID_IMAGES], data.num_levels)
        scale = max(1, 48 // picture.shape[-1])
        run.write_image(run.sample_path(step, name), image_grid(picture, GRID_COLUMNS, scale))
    else:
        run.write_image(run.sample_path(step, name), report.scatter(samples[:, :2]))
    run.write_result(f"samples-{name}", result)
    accuracy = result["two_sample"]
    _say(
        f"{name:9s} {len(samples)} images, {result['nfe']:.0f} evaluations each, {seconds:.1f} s; "
        f"two-sample accuracy {accuracy['accuracy']:.3f} +- {accuracy['standard_error']:.3f} "
        f"(0.5 is best); {run.sample_path(step, name)}"
    )


def _sample_metrics(samples: Tensor, data: Data) -> dict[str, Any]:
    """Two-sample accuracy against training data, with that of real test data as its measure."""
    n = min(TWO_SAMPLE_IMAGES, len(samples), len(data.train))
    x, train, test = samples[:n], data.train[:n], data.test
    if data.num_levels is not None:
        x = quantize(x, data.num_levels)
    m = min(n, len(test))
    two_sample = metrics.two_sample_accuracy(x, train)
    baseline = metrics.two_sample_accuracy(test[:m], train[:m])
    found = {
        "value": two_sample["accuracy"],
        "standard_error": two_sample["standard_error"],
        "unit": "1-nearest-neighbour two-sample accuracy against training data; 0.5 is best",
        "two_sample": two_sample,
        "two_sample_of_test_data": baseline,
    }
    if data.train_labels is not None and data.num_levels is not None:
        whole = quantize(samples, data.num_levels)
        found["classes"] = metrics.nearest_classes(whole, data.train, data.train_labels)
    return found


def measure_likelihood(
    config: ConfigDict, run: RunDir, model: ScoreModel, data: Data, step: int
) -> None:
    """Exact log-likelihood of the test set, each image once; bits/dim of integers, nats of vectors."""
    c, solver = config.likelihood, build.build_solver(config)
    model = ScoreModel(
        model.network, model.sde, model.kind, model.t_min, "float32", model.channels_last
    )
    test = data.test[: c.num_images or None]
    start = time.monotonic()
    values, evaluations, solver_error = [], [], []
    unfinished = 0
    with Progress("likelihood", len(test), "img") as progress, _full_float32():
        for first in range(0, len(test), c.batch_size):
            batch = test[first : first + c.batch_size]
            noise = Noise.of(c.seed, first, first + len(batch), test.device)
            counted = Counted(model, progress.evaluated)
            found = log_likelihood(
                counted, model.sde, _points(batch, data, noise), model.t_min, noise, solver
            )
            unfinished += int((found.status != Status.DONE).sum())
            values.append(_in_unit(found.log_prob, data).cpu())
            evaluations.append(found.evaluations.cpu())
            solver_error.append(found.solver_error.cpu())
            so_far = torch.cat(values).mean(1)
            progress.advance(
                len(batch), mean=f"{so_far.mean():.4f}", error=f"{_error(so_far):.4f}"
            )
    if unfinished:
        raise RunError(
            f"{unfinished} of {len(test)} images did not finish within {solver.max_evaluations} "
            "evaluations: raise likelihood.max_evaluations or likelihood.tolerance"
        )
    value, nfe = torch.cat(values), torch.cat(evaluations).double()
    per_image = torch.cat(solver_error).mean() / _nats_per_unit(data)
    result = _likelihood_result(model, data, value, float(per_image), c.to_dict())
    result |= {"nfe": float(nfe.mean()), "seconds": time.monotonic() - start, "step": step}
    result["settings"]["device"] = str(test.device)
    run.write_result("likelihood", result)
    _say(_likelihood_line(result))


def _points(batch: Tensor, data: Data, noise: Noise) -> Tensor:
    """The batch as real-valued points, levels uniformly dequantized."""
    if data.num_levels is None:
        return batch.double()
    u = noise.uniform(Stream.DEQUANTIZE, tuple(batch.shape[1:]))
    return dequantize(batch, u, data.num_levels)


def _nats_per_unit(data: Data) -> float:
    """Nats a sample in one unit of the result: a bit a dimension for integers, else a nat."""
    return 1.0 if data.num_levels is None else data.test[0].numel() * math.log(2)


def _in_unit(log_prob: Tensor, data: Data) -> Tensor:
    if data.num_levels is None:
        return -log_prob
    return to_bits_per_dim(log_prob, data.test[0].numel(), data.num_levels)


def _error(values: Tensor) -> float:
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan


def _likelihood_result(
    model: ScoreModel, data: Data, value: Tensor, solver_error: float, settings: dict[str, Any]
) -> dict[str, Any]:
    """The contract's fields and the budget; value is (images, probes) in the result's unit."""
    count, probes = value.shape
    mean = float(value.mean())
    t_min = torch.tensor(model.t_min, dtype=torch.float64)
    probe_error = (
        float((value.var(1) / probes).mean().sqrt() / math.sqrt(count)) if probes > 1 else None
    )
    result: dict[str, Any] = {
        "value": mean,
        "standard_error": _error(value.mean(1)) if count > 1 else None,
        "unit": "nats" if data.num_levels is None else "bits/dim",
        "num_images": count,
        "dequantization": "none" if data.num_levels is None else "uniform",
        "num_levels": data.num_levels,
        "t_min": model.t_min,
        "error_budget": {
            "images": _error(value.mean(1)) if count > 1 else None,
            "probes": 0.0 if settings["probes"] == 0 else probe_error,
            "solver": solver_error,
            "truncation_at_most": None,
        },
        "settings": settings,
    }
    if data.num_levels is None:
        one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        truth = -build.toy_distribution().log_prob(data.test[:count].double().cpu(), one, zero)
        gap = value.mean(1) - truth
        result |= {
            "true_nats": float(truth.mean()),
            "gap": float(gap.mean()),
            "gap_error": _error(gap),
        }
    else:
        result["bits_per_dim"] = mean
        bound = truncation_bits(float(model.sde.sigma(t_min)), data.num_levels)
        result["error_budget"]["truncation_at_most"] = bound
    return result


def _likelihood_line(result: dict[str, Any]) -> str:
    budget = result["error_budget"]
    parts = [f"likelihood {result['value']:.4f}"]
    for name in ("images", "probes", "solver"):
        if budget[name] is not None:
            parts.append(f"+- {budget[name]:.4f} ({name})")
    line = " ".join(parts)
    if budget["truncation_at_most"] is not None:
        line += f", truncation <= {budget['truncation_at_most']:.4f}"
    line += f" {result['unit']}; {result['num_images']} test images, {result['nfe']:.0f} evaluations each"
    if "true_nats" in result:
        line += f"; the true density has {result['true_nats']:.4f} (gap {result['gap']:.4f} +- {result['gap_error']:.4f})"
    return line


class _full_float32:
    """TF32 off: near t_min a relative error of the score is multiplied by 1 / sigma."""

    def __enter__(self) -> None:
        self._matmul = torch.backends.cuda.matmul.allow_tf32
        self._convolution = torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    def __exit__(self, *_: object) -> None:
        torch.backends.cuda.matmul.allow_tf32 = self._matmul
        torch.backends.cudnn.allow_tf32 = self._convolution


def require_run(workdir: str | None, mode: str) -> RunDir:
    """The run that a mode reads, or a refusal."""
    if not workdir:
        raise RequestError(f"--mode {mode} needs --workdir DIR, the folder of a trained run")
    return RunDir.open(workdir)


def _say(text: str) -> None:
    print(text, flush=True)
