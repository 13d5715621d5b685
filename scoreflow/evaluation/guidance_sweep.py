"""Guidance sweep: fidelity to the class against diversity, over guidance weights.

A row a weight. Image i is conditioned on class i mod K and starts from the same noise at every
weight, so that the rows differ by the weight alone. Several processes share the images of each
class.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scoreflow.data.dataset import Data
from scoreflow.data.levels import values_of
from scoreflow.evaluation import nearest_neighbours
from scoreflow.evaluation.columns import GUIDANCE
from scoreflow.evaluation.comparison import PICTURED
from scoreflow.evaluation.sample_quality import SampleQuality
from scoreflow.generation.generate import draw_samples
from scoreflow.generation.pictures import picture
from scoreflow.generation.plan import SamplingPlan
from scoreflow.runtime import distributed
from scoreflow.samplers import Counted
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise
from scoreflow.storage.atomic_files import Json
from scoreflow.uncertainty import rate_error

SAMPLER = "dpm"
"""Deterministic, and good at the few evaluations of a sweep."""


@dataclass(frozen=True)
class SweepSettings:
    """Settings of a guidance sweep.

    Attributes:
        drawing: (weight, class) -> the guided drawing.
        seed: of the noise.
        count: images a weight.
        batch_size: images at a time.
    """

    drawing: Callable[[float, int], SamplingPlan]
    seed: int
    count: int
    batch_size: int


def measured(
    weight: float, settings: SweepSettings, sde: SDE, data: Data
) -> tuple[Json, Tensor, Tensor]:
    """Sample at a weight: the row without metrics, the samples, and the class of each."""
    assert data.train_labels is not None, "classes come from labelled data"
    classes = data.train_labels.unique().tolist()
    noise = Noise.of(settings.seed, 0, settings.count, data.train.device)
    event, start, evaluations = tuple(data.train.shape[1:]), time.monotonic(), 0
    index = torch.arange(settings.count, device=data.train.device)
    x = torch.empty(settings.count, *event, dtype=torch.float64, device=data.train.device)
    labels = torch.tensor(classes).repeat(-(-settings.count // len(classes)))[: settings.count]
    for label in classes:
        rows = index[(labels == label).to(index.device)]
        if len(rows) == 0:
            continue
        drawing = settings.drawing(weight, label)
        counted = Counted(drawing.denoiser)
        shown = replace(drawing, denoiser=counted)
        title = f"guidance {weight:g}, class {label}"
        x[rows] = draw_samples(shown, sde, noise.rows(rows), event, settings.batch_size, title)
        evaluations += distributed.shard().total(counted.rows)
    row = {
        "sampler": SAMPLER,
        "weight": weight,
        "nfe": evaluations / settings.count,
        "seconds": time.monotonic() - start,
        "num_images": settings.count,
    }
    return row, x, labels


def judged(x: Tensor, labels: Tensor, judge: SampleQuality) -> Json:
    """The metrics of guided samples, and how often they are of the class they were guided to.

    `accuracy` is by the nearest training image, which no guidance looks at; by_classifier is the
    classifier's own opinion, and flattering where it is the guide.
    """
    data = judge.data
    assert data.train_labels is not None, "classes come from labelled data"
    values, found = values_of(x, data), judge.of_samples(x)
    right = right_classes(values, labels, data)
    found |= {
        "accuracy": right["rate"],
        "accuracy_error": right["standard_error"],
        "accuracy_by_class": right["by_class"],
    }
    if judge.features is not None and judge.labels is not None:
        share = float((judge.labels(values).cpu() == labels).double().mean())
        found["by_classifier"] = share
        found["by_classifier_error"] = rate_error(share, len(labels))
    return found


def right_classes(values: Tensor, labels: Tensor, data: Data) -> Json:
    """How many samples have their nearest training image in the class that they were asked for.

    Args:
        values: samples as the data are, (n, ...).
        labels: the class that each was asked for, (n,).
        data: with labels.

    Returns:
        The rate, its standard error, and the rate of each class.
    """
    assert data.train_labels is not None, "classes come from labelled data"
    labels = labels.cpu()
    found = nearest_neighbours.nearest_labels(values, data.train, data.train_labels).cpu()
    right = found == labels
    rate = float(right.double().mean())
    by_class = {
        str(label): float(right[labels == label].double().mean())
        for label in labels.unique().tolist()
    }
    return {"rate": rate, "standard_error": rate_error(rate, len(labels)), "by_class": by_class}


def shown(x: Tensor, data: Data) -> bytes:
    """A PNG of the first images."""
    return picture(values_of(x, data)[:PICTURED], data)


def table(rows: list[Json]) -> str:
    """The rows for the terminal."""
    columns = [column for column in GUIDANCE if column.key in rows[0]]
    lines = [["guidance", *(column.short for column in columns)]]
    lines += [[f"{row['weight']:g}", *(column.text(row) for column in columns)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.rjust, line, widths)) for line in lines)
