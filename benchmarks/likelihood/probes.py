"""Random probes of the divergence against the exact divergence, at one tolerance."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.likelihood import settings
from benchmarks.likelihood.bench import Bench, Outcome, Points
from benchmarks.likelihood.methods import ours, solver_of
from benchmarks.likelihood.timing import Job, in_turn
from scoreflow.sde.flow import sign_set_size
from scoreflow.sde.noise import Noise
from scoreflow.storage.atomic_files import Json


def divergence(bench: Bench, images: int, repeats: int) -> list[Json]:
    """Rows of several numbers of probes, and of the exact divergence; new probes every repeat.

    The error of K independent probes follows from the spread of the whole set of signs about its
    mean, which is the variance of one.

    Args:
        bench: the network.
        images: the first so many of the test set.
        repeats: runs of each row.
    """
    points = bench.points(bench.test[:images])
    size = sign_set_size(points.dims)
    exact = _job(bench, points, "exact by unit vectors", 0)
    exact.once_more()
    exact.truth = exact.outcomes[0].bits.mean(1)
    counts = [count for count in settings.PROBES if count < size]
    jobs = [_job(bench, points, "signs", n, exact.truth) for n in counts]
    jobs.append(_job(bench, points, "exact by all signs", size, exact.truth))
    in_turn(jobs, 1)
    in_turn([exact, *jobs], repeats - 1)
    one = float(torch.cat([each.bits for each in jobs[-1].outcomes]).var(1, correction=0).mean())
    rows = []
    for job in (*jobs, exact):
        row, probes = job.row(), job.heading["probes"] or size
        left = 1 - (probes - 1) / (size - 1) if size > 1 else 0.0
        row |= {"expected": math.sqrt(one / probes * left), "independent": None}
        if job.heading["divergence"] != exact.heading["divergence"]:
            row["independent"] = math.sqrt(one / probes)
        rows.append(row)
    return rows


def _job(bench: Bench, points: Points, name: str, probes: int, truth: Tensor | None = None) -> Job:
    solver = solver_of(settings.DIVERGENCE_TOLERANCE, probes=probes)

    def run(repeat: int) -> Outcome:
        noise = Noise(settings.SEED + 1 + repeat, points.noise.index)
        return ours(bench.trained, replace(points, noise=noise), solver)

    return Job({"divergence": name, "probes": probes}, run, truth)
