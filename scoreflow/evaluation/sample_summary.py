"""Summary of samples: cost, how they are told from data, classes; held-out data for comparison."""

import base64
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from scoreflow.data.dataset import Data
from scoreflow.data.levels import values_of
from scoreflow.evaluation import distances, nearest_neighbours
from scoreflow.evaluation.distances import class_counts
from scoreflow.generation.generate import OUTSIDE, draw_samples, outside
from scoreflow.generation.pictures import GRID_IMAGES, picture
from scoreflow.generation.plan import SamplingPlan
from scoreflow.generation.sample_folder import Draw, fill, first_values
from scoreflow.runtime import distributed
from scoreflow.runtime.stopwatch import Stopwatch
from scoreflow.samplers import Clipped, Counted, Thresholded
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise
from scoreflow.sde.prediction import Denoiser
from scoreflow.uncertainty import rate_error

TWO_SAMPLE_IMAGES, LEAST_IMAGES = 512, 10
"""Images that the two-sample test compares at most, and those below which it says nothing."""

LOUD_SHARE = 0.01
"""Of samples that leave the range of images, above which it is said in a line of its own."""
CLIPS = (
    "Take a sampler that clips the estimate of x_0, as --sampler dpm with "
    "--config.sampling.clip=true, or "
)
NEW_RUN = ", or predict v in a new run (--config.model.prediction=v)"
"""What keeps samples in range."""
WITHOUT_A_POLE = ("x_0", "v", "u")
"""Outputs from which x_0 follows without a division by alpha: nothing is won by v instead."""
METRIC = "told_apart"
"""What `value` is in a result of samples; without a name, of results older than it, it was the
two-sample accuracy, which calls noise ideal: recognised always, and the data never."""
UNIT = (
    "how far the worse of two recognition rates, of samples and of training data by their nearest "
    "neighbours, is from 0.5; 0 is best, 0.5 worst"
)
NOTHING_TO_COMPARE: dict[str, Any] = {
    "metric": METRIC,
    "unit": UNIT,
    "two_sample": None,
    "two_sample_of_test_data": None,
    "precision_recall": None,
    "precision_recall_of_test_data": None,
}


def sample_metrics(samples: Tensor, data: Data, label: int = -1) -> dict[str, Any]:
    """`value_metrics` of samples as they are drawn: points (n, C, H, W), or vectors (n, D)."""
    return value_metrics(values_of(samples, data), data, label)


def value_metrics(values: Tensor, data: Data, label: int = -1) -> dict[str, Any]:
    """How well samples and training data are told apart, with real test data as the measure.

    The value is None where there are too few images to say anything. Samples of a class are held
    against data of that class, and it is said how many have their nearest training image in it.

    Args:
        values: samples as the data are: levels, or vectors.
        data: the data.
        label: the class of the samples, -1 for none.
    """
    train, test = _of_class(data, label, TWO_SAMPLE_IMAGES)
    n = min(TWO_SAMPLE_IMAGES, len(values), len(train))
    found = {"value": None, "standard_error": None, **NOTHING_TO_COMPARE}
    if not n:
        return found
    m = 0 if data.one_part else min(n, len(test))  # real data that are held out
    found |= _against_data("", values[:n], train[:n])
    if m:
        found |= _against_data("_of_test_data", test[:m], train[:m])
    if n >= LEAST_IMAGES and len(test) > 0:
        two_sample = found["two_sample"]
        found |= {"value": two_sample[METRIC], "standard_error": two_sample[f"{METRIC}_error"]}
    if data.train_labels is not None and data.num_levels is not None:
        nearest, index = distances.nearest(values, data.train)
        classes = class_counts(data.train_labels.to(index.device)[index], data.num_classes)
        found |= {"classes": classes, "copies": int((nearest == 0).sum())}
        if label >= 0:
            found["of_class"] = _of_its_class(classes[label], len(values), data, label)
    return found


def _against_data(of: str, values: Tensor, train: Tensor) -> dict[str, Any]:
    """The two-sample test, and precision and recall where there are enough for its neighbours."""
    found = {f"two_sample{of}": nearest_neighbours.two_sample_accuracy(values, train)}
    if len(values) >= LEAST_IMAGES:
        both = nearest_neighbours.precision_recall(values, train)
        found[f"precision_recall{of}"] = both
    return found


def _of_its_class(count: int, n: int, data: Data, label: int) -> dict[str, Any]:
    """That `count` of n samples are nearest to one of their class, and how many test images."""
    assert data.train_labels is not None, "only labelled data come here"
    found = {"label": label, "rate": count / n, "standard_error": rate_error(count / n, n)}
    _, test = _of_class(data, label)
    if len(test) and not data.one_part:
        real = nearest_neighbours.nearest_classes(test, data.train, data.train_labels)
        found["rate_of_test_data"] = real[label] / len(test)
    return found


def _of_class(data: Data, label: int, most: int | None = None) -> tuple[Tensor, Tensor]:
    """The first training and test data of one class, or of all of them for -1.

    Args:
        data: the data.
        label: of the class.
        most: so many at most; None for all of the class.
    """
    if label < 0 or data.train_labels is None or data.test_labels is None:
        return data.train[:most], data.test[:most]
    pairs = ((data.train, data.train_labels), (data.test, data.test_labels))
    rows = [(labels == label).nonzero()[:most, 0] for _, labels in pairs]
    train, test = (
        each[index.to(each.device)] for (each, _), index in zip(pairs, rows, strict=True)
    )
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
        found["classes"] = class_counts(data.test_labels)
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
    cost = _Cost(len(samples), evaluations, seconds, outside(samples, data.num_levels))
    result, line = _summary(drawing, name, data, values, cost)
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
    cost = _Cost(draw.num_images, stored.evaluations, stored.seconds, stored.outside)
    result, line = _summary(draw.plan, draw.name, draw.data, values, cost)
    result["saved"] = {"as": save, "measured": len(values)}
    there = draw.num_images - stored.drawn
    line += f"; {there} images were there already" if there else ""
    return Drawn(values, result, picture(values, draw.data), line)


@dataclass(frozen=True)
class _Cost:
    """What was drawn, at which cost.

    Attributes:
        count: samples.
        evaluations: of the network, rows in all.
        seconds: in all.
        outside: samples that leave the range of images, None where that is not known.
    """

    count: int
    evaluations: int
    seconds: float
    outside: int | None


def _summary(
    drawing: SamplingPlan, name: str, data: Data, values: Tensor, cost: _Cost
) -> tuple[dict[str, Any], str]:
    """What samples cost, and what these of them are worth; the same in a line, or two."""
    result = {
        "nfe": cost.evaluations / cost.count,
        "seconds": cost.seconds,
        "images_per_second": cost.count / cost.seconds,
        "num_images": cost.count,
        "steps": len(drawing.times) - 1,
        "clipped": isinstance(drawing.denoiser, Clipped),
        "outside": None if cost.outside is None else {"count": cost.outside, "more_than": OUTSIDE},
        **value_metrics(values, data, drawing.label),
        "data": _of_data(data, len(values)),
    }
    line = (
        f"{name:9s} {cost.count} images, {result['nfe']:.0f} evaluations each, "
        f"{cost.seconds:.1f} s; {_two_sample_text(result)}{_class_text(result)}"
    )
    return result, _outside_text(cost, drawing.denoiser) + line


def _remedy(denoiser: Denoiser) -> str:
    """What keeps samples in range: a clipped estimate at once, or more or other training."""
    clips = "" if isinstance(denoiser, Clipped | Thresholded) else CLIPS
    new = "" if _estimated(denoiser) in WITHOUT_A_POLE else NEW_RUN
    return f"{clips}{'train' if clips else 'Train'} longer{new}"


def _estimated(denoiser: object) -> str:
    """What the network inside estimates, "" where that is not known."""
    inside = getattr(denoiser, "denoiser", getattr(denoiser, "conditional", None))
    return str(getattr(denoiser, "output", "")) if inside is None else _estimated(inside)


def _outside_text(cost: _Cost, denoiser: Denoiser) -> str:
    """How many samples leave the range of images: a line of its own, "" for hardly any."""
    if not cost.outside or cost.outside <= LOUD_SHARE * cost.count:
        return ""
    return (
        f"{cost.outside} of {cost.count} samples ({cost.outside / cost.count:.0%}) leave [-1, 1] "
        f"by more than {OUTSIDE:g} and are cut off there: the estimates go astray on the way. "
        f"{_remedy(denoiser)}\n"
    )


def _two_sample_text(result: dict[str, Any]) -> str:
    if result["value"] is None:
        return f"a comparison with data needs {LEAST_IMAGES} images of each"
    sides, real = result["two_sample"], result["two_sample_of_test_data"]
    of_real = "" if real is None else f", held-out data {real[METRIC]:.3f}"
    return (
        f"told from training data by {result['value']:.3f} +- {result['standard_error']:.3f} "
        f"(0 is best, 0.5 worst{of_real}), as samples are recognised "
        f"{sides['samples_recognised']:.2f} and data {sides['real_recognised']:.2f}"
        f"{_precision_text(result)}"
    )


def _precision_text(result: dict[str, Any]) -> str:
    """Precision and recall, each with that of held-out data."""
    own, real = result["precision_recall"], result["precision_recall_of_test_data"]
    if own is None:
        return ""
    parts = []
    for name in ("precision", "recall"):
        of_real = "" if real is None else f" ({real[name]:.2f})"
        parts.append(f"{name} {own[name]:.2f}{of_real}")
    return f"; {', '.join(parts)}"


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
