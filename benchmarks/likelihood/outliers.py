"""What two outliers in a batch cost the other images, with one step size for all and with ours."""

from functools import partial

import torch
from torch import Tensor

from benchmarks.likelihood import settings
from benchmarks.likelihood.bench import Bench, Points
from benchmarks.likelihood.methods import nodes_solver, ours, solver_of, usual
from benchmarks.likelihood.timing import Job, in_turn, rounded
from scoreflow.sde.noise import Noise, Stream
from scoreflow.storage.atomic_files import Json

FLIPPED = 7
"""Changed pixels of an outlier: few, but an error norm over the whole batch gives every image the
steps of the hardest one, and these are enough to raise them."""


def flipped(levels: Tensor, noise: Noise, num_levels: int) -> Tensor:
    """Images with a few pixels, drawn by the noise, at the extreme that they are farther from."""
    flat = levels.flatten(1).clone()
    pixels = noise.uniform(Stream.DATA, (flat.shape[1],)).argsort(1)[:, :FLIPPED]
    near = flat.gather(1, pixels)
    far = torch.where(2 * near.long() < num_levels, num_levels - 1, 0).to(flat.dtype)
    return flat.scatter(1, pixels, far).view_as(levels)


def noisy(levels: Tensor, noise: Noise, num_levels: int) -> Tensor:
    """Images of independent, uniformly distributed levels."""
    u = noise.uniform(Stream.DATA, tuple(levels.shape[1:]))
    return (u * num_levels).to(levels.dtype)


OUTLIERS = {
    f"{FLIPPED} pixels at the opposite extreme": flipped,
    "uniform noise": noisy,
}


def crowd_of(levels: Tensor, num_levels: int, kind: str) -> Tensor:
    """A batch of images of which the last two are made outliers."""
    noise = Noise.of(settings.SEED, 0, len(levels), levels.device)
    out = OUTLIERS[kind](levels[-2:], noise.rows(noise.index[-2:]), num_levels)
    return torch.cat([levels[:-2], out])


def crowds(bench: Bench, size: int, tolerance: float, truth: Tensor, repeats: int) -> list[Json]:
    """The usual procedure and ours, all at once and by the queue, with two outliers in the batch.

    Args:
        bench: the network.
        size: images of a batch.
        tolerance: of ours.
        truth: bits/dim of the first test images: errors are over those in the batch.
        repeats: runs of each row.
    """
    rows = []
    for kind in OUTLIERS:
        points = bench.points(crowd_of(bench.test[:size], bench.num_levels, kind))
        jobs = _jobs(bench, points, kind, tolerance, truth[: size - 2])
        found = in_turn(jobs, repeats)
        for row, job in zip(found, jobs, strict=True):
            row["outlier_evaluations"] = job.outcomes[-1].evaluations[-2:].tolist()
            row["outlier_bits"] = rounded(job.outcomes[-1].bits.mean(1)[-2:])
            row["usual_over_this"] = jobs[0].row()["seconds"] / row["seconds"]
        rows += found
    return rows


def _jobs(bench: Bench, points: Points, kind: str, tolerance: float, truth: Tensor) -> list[Job]:
    """The usual procedure at two tolerances, then ours with all images at once and with half.

    By nodes last, without an error: its noise is not that of the probe held fixed.
    """
    half = max(len(points.x) // 2, 1)
    solver = solver_of(tolerance)
    runs = [
        ("usual", tol, partial(usual, bench.models[bench.song], points, tol))
        for tol in (settings.USUAL, settings.CURVE[0])
    ] + [
        (name, tolerance, partial(ours, bench.trained, points, solver, capacity))
        for name, capacity in (("dopri5, all at once", 0), (f"dopri5, {half} at a time", half))
    ]
    own = partial(ours, bench.trained, points, nodes_solver(settings.CROWD_NODES))
    at_nodes = Job({"outliers": kind, "method": f"nodes, K = {settings.CROWD_NODES}",
                    "tolerance": 0.0}, lambda _repeat: own())  # fmt: skip
    return [
        Job(
            {"outliers": kind, "method": name, "tolerance": tol},
            lambda _repeat, run=run: run(),
            truth,
        )
        for name, tol, run in runs
    ] + [at_nodes]
