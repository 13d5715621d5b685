"""Draw samples by a plan, in batches, shared by index between processes."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from scoreflow.errors import RunError
from scoreflow.generation.plan import SamplingPlan
from scoreflow.runtime import distributed
from scoreflow.runtime.compiling import fixed_shapes
from scoreflow.runtime.progress_bar import Progress
from scoreflow.samplers import Counted, ProbabilityFlow, sample
from scoreflow.samplers.sampler import UnknownStartError
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise

OUTSIDE = 0.5
"""By how much a sample must leave [-1, 1], a quarter of that range, to be counted: a network that
is trained hardly at all stays within, where its start is well posed."""


def outside(samples: Tensor, num_levels: int | None) -> int | None:
    """How many samples leave the range of images by more than `OUTSIDE`, before they are levels.

    Args:
        samples: points as they are drawn, (n, ...).
        num_levels: None for vectors, which have no range.
    """
    if num_levels is None:
        return None
    inside = samples.abs() <= 1 + OUTSIDE  # nan is not
    return int((~inside).flatten(1).any(1).sum())


def draw_samples(
    plan: SamplingPlan,
    sde: SDE,
    noise: Noise,
    event: tuple[int, ...],
    batch_size: int,
    name: str,
    start: Tensor | None = None,
) -> Tensor:
    """One sample for every index of the noise, (n, *event), with a progress bar.

    From the prior at N, or from a start (n, *event) at the first of the plan's times. Several
    processes take the samples by index; every one of them must call this, and has all.
    """
    sde = plan.process or sde
    shard, count, device = distributed.shard(), len(noise.index), noise.index.device
    own = torch.arange(count, device=device)[shard.rank :: shard.world]
    batches = []
    # an adaptive solver asks about fewer rows as some arrive
    alike = nullcontext() if isinstance(plan.sampler, ProbabilityFlow) else fixed_shapes(device)
    with Progress(f"draw {name}", len(own), "img") as progress, alike:
        shown = Counted(plan.denoiser, progress.evaluated)
        for index in own.split(batch_size) if len(own) else ():
            rows = None if start is None else start[index]
            part = replace(plan, denoiser=shown)
            batches.append(draw_batch(part, sde, noise.rows(index), event, rows))
            progress.advance(len(index))
    if shard.world == 1:
        return torch.cat(batches)
    drawn = torch.cat(batches).cpu() if batches else torch.empty(0, *event)
    everything = shard.gathered(dict(zip(own.tolist(), drawn.unbind(), strict=True)))
    return torch.stack([everything[k] for k in range(count)]).to(device)


def draw_batch(
    plan: SamplingPlan,
    sde: SDE,
    noise: Noise,
    event: tuple[int, ...],
    start: Tensor | None = None,
) -> Tensor:
    """One sample for every index of the noise, (B, *event), at once; as in `draw_samples`."""
    process = plan.process or sde
    parts, places = [], []
    with out_of_evaluations():
        for rows in plan.groups(noise.index):
            begun = None if start is None else start[rows]
            args = plan.sampler, plan.denoiser, process, plan.times, noise.rows(rows), event
            parts.append(sample(*args, final=plan.final, start=begun))
            places.append(rows)
    x = torch.cat(parts)
    return x if len(parts) == 1 else x[torch.cat(places).argsort()]


@contextmanager
def out_of_evaluations() -> Iterator[None]:
    """Say what to do where a solver does not reach its end, or a first step finds no numbers."""
    try:
        yield
    except UnknownStartError as error:
        raise RunError(str(error)) from error
    except RuntimeError as error:  # the solver's; torch raises the same type for its defects
        if "did not reach" not in str(error):
            raise
        raise RunError(f"{error}: raise sampling.max_evaluations or sampling.tolerance") from error
