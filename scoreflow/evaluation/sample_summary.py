"""Summary of samples: cost, two-sample accuracy and classes, with held-out data for comparison."""

import base64
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoreflow.data.dataset import Data
from scoreflow.data.levels import values_of
from scoreflow.evaluation import nearest_neighbours
from scoreflow.generation.generate import draw_samples
from scoreflow.generation.pictures import GRID_IMAGES, picture
from scoreflow.generation.plan import SamplingPlan
from scoreflow.generation.sample_folder import Draw, fill, first_values
from scoreflow.runtime import distributed
from scoreflow.runtime.stopwatch import Stopwatch
from scoreflow.samplers import Clipped, Counted
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise
from scoreflow.uncertainty import rate_error

TWO_SAMPLE_IMAGES, LEAST_IMAGES = 512, 10
"""Images that the two-sample test compares at most, and those below which it says nothing."""

UNIT = "1-nearest-neighbour two-sample accuracy against training data; 0.5 is best"
NOTHING_TO_COMPARE: dict[str, Any] = {
    "unit": UNIT,
    "two_sample": None,
    "two_sample_of_test_data": None,
}


def sample_metrics(samples: Tensor, data: Data, label: int = -1) -> dict[str, Any]:
    """`value_metrics` of samples as they are drawn: points (n, C, H, W), or vectors (n, D)."""
    return value_metrics(values_of(samples, data), data, label)


def value_metrics(values: Tensor, data: Data, label: int = -1) -> dict[str, Any]:
    """Two-sample accuracy against training data, with that of real test data as its measure.

    The value is None where there are too few images to say anything. Samples of a class are held
    against data of that class, and it is said how many have their nearest training image in it.

    Args:
        values: samples as the data are: levels, or vectors.
        data: the data.
        label: the class of the samples, -1 for none.
    """
    train, test = _of_class(data, label)
    n = min(TWO_SAMPLE_IMAGES, len(values), len(train))
    if not n:
        return {"value": None, "standard_error": None, **NOTHING_TO_COMPARE}
    m = 0 if data.one_part else min(n, len(test))  # real data that are held out
    two_sample = nearest_neighbours.two_sample_accuracy(values[:n], train[:n])
    enough = n >= LEAST_IMAGES and len(test) > 0
    found = {
        "value": two_sample["accuracy"] if enough else None,
        "standard_error": two_sample["standard_error"] if enough else None,
        "unit": UNIT,
        "two_sample": two_sample,
        "two_sample_of_test_data": nearest_neighbours.two_sample_accuracy(test[:m], train[:m])
        if m
        else None,
    }
    if data.train_labels is not None and data.num_levels is not None:
        classes = nearest_neighbours.nearest_classes(values, data.train, data.train_labels)
        found["classes"] = classes
        if label >= 0:
            found["of_class"] = _of_its_class(classes, test, data, label)
    return found


def _of_its_class(classes: list[int], test: Tensor, data: Data, label: int) -> dict[str, Any]:
    """How many samples, and how many test images of the class, are nearest to one of the class."""
    assert data.train_labels is not None, "only labelled data come here"
    rate, n = classes[label] / sum(classes), sum(classes)
    found = {"label": label, "rate": rate, "standard_error": rate_error(rate, n)}
    if len(test) and not data.one_part:
        real = nearest_neighbours.nearest_classes(test, data.train, data.train_labels)
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
    """Test images and model-free baselines, for comparison; nothing where there are none."""
    if not len(data.test):
        return {}
    encoded = base64.b64encode(picture(data.test[:num_images], data)).decode()
    found: dict[str, Any] = {"picture_of_test_data": encoded, "num_test": len(data.test)}
    found["num_shown"] = min(num_images, len(data.test))
    if data.num_levels is not None:
        found["num_shown"] = min(found["num_shown"], GRID_IMAGES)
    if data.test_labels is not None:
        found["classes"] = torch.bincount(data.test_labels).tolist()
    if data.num_levels is not None and not data.one_part:
        bits = nearest_neighbours.histogram_bits_per_dim(data.train, data.test, data.num_levels)
        found |= dict(zip(("histogram_bits_per_dim", "standard_error"), bits, strict=True))
    return found


@dataclass(frozen=True)
class Drawn:
    """Samples as a result for results/, a PNG, and a line for the terminal.

    Attributes:
        samples: as drawn, all of them; of samples on the disk the first, as the data are.
        result: what they cost and are worth.
        picture: the first of them.
        line: the same in a line.
    """

    samples: Tensor
    result: dict[str, Any]
    picture: bytes
    line: str


def draw(
    drawing: SamplingPlan,
    name: str,
    sde: SDE,
    data: Data,
    seed: int,
    num_images: int,
    batch_size: int,
) -> Drawn:
    """Draw samples of a seed and summarise them; image k of a seed is always the same."""
    watch = Stopwatch(data.train.device)
    noise = Noise.of(seed, 0, num_images, data.train.device)
    counted = Counted(drawing.denoiser)
    event = tuple(data.train.shape[1:])
    samples = draw_samples(replace(drawing, denoiser=counted), sde, noise, event, batch_size, name)
    seconds = watch.seconds
    evaluations = distributed.shard().total(counted.rows)
    values = values_of(samples, data)
    result, line = _summary(drawing, name, data, values, len(samples), evaluations, seconds)
    return Drawn(samples, result, picture(values, data), line)


def store(folder: Path, save: str, draw: Draw, settings: dict[str, Any]) -> Drawn:
    """Draw samples into a folder, and summarise them by the first `TWO_SAMPLE_IMAGES`.

    Args:
        folder: where; see `generation.sample_folder`.
        save: the kind of file.
        draw: what is drawn.
        settings: all that the samples are a function of.
    """
    stored = fill(folder, save, draw, settings)
    values = first_values(folder, save, draw, min(TWO_SAMPLE_IMAGES, draw.num_images))
    result, line = _summary(
        draw.plan,
        draw.name,
        draw.data,
        values,
        draw.num_images,
        stored.evaluations,
        stored.seconds,
    )
    result["saved"] = {"as": save, "measured": len(values)}
    there = draw.num_images - stored.drawn
    line += f"; {there} images were there already" if there else ""
    return Drawn(values, result, picture(values, draw.data), line)


def _summary(
    drawing: SamplingPlan,
    name: str,
    data: Data,
    values: Tensor,
    count: int,
    evaluations: int,
    seconds: float,
) -> tuple[dict[str, Any], str]:
    """What `count` samples cost, and what these of them are worth; the same in a line."""
    result = {
        "nfe": evaluations / count,
        "seconds": seconds,
        "images_per_second": count / seconds,
        "num_images": count,
        "steps": len(drawing.times) - 1,
        "clipped": isinstance(drawing.denoiser, Clipped),
        **value_metrics(values, data, drawing.label),
        "data": _of_data(data, len(values)),
    }
    line = (
        f"{name:9s} {count} images, {result['nfe']:.0f} evaluations each, {seconds:.1f} s; "
        f"two-sample accuracy {_two_sample_text(result)}{_class_text(result)}"
    )
    return result, line


def _two_sample_text(result: dict[str, Any]) -> str:
    if result["value"] is None:
        return f"needs {LEAST_IMAGES} images of each"
    sides = result["two_sample"]
    return (
        f"{result['value']:.3f} +- {result['standard_error']:.3f}, the mean of samples recognised "
        f"{sides['samples_recognised']:.2f} and data recognised {sides['real_recognised']:.2f} "
        "(0.5 is best for each; misses can cancel)"
    )


def _class_text(result: dict[str, Any]) -> str:
    if "of_class" not in result:
        return ""
    found = result["of_class"]
    rate = found.get("rate_of_test_data")
    real = "" if rate is None else f" (test images {rate:.3f})"
    return (
        f", against data of class {found['label']}; {found['rate']:.3f} +- "
        f"{found['standard_error']:.3f} of them{real} are nearest to a training image of it"
    )
