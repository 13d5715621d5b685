"""z-scores of the parts "probes and nodes" and "solver" on a trained network."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.likelihood import settings
from benchmarks.likelihood.bench import Bench, Points
from benchmarks.likelihood.methods import nodes_solver, ours
from benchmarks.measure import table
from scoreflow.likelihood.error_budget import budget_of
from scoreflow.likelihood.flow_likelihood import Solver
from scoreflow.sde.noise import Noise
from scoreflow.storage.atomic_files import Json


def z_scores(bench: Bench) -> list[Json]:
    """A row for each part: mean and standard deviation of z, and the error of both."""
    count = min(settings.BUDGET_IMAGES, len(bench.test))
    return [_of_probes_and_nodes(bench, count), _of_solver(bench, count)]


def _of_probes_and_nodes(bench: Bench, count: int) -> Json:
    points = bench.points(bench.test[:count])
    many = nodes_solver(settings.BUDGET_REFERENCE, probes=0)
    exact = [float(_bits(bench, points, replace(many, repeat=k)).mean()) for k in range(2)]
    once = nodes_solver(settings.BUDGET_NODES, substeps=3)
    own = _some(points, torch.arange(count).repeat(settings.BUDGET_MEASUREMENTS))
    first, second = (_bits(bench, own, replace(once, repeat=k)).view(-1, count) for k in range(2))
    z = []
    for one, other in zip(first, second, strict=True):
        part = budget_of(
            one[:, None],
            probes=1,
            sign_set=points.dims,
            local=[],
            finer={},
            per_nat=1.0,
            truncation_at_most=None,
            nodes=True,
            repeated=dict(enumerate(other.tolist())),
        ).probes
        z.append(float(one.mean() - sum(exact) / 2) / (part or math.nan))
    row = _row("probes and nodes", z, count)
    return {**row, "reference_error": abs(exact[0] - exact[1]) / 2}


def _of_solver(bench: Bench, count: int) -> Json:
    points, rough = bench.points(bench.test), nodes_solver(settings.BUDGET_NODES)
    times, finer = settings.BUDGET_MEASUREMENTS, rough.finer(10.0)
    own = _some(points, torch.arange(times * count) % len(points.x))
    few = _some(points, torch.arange(times // 10 * count) % len(points.x))
    by_finer = _bits(bench, own, finer)
    moved = (by_finer - _bits(bench, own, rough)).view(times, count)
    left = _bits(bench, few, finer.finer(10.0)) - by_finer[: len(few.x)]
    error = float(moved.mean() + left.mean())
    z = [float(each.mean() - error) / float(each.std()) * math.sqrt(count) for each in moved]
    return {**_row("solver", z, count - 1), "error_bits": error}


def _bits(bench: Bench, points: Points, solver: Solver) -> Tensor:
    return ours(bench.trained, points, solver).bits.mean(1)


def _some(points: Points, rows: Tensor) -> Points:
    """Some of the points, each in its place with nodes and probes of its own."""
    noise = Noise(points.noise.seed, len(points.x) + torch.arange(len(rows)))
    return Points(points.x[rows], points.offset[rows], noise, points.t)


def _row(part: str, z: list[float], freedom: int) -> Json:
    """Mean and standard deviation of z, each over that of Student's law with so many degrees."""
    values = torch.tensor(z, dtype=torch.float64) / math.sqrt(freedom / max(freedom - 2, 1))
    return {
        "part": part,
        "measurements": len(z),
        "freedom": freedom,
        "mean": float(values.mean()),
        "mean_error": float(values.std()) / math.sqrt(len(z)),
        "sd": float(values.std()),
        "sd_error": _error_of_sd(values),
    }


def _error_of_sd(values: Tensor) -> float:
    """Standard error of a standard deviation, by the fourth moment of the values."""
    away = (values - values.mean()).square()
    return float(away.std() / (2 * away.mean().sqrt())) / math.sqrt(len(values))


def section(rows: list[Json]) -> list[str]:
    """The rows as Markdown."""
    head = ["part", "measurements", "mean of z", "standard deviation of z"]
    return [
        "## z-scores of the budget's parts",
        "Of a right part the standard deviation is 1, after that of Student's law is taken off.",
        table(head, (
            (row["part"], str(row["measurements"]),
             f"{row['mean']:+.2f} ± {row['mean_error']:.2f}",
             f"{row['sd']:.2f} ± {row['sd_error']:.2f}")
            for row in rows
        )),
    ]  # fmt: skip
