"""Images a second of a trained run's likelihood, with its divergence by vjp and by jvp.

The second table of `benchmarks.divergence`, whose docstring explains it.
"""

import copy
from collections.abc import Callable, Iterable
from unittest import mock

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import measure
from benchmarks.likelihood.bench import Bench, Points
from benchmarks.likelihood.methods import ours, solver_of
from benchmarks.likelihood.settings import TOLERANCES, TRUTH
from benchmarks.measure import say, timed
from scoreflow.errors import RunError
from scoreflow.likelihood import flow_likelihood as solving
from scoreflow.likelihood.flow_likelihood import Solver
from scoreflow.models.score_model import ScoreModel
from scoreflow.sde import SDE, Denoiser
from scoreflow.sde.flow import velocity, velocity_and_divergence
from scoreflow.sde.types import Batch, Times
from scoreflow.storage.atomic_files import Json

GOOD_ENOUGH = 1e-3
"""Accepted mean over images of the absolute error, bits/dim."""
Field = Callable[[SDE, Denoiser, Times, Batch, Iterable[Tensor]], tuple[Batch, Tensor]]
Way = tuple[Field, ScoreModel]
"""How the divergence is computed, and the model."""
Case = tuple[str, float]
"""The name of a way, and the tolerance of the solver."""


def by_jvp(
    sde: SDE, denoiser: Denoiser, angle: Times, x: Batch, probes: Iterable[Tensor]
) -> tuple[Batch, Tensor]:
    """`velocity_and_divergence` by forward differentiation, with one evaluation a probe."""
    products = []
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # no other attention has a tangent
        for probe in probes:
            with forward_ad.dual_level():
                moved = velocity(sde, denoiser, angle, forward_ad.make_dual(x.detach(), probe))
                v, tangent = forward_ad.unpack_dual(moved)
            products.append((tangent * probe).flatten(1).sum(1))
    return v, torch.stack(products, dim=1)


def ways(bench: Bench) -> dict[str, Way]:
    """The ways by name; torch's GroupNorm has no tangent where channels are last in memory."""
    found: dict[str, Way] = {"vjp": (velocity_and_divergence, bench.trained)}
    plain = contiguous(bench.trained)
    if bench.trained.channels_last:
        found["vjp, not channels-last"] = velocity_and_divergence, plain
    return {**found, "jvp": (by_jvp, plain)}


def contiguous(model: ScoreModel) -> ScoreModel:
    """A copy of the model whose weights are not channels-last in memory."""
    network = copy.deepcopy(model.network).to(memory_format=torch.contiguous_format)
    other = model.with_network(network)
    other.channels_last = False
    return other


def solved(way: Way, points: Points, tolerance: float) -> tuple[Tensor, float]:
    """Bits/dim of each image, (B,), and evaluations an image; a RunError if one is unsolved."""
    field, model = way
    with mock.patch.object(solving, "velocity_and_divergence", field):
        found = ours(model, points, solver_of(tolerance))
    if found.unsolved:
        raise RunError(f"{found.unsolved} images are not solved at tolerance {tolerance:g}")
    return found.bits.mean(1), float(found.evaluations.double().mean())


def loosest(errors: dict[float, float]) -> float | None:
    """The loosest tolerance at which it and all tighter ones have a small error; None without."""
    best = None
    for tolerance in sorted(errors):
        if not errors[tolerance] < GOOD_ENOUGH:
            break
        best = tolerance
    return best


def timed_tolerances(best: float | None) -> dict[float, str]:
    """The tolerances that are timed, and why: the default, and the `loosest` if there is one."""
    good, own = f"loosest with an error below {GOOD_ENOUGH:g}", Solver().tolerance
    if best is None or best == own:
        return {own: "default" if best is None else f"default, and {good}"}
    return {own: "default", best: good}


def measured(bench: Bench, images: int, rounds: int) -> Json:
    """Errors by tolerance, and images a second of every way at the default and the loosest one."""
    points, everyone = bench.points(bench.test[:images]), ways(bench)
    say("errors by tolerance")
    truth = solved(everyone["vjp"], points, TRUTH)[0]

    def found_by(name: str, tolerance: float) -> Json:
        bits, evaluations = solved(everyone[name], points, tolerance)
        return {"error": float((bits - truth).abs().mean()), "evaluations": evaluations}

    errors = {tolerance: found_by("vjp", tolerance)["error"] for tolerance in TOLERANCES}
    chosen = timed_tolerances(loosest(errors))
    cases = [(name, tolerance) for tolerance in chosen for name in everyone]
    found = {case: found_by(*case) for case in cases}  # and once before it is timed
    times: dict[Case, list[float]] = {case: [] for case in cases}
    for number in range(rounds):
        say(f"likelihood, round {number + 1} of {rounds}")
        for case in cases:
            run = lambda _, case=case: solved(everyone[case[0]], points, case[1])  # noqa: E731
            times[case].append(timed(run, 1, bench.test.device))
    rows = [{**row(c, times, images), "for": chosen[c[1]], **found[c]} for c in cases]
    return {"truth": TRUTH, "errors": [list(pair) for pair in errors.items()], "rows": rows}


def row(case: Case, times: dict[Case, list[float]], images: int) -> Json:
    """The row of one way at one tolerance, from its seconds in each round."""
    own = times[case]
    return {
        "divergence": case[0],
        "tolerance": case[1],
        **measure.middle("seconds", own),
        **measure.middle("images_per_second", [images / each for each in own]),
        "over_vjp": measure.ratio(own, times["vjp", case[1]]),
        "seconds_each": own,
    }


def text(found: Json) -> str:
    """The table in Markdown, and the errors at all tolerances."""
    head = ["tolerance", "which is", "divergence", "images/s", "x vjp, seconds"]
    head += ["mean error, bits/dim", "evaluations"]
    cells = []
    for r in found["rows"]:
        line = [f"{r['tolerance']:g}", r["for"], r["divergence"]]
        line += [measure.shown(r, "images_per_second", ".2f"), f"{r['over_vjp']:.2f}"]
        cells.append([*line, f"{r['error']:.1e}", f"{r['evaluations']:.0f}"])
    errors = ", ".join(f"{error:.1e} at {tolerance:g}" for tolerance, error in found["errors"])
    ending = f"Mean error by vjp, bits/dim: {errors}."
    if loosest(dict(map(tuple, found["errors"]))) is None:
        ending += f" None of them is below {GOOD_ENOUGH:g}."
    return f"{measure.table(head, cells)}\n\n{ending}"
