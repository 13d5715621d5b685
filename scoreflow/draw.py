"""Draw samples with one sampler, and say what they look like and how they compare with data."""

import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import Tensor

from samplers import Counted, sample
from scoreflow import metrics, report
from scoreflow.build import Drawing
from scoreflow.data import Data, quantize, to_uint8
from scoreflow.errors import RunError
from scoreflow.grid import image_grid
from scoreflow.progress import Progress
from sde.base import SDE
from sde.noise import Noise

GRID_IMAGES, GRID_COLUMNS, GRID_PIXELS = 64, 8, 48
TWO_SAMPLE_IMAGES = 512


@dataclass(frozen=True)
class Drawn:
    """Samples as a result for results/, a PNG, and a line for the terminal."""

    samples: Tensor
    result: dict[str, Any]
    picture: bytes
    line: str


def draw(drawing: Drawing, name: str, sde: SDE, data: Data, settings: ConfigDict) -> Drawn:
    """Draw settings.num_images samples of settings.seed; image k of a seed is always the same."""
    start = time.monotonic()
    noise = Noise.of(settings.seed, 0, settings.num_images, data.train.device)
    counted = Counted(drawing.denoiser)
    event = tuple(data.train.shape[1:])
    samples = draw_samples(
        replace(drawing, denoiser=counted), sde, noise, event, settings.batch_size, name
    )
    if samples.is_cuda:
        torch.cuda.synchronize(samples.device)
    seconds = time.monotonic() - start
    result = {
        "nfe": counted.rows / len(samples),
        "seconds": seconds,
        "images_per_second": len(samples) / seconds,
        "num_images": len(samples),
        **sample_metrics(samples, data),
    }
    line = (
        f"{name:9s} {len(samples)} images, {result['nfe']:.0f} evaluations each, {seconds:.1f} s; "
        f"two-sample accuracy {result['value']:.3f} +- {result['standard_error']:.3f} "
        f"(0.5 is best; of samples {result['two_sample']['samples_recognised']:.2f}, "
        f"of data {result['two_sample']['real_recognised']:.2f})"
    )
    return Drawn(samples, result, _picture(samples, data), line)


def draw_samples(
    drawing: Drawing,
    sde: SDE,
    noise: Noise,
    event: tuple[int, ...],
    batch_size: int,
    name: str,
) -> Tensor:
    """One sample for every index of the noise, (n, *event), with a progress bar."""
    batches = []
    with Progress(f"draw {name}", len(noise.index), "img") as progress:
        shown = Counted(drawing.denoiser, progress.evaluated)
        for index in torch.arange(len(noise.index), device=noise.index.device).split(batch_size):
            batches.append(_batch(drawing, shown, sde, noise.rows(index), event))
            progress.advance(len(index))
    return torch.cat(batches)


def _batch(
    drawing: Drawing, counted: Counted, sde: SDE, noise: Noise, event: tuple[int, ...]
) -> Tensor:
    try:
        return sample(drawing.sampler, counted, sde, drawing.times, noise, event)
    except RuntimeError as error:  # the solver's; torch raises the same type for its defects
        if "did not reach" not in str(error):
            raise
        raise RunError(f"{error}: raise sampling.max_evaluations or sampling.tolerance") from error


def sample_metrics(samples: Tensor, data: Data) -> dict[str, Any]:
    """Two-sample accuracy against training data, with that of real test data as its measure."""
    n = min(TWO_SAMPLE_IMAGES, len(samples), len(data.train))
    m = min(n, len(data.test))
    values = samples if data.num_levels is None else quantize(samples, data.num_levels)
    two_sample = metrics.two_sample_accuracy(values[:n], data.train[:n])
    found = {
        "value": two_sample["accuracy"],
        "standard_error": two_sample["standard_error"],
        "unit": "1-nearest-neighbour two-sample accuracy against training data; 0.5 is best",
        "two_sample": two_sample,
        "two_sample_of_test_data": metrics.two_sample_accuracy(data.test[:m], data.train[:m]),
    }
    if data.train_labels is not None and data.num_levels is not None:
        found["classes"] = metrics.nearest_classes(values, data.train, data.train_labels)
    return found


def _picture(samples: Tensor, data: Data) -> bytes:
    if data.num_levels is None:
        return report.scatter(samples[:, :2])
    levels = quantize(samples[:GRID_IMAGES], data.num_levels)
    picture = to_uint8(levels, data.num_levels)
    return image_grid(picture, GRID_COLUMNS, max(1, GRID_PIXELS // picture.shape[-1]))
