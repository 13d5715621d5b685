"""Error against seconds: the curve of each method, and how much faster ours is."""

import math
from collections.abc import Callable

import numpy as np
from torch import Tensor

from benchmarks.likelihood import settings
from benchmarks.likelihood.bench import Bench, Method, Outcome, Points
from benchmarks.likelihood.methods import ours, solver_of, usual
from benchmarks.likelihood.timing import Job, in_turn, rounded
from scoreflow.errors import RunError
from scoreflow.storage.atomic_files import Json


def truths(bench: Bench, points: Points) -> tuple[dict[str, Tensor], list[Json]]:
    """On each schedule the images' bits/dim at the tightest tolerance, (B,), and the rows.

    Raises:
        RunError: some images were not solved.
    """
    solver = solver_of(settings.TRUTH)
    jobs = [
        Job({"method": f"truth {schedule}", "tolerance": settings.TRUTH},
            lambda _, model=model: ours(model, points, solver))
        for schedule, model in bench.models.items()
    ]  # fmt: skip
    rows = in_turn(jobs, 1)
    for row in rows:
        if row["unsolved"]:
            raise RunError(
                f"{row['unsolved']} images have no truth at tolerance {settings.TRUTH:g}"
            )
    found = [job.outcomes[0].bits.mean(1) for job in jobs]
    return dict(zip(bench.models, found, strict=True)), rows


def curves(bench: Bench, points: Points, truth: dict[str, Tensor], repeats: int) -> list[Json]:
    """A row of every method at each of its tolerances.

    Args:
        bench: the network.
        points: what is scored.
        truth: schedule -> bits/dim, (B,).
        repeats: runs of each row.
    """
    jobs: list[Job] = []

    def add(name: str, schedule: str, method: Method) -> None:
        for tolerance in settings.TOLERANCES if name == "ours" else settings.CURVE:
            heading = {"method": name, "tolerance": tolerance}
            run = _at(method, points, tolerance)
            jobs.append(Job(heading, run, truth[schedule]))

    add("usual", bench.song, _usual(bench, bench.song))
    if bench.song != "as trained":
        add("usual, kinks", "as trained", _usual(bench, "as trained"))
    add("usual, one pass", bench.song, _usual(bench, bench.song, passes=1))
    for name in ("scipy:RK45", "torchdiffeq:dopri5"):
        add(f"angle, {name}", "as trained", _ours(bench, name))
    add("ours", "as trained", _ours(bench, "dopri5"))
    rows = in_turn(jobs, repeats)
    for row, job in zip(rows, jobs, strict=True):
        row["bits_each"] = rounded(job.outcomes[-1].bits.mean(1))
    return rows


def _at(method: Method, points: Points, tolerance: float) -> Callable[[int], Outcome]:
    return lambda _repeat: method(points, tolerance)


def _usual(bench: Bench, schedule: str, passes: int = 2) -> Method:
    return lambda points, tolerance: usual(bench.models[schedule], points, tolerance, passes)


def _ours(bench: Bench, method: str) -> Method:
    return lambda points, tolerance: ours(bench.trained, points, solver_of(tolerance, method))


def enough(rows: list[Json]) -> Json | None:
    """Ours at the loosest tolerance from which on the mean's error is small enough."""
    own = sorted((row for row in rows if row["method"] == "ours"), key=lambda r: r["tolerance"])
    best = None
    for row in own:  # from the tightest on, so that none is chosen by luck
        if row["mean_error"] is None or abs(row["mean_error"]) >= settings.GOOD_ENOUGH:
            break
        best = row
    return best


def seconds_at_equal_error(slow: list[Json], fast: list[Json]) -> Json:
    """Ratio of the seconds of two curves, over the errors that both of them reach.

    Seconds are interpolated in RMS error, both logarithmically, between the rows of each curve
    that no other row beats in both.

    Args:
        slow: rows of the numerator.
        fast: rows of the denominator.
    """
    curves = [_front(rows) for rows in (slow, fast)]
    if not all(curves):
        return {"overlap": None, "min": None, "median": None, "max": None}
    low = max(curve[0][0] for curve in curves)
    high = min(curve[-1][0] for curve in curves)
    ranges = {
        f"{name}_range": [math.exp(curve[0][0]), math.exp(curve[-1][0])]
        for name, curve in zip(("slow", "fast"), curves, strict=True)
    }
    if low >= high:
        return {"overlap": None, "min": None, "median": None, "max": None, **ranges}
    at = np.linspace(low, high, 101)
    slower, faster = (np.interp(at, *np.array(curve).T) for curve in curves)
    ratio = np.exp(slower - faster)
    return {
        "overlap": [math.exp(low), math.exp(high)],
        "min": float(ratio.min()),
        "median": float(np.median(ratio)),
        "max": float(ratio.max()),
        **ranges,
    }


def _front(rows: list[Json]) -> list[tuple[float, float]]:
    """(log error, log seconds) of the rows that no other beats in both, by error."""
    front: list[tuple[float, float]] = []
    for row in sorted(rows, key=lambda r: r["seconds"]):
        if row["rms_error"] and (not front or math.log(row["rms_error"]) < front[-1][0]):
            front.append((math.log(row["rms_error"]), math.log(row["seconds"])))
    return front[::-1]


def _over_cheapest(row: Json, own: list[Json]) -> float | None:
    """Its seconds over those of our cheapest row with an RMS error as small; None without one."""
    if row["rms_error"] is None:
        return None
    able = [each for each in own if (each["rms_error"] or math.inf) <= row["rms_error"]]
    return row["seconds"] / min(each["seconds"] for each in able) if able else None


def gains(rows: list[Json]) -> Json:
    """Seconds of every other method over ours, at the usual tolerance and along the curves."""
    best, found = enough(rows), {}
    named = {row["method"] for row in rows}
    own = [row for row in rows if row["method"] == "ours"]
    for name in sorted(named - {"ours"}):
        theirs = [row for row in rows if row["method"] == name]
        at = next(row for row in theirs if row["tolerance"] == settings.USUAL)
        ratio = None if best is None else at["seconds"] / best["seconds"]
        found[name] = {
            "usual_tolerance_over_ours": ratio,
            "capped": bool(at["unsolved"]),
            "equal_error": seconds_at_equal_error(theirs, own),
            "as_accurate": [[row["tolerance"], _over_cheapest(row, own)] for row in theirs],
        }
    return {"ours_tolerance": None if best is None else best["tolerance"], "against": found}
