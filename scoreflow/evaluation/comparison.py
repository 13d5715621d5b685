"""Comparison of samplers on one network, from the same noise: quality against NFE and seconds.

A case is a sampler with a budget of evaluations. Every case starts from the same x_N, so that
image k of one and image k of another are what two methods make of one noise.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scoreflow.data.dataset import Data
from scoreflow.data.levels import values_of
from scoreflow.generation.generate import draw_samples, outside
from scoreflow.generation.pictures import picture
from scoreflow.generation.plan import SamplingPlan
from scoreflow.runtime import distributed
from scoreflow.runtime.stopwatch import Stopwatch
from scoreflow.samplers import Counted
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise, Stream
from scoreflow.storage.atomic_files import Json

PICTURED = 16


@dataclass(frozen=True)
class Case:
    """A sampler and how it is to be run.

    Attributes:
        sampler: its name.
        budget: evaluations an image that it may take; of the adaptive one, what its tolerance is
            meant to take.
        drawing: the method, its times and its denoiser.
    """

    sampler: str
    budget: int
    drawing: SamplingPlan


def measured(
    case: Case, sde: SDE, data: Data, seed: int, count: int, batch_size: int
) -> tuple[Json, bytes, Tensor]:
    """Draw a case: its row without metrics, a picture of its first images, and the samples.

    Several processes share the samples, and every one of them must call this.
    """
    counted = Counted(case.drawing.denoiser)
    drawing = replace(case.drawing, denoiser=counted)
    noise = Noise.of(seed, 0, count, data.train.device)
    event, first = tuple(data.train.shape[1:]), noise.rows(noise.index[:batch_size])
    with torch.no_grad():  # what is only done once is not the first case's to pay for
        x_t = first.normal(Stream.PRIOR, event)
        for rows in case.drawing.groups(first.index):
            case.drawing.denoiser(x_t[rows], case.drawing.times[0])
    watch, title = Stopwatch(noise.index.device), f"{case.sampler} {case.budget}"
    x = draw_samples(drawing, sde, noise, event, batch_size, title)
    seconds = watch.seconds
    row: Json = {
        "sampler": case.sampler,
        "budget": case.budget,
        "nfe": distributed.shard().total(counted.rows) / count,
        "seconds": seconds,
        "images_per_second": count / seconds,
        "num_images": count,
        "processes": distributed.shard().world,
        "threads": torch.get_num_threads(),
    }
    if left := outside(x, data.num_levels):
        row["outside"] = left / count
    return row, picture(values_of(x, data)[: _shown(data)], data), x


def _shown(data: Data) -> int | None:
    """How many samples a picture shows: a few images, all points."""
    return None if data.num_levels is None else PICTURED


# ---- the table ----------------------------------------------------------------------------------
