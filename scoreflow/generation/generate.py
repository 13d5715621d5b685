"""Draw samples with one sampler, and say what they look like and how they compare with data."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import Tensor

from scoreflow.data.dataset import Data
from scoreflow.data.levels import values_of
from scoreflow.errors import RunError
from scoreflow.evaluation.sample_summary import LEAST_IMAGES, _of_data, sample_metrics
from scoreflow.generation.pictures import picture
from scoreflow.generation.plan import Drawing
from scoreflow.runtime import distributed
from scoreflow.runtime.progress_bar import Progress
from scoreflow.samplers import Clipped, Counted, sample
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise


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
        "nfe": distributed.shard().total(counted.rows) / len(samples),
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
    shard, count, device = distributed.shard(), len(noise.index), noise.index.device
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
