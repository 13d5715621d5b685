"""The procedures under comparison, each at several of its settings."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.likelihood import settings
from benchmarks.likelihood.bench import Bench, Outcome, Points
from benchmarks.likelihood.equal_error.k_diffusion import k_diffusion
from benchmarks.likelihood.methods import nodes_solver, ours, solver_of, usual
from scoreflow.likelihood.flow_likelihood import Solver
from scoreflow.sde.flow import sign_set_size
from scoreflow.storage.atomic_files import Json


@dataclass(frozen=True)
class Case:
    """A procedure at one of its settings.

    Attributes:
        method: its name, common to all settings.
        at: the settings, first entries of its row.
        run: scores some points.
        schedule: on which it runs; key of `Bench.models`.
        finer: scores them with the same nodes and probes and a finer trajectory; None where the
            probes are fixed for the solve and one at a tight tolerance tells the solver's error.
        averaged: whether a smaller error takes independent repetitions.
    """

    method: str
    at: Json
    run: Callable[[Points], Outcome]
    schedule: str = "as trained"
    finer: Callable[[Points], Outcome] | None = None
    averaged: bool = False

    @property
    def heading(self) -> Json:
        """First entries of its row, the same for all cases."""
        blank = dict.fromkeys(("tolerance", "nodes", "substeps"))
        return {"method": self.method, **blank, "probes": 1, **self.at}


def cases_of(bench: Bench) -> list[Case]:
    """All of them, in the order of their rows."""
    return [*_nodes(bench), *_dopri5(bench), *_averaged(bench)]


def _nodes(bench: Bench) -> list[Case]:
    found = []
    for nodes, probes, substeps in settings.NODES:
        if probes > sign_set_size(bench.test[0].numel()):
            continue
        solver = nodes_solver(nodes, probes, substeps)
        run, finer = (partial(_ours, bench, solver=s) for s in (solver, solver.finer(10.0)))
        at = {"nodes": nodes, "probes": probes, "substeps": substeps}
        found.append(Case("nodes", at, run, finer=finer))
    return found


def _dopri5(bench: Bench) -> list[Case]:
    size = sign_set_size(bench.test[0].numel())
    found = []
    for tolerance in settings.FIXED_TOLERANCES:
        counts = [count for count in settings.PROBES if count < size]
        if tolerance == settings.FIXED_TOLERANCES[0] and size <= settings.WHOLE_SET:
            counts.append(size)
        for probes in counts:
            run = partial(_ours, bench, solver=solver_of(tolerance, probes=probes))
            found.append(Case("dopri5", {"tolerance": tolerance, "probes": probes}, run))
    return found


def _averaged(bench: Bench) -> list[Case]:
    """Those that have one probe a solve."""
    runs: list[tuple[str, tuple[float, ...], Callable[[Points, float], Outcome], str]] = [
        ("usual", settings.CURVE, partial(usual, bench.models[bench.song]), bench.song),
        ("torchdiffeq", settings.CURVE[:2], partial(_torchdiffeq, bench), "as trained"),
        ("k-diffusion", settings.K_DIFFUSION, partial(k_diffusion, bench.trained), "as trained"),
    ]
    return [
        Case(name, {"tolerance": tol}, partial(_at, run, tol), schedule, averaged=True)
        for name, tolerances, run, schedule in runs
        for tol in tolerances
    ]


def _ours(bench: Bench, points: Points, solver: Solver) -> Outcome:
    return ours(bench.trained, points, solver)


def _torchdiffeq(bench: Bench, points: Points, tolerance: float) -> Outcome:
    return ours(bench.trained, points, solver_of(tolerance, "torchdiffeq:dopri5"))


def _at(run: Callable[[Points, float], Outcome], tolerance: float, points: Points) -> Outcome:
    return run(points, tolerance)
