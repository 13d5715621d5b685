"""Fronts of error against seconds, and the seconds of every procedure at equal error."""

import math
from dataclasses import dataclass

import numpy as np

from benchmarks.likelihood import settings
from scoreflow.storage.atomic_files import Json

PROCEDURES = ("nodes", "dopri5", "usual", "torchdiffeq", "k-diffusion")
FIXED = f"dopri5 at {settings.FIXED_TOLERANCES[0]:g}"
"""The per-sample procedure at its usual tolerance alone."""


@dataclass(frozen=True)
class Point:
    """What a procedure reaches.

    Attributes:
        seconds: of `settings.MEAN_OF` images.
        error: RMS of an image, bits/dim.
        scatter: the part of it that is independent from image to image.
        bias: mean of the solver's error over images, and its standard error.
        label: the settings.
    """

    seconds: float
    error: float
    scatter: float
    bias: tuple[float, float]
    label: str


def points_of(rows: list[Json], name: str) -> list[Point]:
    """All that a procedure reaches, with repetitions where it has one probe a solve."""
    own = [row for row in rows if row["method"] == name.split(" at ")[0] and row["error"]]
    if name == FIXED:
        own = [row for row in own if row["tolerance"] == settings.FIXED_TOLERANCES[0]]
    return [point for row in own if not row["unsolved"] for point in _points(row)]


def _points(row: Json) -> list[Point]:
    seconds = row["seconds"] * settings.MEAN_OF / row["images"]
    bias = row["bias"], row["bias_error"]
    at = [f"tolerance {row['tolerance']:g}"] if row["tolerance"] else []
    at += [f"{row['nodes']} nodes, {row['substeps']} substeps"] if row["nodes"] else []
    if not row["averaged"]:
        label = ", ".join([*at, f"{row['probes']} probes"])
        return [Point(seconds, row["error"], row["scatter"], bias, label)]
    found = []
    for times in settings.AVERAGED:
        scatter = row["scatter"] / math.sqrt(times)
        error = math.hypot(scatter, row["solver_rms"])
        found.append(
            Point(seconds * times, error, scatter, bias, ", ".join([*at, f"{times} times"]))
        )
    return found


def front_of(points: list[Point], what: str = "error") -> list[Point]:
    """The points that no other beats in seconds and error (or scatter), by seconds."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.seconds, getattr(p, what))):
        if not front or getattr(point, what) < getattr(front[-1], what):
            front.append(point)
    return front


def seconds_at(points: list[Point], target: float, what: str = "error") -> float | None:
    """Seconds to an error (or scatter), interpolated along the front, both logarithmic.

    A target beyond the loosest point costs what that point does; None where none is reached.
    """
    front = front_of(points, what)[::-1]  # by error
    values = [getattr(point, what) for point in front]
    if not front or target < values[0]:
        return None
    logs = np.log([max(value, 1e-300) for value in values])
    seconds = np.log([point.seconds for point in front])
    return float(np.exp(np.interp(math.log(target), logs, seconds)))


def around(points: list[Point], target: float, what: str) -> list[Point]:
    """The one or two points of the front that `seconds_at` goes by."""
    front = front_of(points, what)
    tight = [point for point in front if getattr(point, what) <= target][:1]
    loose = [point for point in front if getattr(point, what) > target][-1:]
    return loose + tight


def compared(rows: list[Json]) -> Json:
    """Seconds at equal errors and of the mean of many, and their ratios to ours."""
    names = ["nodes", FIXED, *PROCEDURES[1:]]
    every = {name: points_of(rows, name) for name in names}
    single = {
        f"{target:g}": _with_ratios({n: seconds_at(p, target) for n, p in every.items()})
        for target in settings.TARGETS
    }
    most = settings.MEAN_ERROR * math.sqrt(settings.MEAN_OF)
    able = {
        name: [point for point in points if abs(point.bias[0]) < settings.MEAN_ERROR]
        for name, points in every.items()
    }
    mean = _with_ratios({n: seconds_at(p, most, "scatter") for n, p in able.items()})
    for name, points in able.items():
        if mean[name]["seconds"] is not None:
            mean[name]["between"] = [
                {"settings": p.label, "scatter": p.scatter, "bias": list(p.bias)}
                for p in around(points, most, "scatter")
            ]
    return {"image": single, "mean": mean}


def _with_ratios(seconds: dict[str, float | None]) -> Json:
    own = seconds["nodes"]
    return {
        name: {"seconds": value, "over_nodes": value / own if value and own else None}
        for name, value in seconds.items()
    }
