"""Draw samples with one sampler, and say what they look like and how they compare with data."""

import base64
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import Tensor

from samplers import Clipped, Counted, sample
from scoreflow import metrics, parallel, report
from scoreflow.build import Drawing
from scoreflow.data import Data, quantize, to_uint8
from scoreflow.errors import RunError
from scoreflow.grid import image_grid
from scoreflow.progress import Progress
from sde.base import SDE
from sde.noise import Noise

GRID_IMAGES, GRID_COLUMNS, GRID_PIXELS = 64, 8, 48
TWO_SAMPLE_IMAGES, LEAST_IMAGES = 512, 10
"""Images that the two-sample test compares at most, and those below which it says nothing."""


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
        "nfe": parallel.shard().total(counted.rows) / len(samples),
        "seconds": seconds,
        "images_per_second": len(samples) / seconds,
        "num_images": len(samples),
        "steps": len(drawing.times) - 1,
        "clipped": isinstance(drawing.denoiser, Clipped),
        **sample_metrics(samples, data, drawing.label),
        "data": _of_data(data, len(samples)),
    }
    line = (
        f"{name:9s} {len(samples)} images, {result['nfe']:.0f} evaluations each, {seconds:.1f} s; "
        f"two-sample accuracy {_told(result)}{_class_told(result)}"
    )
    return Drawn(samples, result, picture(values_of(samples, data), data), line)


def _told(result: dict[str, Any]) -> str:
    if result["value"] is None:
        return f"needs {LEAST_IMAGES} images"
    sides = result["two_sample"]
    return (
        f"{result['value']:.3f} +- {result['standard_error']:.3f}, the mean of samples recognised "
        f"{sides['samples_recognised']:.2f} and data recognised {sides['real_recognised']:.2f} "
        "(0.5 is best for each; misses can cancel)"
    )


def _class_told(result: dict[str, Any]) -> str:
    if "of_class" not in result:
        return ""
    asked = result["of_class"]
    rate = asked.get("rate_of_test_data")
    real = "" if rate is None else f" (test images {rate:.3f})"
    return (
        f", against data of class {asked['label']}; {asked['rate']:.3f} +- "
        f"{asked['standard_error']:.3f} of them{real} are nearest to a training image of it"
    )


def draw_samples(
    drawing: Drawing,
    sde: SDE,
    noise: Noise,
    event: tuple[int, ...],
    batch_size: int,
    name: str,
    start: Tensor | None = None,
) -> Tensor:
    """One sample for every index of the noise, (n, *event), with a progress bar.

    From the prior at N, or from a start (n, *event) at the first of the drawing's times. Several
    processes take the samples by index; every one of them must call this, and has all.
    """
    shard, count, device = parallel.shard(), len(noise.index), noise.index.device
    own = torch.arange(count, device=device)[shard.rank :: shard.world]
    batches = []
    with Progress(f"draw {name}", len(own), "img") as progress:
        shown = Counted(drawing.denoiser, progress.evaluated)
        for index in own.split(batch_size) if len(own) else ():
            rows = None if start is None else start[index]
            with out_of_evaluations():
                batches.append(
                    sample(
                        drawing.sampler,
                        shown,
                        sde,
                        drawing.times,
                        noise.rows(index),
                        event,
                        final=drawing.final,
                        start=rows,
                    )
                )
            progress.advance(len(index))
    if shard.world == 1:
        return torch.cat(batches)
    drawn = torch.cat(batches).cpu() if batches else torch.empty(0, *event)
    everything = shard.gathered(dict(zip(own.tolist(), drawn.unbind(), strict=True)))
    return torch.stack([everything[k] for k in range(count)]).to(device)


@contextmanager
def out_of_evaluations() -> Iterator[None]:
    """Say what to do where a solver does not reach its end."""
    try:
        yield
    except RuntimeError as error:  # the solver's; torch raises the same type for its defects
        if "did not reach" not in str(error):
            raise
        raise RunError(f"{error}: raise sampling.max_evaluations or sampling.tolerance") from error


def sample_metrics(samples: Tensor, data: Data, label: int = -1) -> dict[str, Any]:
    """Two-sample accuracy against training data, with that of real test data as its measure.

    The value is None where there are too few images to say anything. Samples of a class are held
    against data of that class, and it is said how many have their nearest training image in it.
    """
    train, test = _of_class(data, label)
    n = min(TWO_SAMPLE_IMAGES, len(samples), len(train))
    m = min(n, len(test))
    values = values_of(samples, data)
    two_sample = metrics.two_sample_accuracy(values[:n], train[:n])
    enough = n >= LEAST_IMAGES and m > 0
    found = {
        "value": two_sample["accuracy"] if enough else None,
        "standard_error": two_sample["standard_error"] if enough else None,
        "unit": "1-nearest-neighbour two-sample accuracy against training data; 0.5 is best",
        "two_sample": two_sample,
        "two_sample_of_test_data": metrics.two_sample_accuracy(test[:m], train[:m]) if m else None,
    }
    if data.train_labels is not None and data.num_levels is not None:
        found["classes"] = metrics.nearest_classes(values, data.train, data.train_labels)
        if label >= 0:
            found["of_class"] = _of_its_class(found["classes"], test, data, label)
    return found


def _of_its_class(classes: list[int], test: Tensor, data: Data, label: int) -> dict[str, Any]:
    """How many samples, and how many test images of the class, are nearest to one of the class."""
    assert data.train_labels is not None, "only labelled data are asked"
    rate, n = classes[label] / sum(classes), sum(classes)
    found = {"label": label, "rate": rate, "standard_error": metrics.rate_error(rate, n)}
    if len(test):
        real = metrics.nearest_classes(test, data.train, data.train_labels)
        found["rate_of_test_data"] = real[label] / len(test)
    return found


def _of_class(data: Data, label: int) -> tuple[Tensor, Tensor]:
    """Training and test data of one class, or all of them for -1."""
    if label < 0 or data.train_labels is None or data.test_labels is None:
        return data.train, data.test
    pairs = ((data.train, data.train_labels), (data.test, data.test_labels))
    train, test = (each[(labels == label).to(each.device)] for each, labels in pairs)
    return train, test


def _of_data(data: Data, num_images: int) -> dict[str, Any]:
    """What samples are to be seen beside: test data, and what is known of them without a model."""
    encoded = base64.b64encode(picture(data.test[:num_images], data)).decode()
    found: dict[str, Any] = {"picture_of_test_data": encoded, "num_test": len(data.test)}
    found["num_shown"] = min(num_images, len(data.test))
    if data.num_levels is not None:
        found["num_shown"] = min(found["num_shown"], GRID_IMAGES)
    if data.test_labels is not None:
        found["classes"] = torch.bincount(data.test_labels).tolist()
    if data.num_levels is not None:
        bits = metrics.histogram_bits_per_dim(data.train, data.test, data.num_levels)
        found |= dict(zip(("histogram_bits_per_dim", "standard_error"), bits, strict=True))
    return found


def values_of(samples: Tensor, data: Data) -> Tensor:
    """Samples as the data are: levels, or vectors."""
    return samples if data.num_levels is None else quantize(samples, data.num_levels)


def picture(values: Tensor, data: Data) -> bytes:
    """A PNG of values as the data are: a grid of the first images, or all points in the plane."""
    if data.num_levels is None:
        return report.scatter(values[:, :2])
    shown = to_uint8(values[:GRID_IMAGES], data.num_levels)
    return image_grid(shown, GRID_COLUMNS, max(1, GRID_PIXELS // shown.shape[-1]))
