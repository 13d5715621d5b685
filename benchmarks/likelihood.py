"""Exact likelihood: the usual procedure beside ours, as error against seconds.

    python -m benchmarks.likelihood --workdir runs/digits-vp [--images 64] [--repeats 3]
                                    [--crowd 32] [--device cpu]
                                    [--out results/cpu/likelihood-benchmark.json]

The usual procedure (Song et al. 2021, their likelihood.py re-enacted from its description) is
scipy's RK45 over the whole batch's joined state (x, log p) at rtol = atol = 1e-5, in the time t of
the SDE, with drift f x - g^2 score / 2 from one pass through the network and its divergence from a
second one, in float32, and a round trip through numpy at every evaluation. Ours is
`scoreflow.likelihood.Flow`: Dormand-Prince in the angle, each image with its own step, drift and
divergence from one pass, one vjp a probe. Both score the same points (uniform dequantization)
with the same single probe and the same averaged weights in float32, in one process, in turn.

Two clocks of the usual procedure are measured. A schedule that is a table has a kink at every
integer t, of which Song's closed forms have none: the headline is won against the same table made
smooth (a cubic spline of its log-SNR: the same path, no kink); "kinks" is the table as it is. The
rows between them take one difference away at a time.

The true error of a row is its difference to ours at tolerance 1e-6 with the same probe, image by
image. A crowd with two outliers shows what it costs the others, and the last table what a probe of
the divergence is worth, against the exact one.
"""

import argparse
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import scipy.integrate
import scipy.interpolate
import torch
from torch import Tensor

from scoreflow import factory
from scoreflow.cli.main import environment
from scoreflow.errors import RequestError, RunError
from scoreflow.likelihood.dequantization import Dequantizer
from scoreflow.likelihood.flow_likelihood import Flow, Solver
from scoreflow.models.score_model import ScoreModel
from scoreflow.samplers import Counted
from scoreflow.schema import request, resolve
from scoreflow.sde.base import SDE, broadcast
from scoreflow.sde.flow import sign_probes, sign_set_size
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.ode import Status
from scoreflow.sde.types import Times
from scoreflow.sde.vp import VPSDE
from scoreflow.storage.atomic_files import Json, dumps, write_atomic
from scoreflow.storage.run_folder import RunDir
from scoreflow.trained_run import trained_of

TRUTH = 1e-6
USUAL = 1e-5
"""The tolerance that the usual procedure comes with."""
TOLERANCES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5)
CURVE = (1e-3, 1e-4, USUAL)
"""Tolerances of all the others."""
GOOD_ENOUGH = 1e-3  # bits/dim, of the mean
PROBES = (1, 2, 4, 8, 16, 32)
DIVERGENCE_IMAGES, DIVERGENCE_TOLERANCE = 16, 1e-3
FLIPPED = 7  # pixels of an outlier, of P10 in the guide to pitfalls
SLOW = 30.0  # seconds after which a run is not repeated
CAP_SECONDS = 300.0  # for one run of the usual procedure
SEED = 0


# ---- a clock without kinks


class Smooth(SDE):
    """A VP process whose log-SNR is the cubic spline through a table's at t = 1..N.

    At integers its path is the table's; between them it has two continuous derivatives.
    """

    def __init__(self, table: VPSDE) -> None:
        self.num_steps = table.num_steps
        knots = torch.arange(1, table.num_steps + 1, dtype=torch.float64)
        self._values = table.log_snr(knots)
        spline = scipy.interpolate.CubicSpline(knots.numpy(), self._values.numpy())
        self._cubics = torch.from_numpy(np.ascontiguousarray(spline.c.T))  # (N - 1, 4)

    def log_snr(self, t: Times) -> Times:
        """The spline."""
        a, b, c, d, x = self._piece(t)
        return ((a * x + b) * x + c) * x + d

    def log_alpha(self, t: Times) -> Times:
        """Of alpha^2 = sigmoid(log-SNR)."""
        return 0.5 * torch.nn.functional.logsigmoid(self.log_snr(t))

    def variance(self, t: Times) -> Times:
        """sigma^2 = 1 - alpha^2."""
        return torch.sigmoid(-self.log_snr(t))

    def time(self, angle: Times) -> Times:
        """Newton's method on the spline, from the table's own interpolation."""
        wanted = (-2 * angle.tan().log()).to(torch.float64)
        values = self._values.to(angle.device)
        right = torch.searchsorted(-values, -wanted).clamp(1, self.num_steps - 1)
        below, above = values[right - 1], values[right]
        t = right + (wanted - below) / (above - below)
        for _ in range(6):
            t = t - (self.log_snr(t) - wanted) / self._slope(t)
        return t.clamp(1, self.num_steps)

    def drift(self, t: Times) -> Times:
        """In closed form, as a schedule of the usual procedure has it: sigma^2 log-SNR' / 2."""
        return 0.5 * self.variance(t) * self._slope(t)

    def diffusion(self, t: Times) -> Times:
        """In closed form: g^2 = -sigma^2 log-SNR'."""
        return (-self.variance(t) * self._slope(t)).sqrt()

    def _slope(self, t: Tensor) -> Tensor:
        a, b, c, _, x = self._piece(t)
        return (3 * a * x + 2 * b) * x + c

    def _piece(self, t: Tensor) -> tuple[Tensor, ...]:
        """The cubic's coefficients at t, and where in it t lies."""
        left = t.detach().floor().clamp(1, self.num_steps - 1)
        self._cubics = self._cubics.to(t.device)
        return *self._cubics[left.long() - 1].unbind(-1), t - left


# ---- what is scored, and how it came out


@dataclass(frozen=True)
class Points:
    """Dequantized images at the time where the flow starts.

    Attributes:
        x: (B, ...) float64.
        offset: nats, (B,): what turns a log density into the log probability of an image.
        noise: addresses the probes.
        t: in steps.
    """

    x: Tensor
    offset: Tensor
    noise: Noise
    t: float

    @property
    def dims(self) -> int:
        """Of an image."""
        return self.x[0].numel()

    def bits(self, log_prob: Tensor) -> Tensor:
        """Bits/dim, (B, P), of log densities in nats, (B, P)."""
        return (-(log_prob + self.offset[:, None]) / (self.dims * math.log(2))).cpu()


def points_of(model: ScoreModel, levels: Tensor, num_levels: int, t: float) -> Points:
    """Images, uniformly dequantized; an image has the same noise wherever it occurs."""
    noise = Noise.of(SEED, 0, len(levels), levels.device)
    dequantizer = Dequantizer("uniform", num_levels, t)
    x, offset = dequantizer.place(model, model.sde, levels, noise)
    return Points(x, offset, noise, t)


@dataclass(frozen=True)
class Outcome:
    """What one run found.

    Attributes:
        bits: bits/dim, (B, P); nan where it was not solved.
        evaluations: of the field, (B,).
        forwards: passes forward through the network, an image on average.
        products: vector-Jacobian products, an image on average.
        unsolved: how many images.
    """

    bits: Tensor
    evaluations: Tensor
    forwards: float
    products: float
    unsolved: int


Method = Callable[[Points, float], Outcome]
"""(what is scored, tolerance) -> what was found."""


# ---- the usual procedure


class _CappedError(Exception):
    """The usual procedure has taken too long."""


class Usual:
    """The field of the usual procedure, on numpy's flat state (all x, then all log p).

    Args:
        model: a float32 network.
        points: a batch that is solved as one.
        passes: 2 as usual; 1 takes drift and divergence from the same pass.
        cap: seconds after which it gives up.
    """

    def __init__(self, model: ScoreModel, points: Points, passes: int, cap: float) -> None:
        self.model, self.sde, self.passes = Counted(model), model.sde, passes
        self.shape, self.device = points.x.shape, points.x.device
        event = tuple(self.shape[1:])
        self.probe = sign_probes(points.noise, event, 1)[:, 0].float()
        self.evaluations, self.deadline = 0, time.monotonic() + cap

    def drift(self, x: Tensor, t: Tensor, f: Tensor, g: Tensor) -> Tensor:
        """The drift f x - g^2 score / 2, of Song et al. 2021, Eq. 13."""
        return f * x - 0.5 * g**2 * self.model(x, t).score

    def divergence(self, x: Tensor, *coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """The drift with a graph, and probe^T J probe, (B,)."""
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            drift = self.drift(x, *coefficients)
            (product,) = torch.autograd.grad((drift * self.probe).sum(), x)
        return drift.detach(), (product * self.probe).flatten(1).sum(1)

    @torch.no_grad()
    def __call__(self, clock: float, flat: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The derivative in t."""
        if time.monotonic() > self.deadline:
            raise _CappedError
        self.evaluations += 1
        x = torch.from_numpy(flat[: -self.shape[0]]).to(self.device).float().view(self.shape)
        t = torch.tensor(clock, dtype=torch.float64)
        f, g = broadcast(self.sde.drift(t), x), broadcast(self.sde.diffusion(t), x)
        first = self.drift(x, t, f, g) if self.passes == 2 else None
        second, product = self.divergence(x, t, f, g)
        parts = (second if first is None else first).flatten(), product
        return np.concatenate([part.cpu().numpy().astype(np.float64) for part in parts])


def usual(
    model: ScoreModel,
    points: Points,
    tolerance: float,
    passes: int = 2,
    cap: float | None = None,
) -> Outcome:
    """Scipy's RK45 in t over the whole batch at once."""
    batch, sde = len(points.x), model.sde
    slope = Usual(model, points, passes, CAP_SECONDS if cap is None else cap)
    start = np.concatenate([points.x.flatten().cpu().numpy(), np.zeros(batch)])
    span = (points.t, float(sde.num_steps))
    try:
        found = scipy.integrate.solve_ivp(
            slope, span, start, method="RK45", rtol=tolerance, atol=tolerance
        )
        end = torch.from_numpy(found.y[:, -1]) if found.success else None
    except _CappedError:
        end = None
    log_prob = torch.full((batch,), math.nan, dtype=torch.float64)
    if end is not None:
        latent, std = end[:-batch].view(batch, -1), sde.prior_std()
        energy = (latent / std) ** 2 + torch.log(2 * math.pi * std**2)
        log_prob = -0.5 * energy.sum(1) + end[-batch:]
    return Outcome(
        points.bits(log_prob[:, None].to(points.offset.device)),
        torch.full((batch,), slope.evaluations),
        slope.model.rows / batch,
        float(slope.evaluations),
        0 if end is not None else batch,
    )


# ---- ours


def ours(model: ScoreModel, points: Points, solver: Solver, capacity: int = 0) -> Outcome:
    """`Flow`, with the points as a queue; capacity 0 takes all of them at once."""
    counted, batch, left = Counted(model), len(points.x), [0]
    flow = Flow(counted, model.sde, points.x, points.t, solver)

    def arrivals(most: int) -> tuple[Tensor, Noise]:
        now = slice(left[0], min(left[0] + most, batch))
        left[0] = now.stop
        return points.x[now], Noise(points.noise.seed, points.noise.index[now])

    found = list(flow.solve(arrivals, capacity or batch))
    order = torch.cat([each.row for each in found]).argsort()

    def column(name: str) -> Tensor:
        return torch.cat([getattr(each, name) for each in found])[order]

    evaluations, done = column("evaluations").cpu(), (column("status") == Status.DONE).cpu()
    bits = points.bits(column("log_prob")).where(done[:, None], math.nan)
    forwards = counted.rows / batch
    products = forwards * (solver.probes or points.dims)
    return Outcome(bits, evaluations, forwards, products, int((~done).sum()))


def solver_of(tolerance: float, method: str = "dopri5", probes: int = 1) -> Solver:
    """One number for both tolerances."""
    return Solver(probes, tolerance, tolerance, method)


# ---- what is measured


@dataclass(frozen=True)
class Asked:
    """A command line."""

    workdir: Path
    images: int
    crowd: int
    repeats: int
    device: torch.device
    out: Path
    command: list[str]


@dataclass(frozen=True)
class Bench:
    """A trained network and its test images.

    Attributes:
        models: in float32, on the schedule "as trained" and, where that is a table with kinks, on
            the "smooth" one.
        test: levels.
        num_levels: L.
        t: where the flow starts, in steps.
        step: of training.
    """

    models: dict[str, ScoreModel]
    test: Tensor
    num_levels: int
    t: float
    step: int

    @property
    def song(self) -> str:
        """The schedule that the usual procedure gets."""
        return "smooth" if "smooth" in self.models else "as trained"

    def points(self, levels: Tensor) -> Points:
        """Those images."""
        return points_of(self.models["as trained"], levels, self.num_levels, self.t)

    def usual(self, clock: str, points: Points, tolerance: float, passes: int = 2) -> Outcome:
        """The usual procedure on a schedule."""
        return usual(self.models[clock], points, tolerance, passes)

    def ours(
        self, points: Points, solver: Solver, capacity: int = 0, clock: str = "as trained"
    ) -> Outcome:
        """Ours."""
        return ours(self.models[clock], points, solver, capacity)


def bench_of(asked: Asked) -> Bench:
    """The trained network of a run's folder; a RequestError where there is none to measure."""
    run = RunDir.open(asked.workdir)
    if not run.checkpoint_steps():
        raise RequestError(f"{run.path} has no checkpoint: train it with --mode train")
    config = resolve.resolve(request.flatten(run.config), str(run.path / "config.json"))
    experiment = factory.experiment(config, asked.device, training=False)
    data = experiment.data
    if data.num_levels is None:
        raise RequestError(f"{run.path} is a run on vectors; bits/dim are of images")
    if max(asked.images, asked.crowd) > len(data.test):
        raise RequestError(
            f"--images and --crowd must be at most {len(data.test)}, the test images of "
            f"{run.path}, got {asked.images} and {asked.crowd}"
        )
    model, step = trained_of(experiment, run, say)
    models = {"as trained": model.in_precision("float32")}
    if isinstance(model.sde, VPSDE) and model.t_min >= 1:
        smooth = factory.build_model(experiment.config, model.network, Smooth(model.sde))
        models["smooth"] = smooth.in_precision("float32")
    return Bench(models, data.test, data.num_levels, model.t_min, step)


def say(line: str) -> None:
    """Progress."""
    print(line, file=sys.stderr, flush=True)


@dataclass
class Job:
    """One thing to time.

    Attributes:
        heading: of its row.
        run: does it, for the n-th time; what it returns lies on the CPU.
        truth: the first images' bits/dim, or None.
        outcomes: one a run.
        seconds: one a run.
    """

    heading: Json
    run: Callable[[int], Outcome]
    truth: Tensor | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def once_more(self) -> None:
        """Run it, unless it has shown to be slow."""
        if self.seconds and self.seconds[0] > SLOW:
            return
        start = time.perf_counter()
        self.outcomes.append(self.run(len(self.seconds)))
        self.seconds.append(time.perf_counter() - start)
        if len(self.seconds) == 1:
            say(f"{', '.join(map(_shown, self.heading.values()))}: {said(self.row())}")

    def row(self) -> Json:
        """Its numbers: errors over all runs and images, in bits/dim; counts of the last run."""
        found = self.outcomes[-1]
        return {
            **self.heading,
            "seconds": float(np.median(self.seconds)),
            "all_seconds": self.seconds,
            "evaluations": float(found.evaluations.double().mean()),
            "most_evaluations": int(found.evaluations.max()),
            "forwards": found.forwards,
            "products": found.products,
            "unsolved": found.unsolved,
            **self._errors(),
        }

    def _errors(self) -> Json:
        names = ("mean_error", "rms_error", "worst_error")
        if self.truth is None or len(self.truth) == 0:
            return dict.fromkeys(names)
        count = len(self.truth)
        errors = torch.stack([each.bits.mean(1)[:count] - self.truth for each in self.outcomes])
        if not bool(errors.isfinite().all()):
            return dict.fromkeys(names)
        values = errors.mean(), errors.square().mean().sqrt(), errors.abs().max()
        return dict(zip(names, map(float, values), strict=True))


def _shown(value: Any) -> str:  # noqa: ANN401
    return f"{value:g}" if isinstance(value, float) else str(value)


def said(row: Json) -> str:
    """A row in a line, while it runs."""
    error = ""
    if row["rms_error"] is not None:
        error = f", mean error {row['mean_error']:+.1e}, RMS {row['rms_error']:.1e} bits/dim"
    missing = f", {row['unsolved']} unsolved" if row["unsolved"] else ""
    return f"{row['seconds']:.2f} s, {row['evaluations']:.0f} evaluations{error}{missing}"


def in_turn(jobs: list[Job], repeats: int) -> list[Json]:
    """The rows of jobs that were run in turn, so that what else a machine does meets all."""
    for _ in range(repeats):
        for job in jobs:
            job.once_more()
    return [job.row() for job in jobs]


def truths(bench: Bench, points: Points) -> tuple[dict[str, Tensor], list[Json]]:
    """On each schedule the images' bits/dim at the tightest tolerance, (B,), and the rows."""
    jobs = [
        Job({"method": f"truth {clock}", "tolerance": TRUTH},
            lambda _, c=clock: bench.ours(points, solver_of(TRUTH), clock=c))
        for clock in bench.models
    ]  # fmt: skip
    rows = in_turn(jobs, 1)
    for row in rows:
        if row["unsolved"]:
            raise RunError(f"{row['unsolved']} images have no truth at tolerance {TRUTH:g}")
    found = [job.outcomes[0].bits.mean(1) for job in jobs]
    return dict(zip(bench.models, found, strict=True)), rows


def curves(bench: Bench, points: Points, truth: dict[str, Tensor], repeats: int) -> list[Json]:
    """Every method at each of its tolerances."""
    jobs: list[Job] = []

    def add(name: str, tolerances: tuple[float, ...], clock: str, method: Method) -> None:
        for tolerance in tolerances:
            heading = {"method": name, "tolerance": tolerance}
            run = lambda _, tol=tolerance: method(points, tol)  # noqa: E731
            jobs.append(Job(heading, run, truth[clock]))

    def flow(name: str) -> Method:
        return lambda p, tol: bench.ours(p, solver_of(tol, name))

    add("usual", CURVE, bench.song, lambda p, tol: bench.usual(bench.song, p, tol))
    if bench.song != "as trained":
        kinks: Method = lambda p, tol: bench.usual("as trained", p, tol)  # noqa: E731
        add("usual, kinks", CURVE, "as trained", kinks)
    add("usual, one pass", CURVE, bench.song, lambda p, tol: bench.usual(bench.song, p, tol, 1))
    for name in ("scipy:RK45", "torchdiffeq:dopri5"):
        add(f"angle, {name}", CURVE, "as trained", flow(name))
    add("ours", TOLERANCES, "as trained", flow("dopri5"))
    rows = in_turn(jobs, repeats)
    for row, job in zip(rows, jobs, strict=True):
        row["bits_each"] = _plain(job.outcomes[-1].bits.mean(1))
    return rows


def _plain(values: Tensor) -> list[float | None]:
    return [round(value, 7) if math.isfinite(value) else None for value in values.tolist()]


# ---- what is gained


def enough(rows: list[Json]) -> Json | None:
    """Ours at the loosest tolerance from which on the mean's error is small enough."""
    own = sorted((row for row in rows if row["method"] == "ours"), key=lambda r: r["tolerance"])
    best = None
    for row in own:  # from the tightest on, so that none is chosen by luck
        if row["mean_error"] is None or abs(row["mean_error"]) >= GOOD_ENOUGH:
            break
        best = row
    return best


def seconds_at_equal_error(slow: list[Json], fast: list[Json]) -> Json:
    """How many times the seconds of one curve are those of another, where their errors overlap.

    Seconds are interpolated in RMS error, both logarithmically, between the rows of each that no
    other is better than in both.
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
    """Seconds at the usual tolerance and along the curves, of every other method against ours."""
    best, found = enough(rows), {}
    named = {row["method"] for row in rows}
    own = [row for row in rows if row["method"] == "ours"]
    for name in sorted(named - {"ours"}):
        theirs = [row for row in rows if row["method"] == name]
        at = next(row for row in theirs if row["tolerance"] == USUAL)
        ratio = None if best is None else at["seconds"] / best["seconds"]
        found[name] = {
            "usual_tolerance_over_ours": ratio,
            "capped": bool(at["unsolved"]),
            "equal_error": seconds_at_equal_error(theirs, own),
            "as_accurate": [[row["tolerance"], _over_cheapest(row, own)] for row in theirs],
        }
    return {"ours_tolerance": None if best is None else best["tolerance"], "against": found}


# ---- a crowd with outliers


def flipped(levels: Tensor, noise: Noise, num_levels: int) -> Tensor:
    """Images with a few pixels, drawn by the noise, at the extreme that they are farther from."""
    flat = levels.flatten(1).clone()
    pixels = noise.uniform(Stream.DATA, (flat.shape[1],)).argsort(1)[:, :FLIPPED]
    near = flat.gather(1, pixels)
    far = torch.where(2 * near.long() < num_levels, num_levels - 1, 0).to(flat.dtype)
    return flat.scatter(1, pixels, far).view_as(levels)


def noisy(levels: Tensor, noise: Noise, num_levels: int) -> Tensor:
    """Images of independent levels, each as likely as the other."""
    u = noise.uniform(Stream.DATA, tuple(levels.shape[1:]))
    return (u * num_levels).to(levels.dtype)


OUTLIERS = {
    f"{FLIPPED} pixels at the opposite extreme": flipped,
    "uniform noise": noisy,
}


def crowd_of(levels: Tensor, num_levels: int, kind: str) -> Tensor:
    """Images of which the last two are made outliers."""
    noise = Noise.of(SEED, 0, len(levels), levels.device)
    out = OUTLIERS[kind](levels[-2:], noise.rows(noise.index[-2:]), num_levels)
    return torch.cat([levels[:-2], out])


def crowds(bench: Bench, size: int, tolerance: float, truth: Tensor, repeats: int) -> list[Json]:
    """The usual procedure and ours, at once and by the queue, on two outliers among so many.

    Args:
        bench: the network.
        size: of a crowd.
        tolerance: ours.
        truth: bits/dim of the first test images: errors are of those in the crowd.
        repeats: of what is cheap.
    """
    rows, half, ordinary = [], max(size // 2, 1), truth[: size - 2]
    for kind in OUTLIERS:
        points = bench.points(crowd_of(bench.test[:size], bench.num_levels, kind))
        jobs: list[Job] = []

        def add(name: str, tol: float, run: Callable[[int], Outcome], kind: str = kind) -> None:
            heading = {"outliers": kind, "method": name, "tolerance": tol}
            jobs.append(Job(heading, run, ordinary))  # noqa: B023

        for tol in (USUAL, CURVE[0]):
            add("usual", tol, lambda _, p=points, tol=tol: bench.usual(bench.song, p, tol))
        for name, capacity in (("ours, all at once", 0), (f"ours, {half} at a time", half)):
            run = lambda _, p=points, c=capacity: bench.ours(p, solver_of(tolerance), c)  # noqa: E731
            add(name, tolerance, run)
        found = in_turn(jobs, repeats)
        for row, job in zip(found, jobs, strict=True):
            row["outlier_evaluations"] = job.outcomes[-1].evaluations[-2:].tolist()
            row["outlier_bits"] = _plain(job.outcomes[-1].bits.mean(1)[-2:])
            row["usual_over_this"] = jobs[0].row()["seconds"] / row["seconds"]
        rows += found
    return rows


# ---- what a probe is worth


def divergence(bench: Bench, images: int, repeats: int) -> list[Json]:
    """Probes against the exact divergence, at one tolerance; new probes every time.

    The error of so many independent probes follows from the spread of the whole set of signs
    about its mean, which is the variance of one.
    """
    points = bench.points(bench.test[:images])
    size = sign_set_size(points.dims)
    exact = _probes_job(bench, points, "exact by unit vectors", 0)
    exact.once_more()
    exact.truth = exact.outcomes[0].bits.mean(1)
    counts = [count for count in PROBES if count < size]
    jobs = [_probes_job(bench, points, "signs", n, exact.truth) for n in counts]
    jobs.append(_probes_job(bench, points, "exact by all signs", size, exact.truth))
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


def _probes_job(
    bench: Bench, points: Points, name: str, probes: int, truth: Tensor | None = None
) -> Job:
    solver = solver_of(DIVERGENCE_TOLERANCE, probes=probes)

    def run(repeat: int) -> Outcome:
        noise = Noise(SEED + 1 + repeat, points.noise.index)
        return bench.ours(replace(points, noise=noise), solver)

    return Job({"divergence": name, "probes": probes}, run, truth)


# ---- what is written


def _markdown(header: str, lines: Iterable[Iterable[str]]) -> str:
    columns = header.count("|") - 1
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([header, "|" + "---|" * columns, *rows])


def _error(value: float | None, sign: str = "") -> str:
    return "not known" if value is None else f"{value:{sign}.1e}"


def _seconds(row: Json) -> str:
    return f"> {row['seconds']:.1f}, gave up" if row["unsolved"] else f"{row['seconds']:.2f}"


def _effort(row: Json) -> tuple[str, ...]:
    return tuple(f"{row[key]:.0f}" for key in ("evaluations", "forwards", "products"))


def table_of_curves(rows: list[Json]) -> str:
    """As Markdown."""
    header = "| method | tolerance | seconds | evaluations | passes | vjps "
    header += "| mean error, bits/dim | RMS error of an image | worst |"
    return _markdown(header, (
        (row["method"], f"{row['tolerance']:g}", _seconds(row), *_effort(row),
         _error(row["mean_error"], "+"), _error(row["rms_error"]), _error(row["worst_error"]))
        for row in rows
    ))  # fmt: skip


def table_of_crowds(rows: list[Json]) -> str:
    """As Markdown."""
    header = "| outliers | method | tolerance | seconds | times faster | evaluations "
    header += "| of the outliers | RMS error of the others |"
    capped = {row["outliers"]: bool(row["unsolved"]) for row in reversed(rows)}
    return _markdown(header, (
        (row["outliers"], row["method"], f"{row['tolerance']:g}", _seconds(row),
         f"{'> ' * capped[row['outliers']]}{row['usual_over_this']:.1f}", _effort(row)[0],
         ", ".join(map(str, row["outlier_evaluations"])), _error(row["rms_error"]))
        for row in rows
    ))  # fmt: skip


def table_of_probes(rows: list[Json]) -> str:
    """As Markdown."""
    header = "| divergence | probes | seconds | evaluations | RMS error of an image, bits/dim "
    header += "| expected | of independent signs |"
    return _markdown(header, (
        (row["divergence"], str(row["probes"] or "none"), _seconds(row), _effort(row)[0],
         _error(row["rms_error"]), f"{row['expected']:.1e}",
         "" if row["independent"] is None else f"{row['independent']:.1e}")
        for row in rows
    ))  # fmt: skip


def conclusions(record: Json) -> list[str]:
    """The gains in words."""
    found, lines = record["gains"], []
    tolerance = found["ours_tolerance"]
    if tolerance is None:
        lines.append(f"at no tolerance is our mean's error below {GOOD_ENOUGH:g} bits/dim")
    for name, gain in found["against"].items():
        more = "more than " if gain["capped"] else ""
        if tolerance is not None:
            lines.append(
                f"{name} at {USUAL:g} takes {more}{gain['usual_tolerance_over_ours']:.1f} times "
                f"the seconds of ours at {tolerance:g}, the loosest with a mean's error below "
                f"{GOOD_ENOUGH:g} bits/dim"
            )
        lines.append(f"{name} at equal RMS error: {_at_equal_error(gain['equal_error'])}")
        each = ", ".join(
            f"{'none' if ratio is None else f'{ratio:.2f}'} at {tol:g}"
            for tol, ratio in gain["as_accurate"]
        )
        lines.append(f"{name} over our cheapest row that is as accurate (RMS), seconds: {each}")
    for row in record["crowds"]:
        if row["method"].endswith("at a time"):
            gave_up = any(
                each["unsolved"] and each["outliers"] == row["outliers"]
                for each in record["crowds"]
            )
            lines.append(
                f"two outliers ({row['outliers']}) among {record['settings']['crowd']}: the usual "
                f"procedure takes {'more than ' * gave_up}{row['usual_over_this']:.1f} times the "
                f"seconds of {row['method']}"
            )
    return lines


def _at_equal_error(gain: Json) -> str:
    if gain["overlap"] is None:
        if "slow_range" not in gain:
            return "not known, for there is no error"
        slow, fast = ("{:.1e} .. {:.1e}".format(*gain[f"{k}_range"]) for k in ("slow", "fast"))
        return f"no overlap, {slow} there and {fast} ours"
    low, high = gain["overlap"]
    return (
        f"{gain['min']:.2f} (least) and {gain['median']:.2f} (median) times the seconds of ours, "
        f"over {low:.1e} .. {high:.1e} bits/dim"
    )


def caption(record: Json) -> str:
    """What the numbers are of, in a paragraph."""
    s = record["settings"]
    return (
        f"`{record['command']}`: {s['images']} test images of {s['workdir']} (step {s['step']}, "
        f"{s['dims']} dimensions, {s['num_levels']} levels), uniform dequantization, one probe, "
        f"float32, from t = {s['t']:g}; error against ours at tolerance {TRUTH:g} with the same "
        f"probe; seconds are the median of {s['repeats']} runs in turn (one where it took more "
        f"than {SLOW:g} s), the usual procedure gives up after {CAP_SECONDS:g} s; passes and vjps "
        f"an image. The usual procedure runs on the schedule {s['usual_schedule']!r}. On "
        f"{record['device']} ({s['threads']} threads, load {s['load'][0]:.1f}), commit "
        f"{record['commit']}, {record['minutes']:.1f} minutes in all."
    )


def report(record: Json) -> str:
    """The whole of it as Markdown."""
    parts = (
        "# Exact likelihood: error against seconds",
        caption(record),
        "\n".join(f"* {line}" for line in conclusions(record)),
        table_of_curves(record["methods"]),
        f"## Two outliers among {record['settings']['crowd']}",
        table_of_crowds(record["crowds"]),
        f"## The divergence, {record['settings']['divergence_images']} images at tolerance "
        f"{DIVERGENCE_TOLERANCE:g}",
        "Signs are drawn without replacement; expected and independent follow from the spread of "
        "the whole set. What all signs still miss is the solver's.",
        table_of_probes(record["divergence"]),
    )
    return "\n\n".join(parts) + "\n"


# ---- the command


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise RequestError(message)


def _at_least(low: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) < 2**31:
            raise argparse.ArgumentTypeError(f"a whole number from {low} up, got {text!r}")
        return int(text)

    return count


def parse(argv: list[str]) -> Asked:
    """The benchmark that a command line asks for, or a RequestError."""
    parser = _Parser("likelihood", description="exact likelihood, timed", allow_abbrev=False)
    parser.add_argument("--workdir", type=Path, required=True, help="a trained run's folder")
    parser.add_argument("--images", type=_at_least(2), default=64, help="of the test set")
    parser.add_argument("--crowd", type=_at_least(3), default=32, help="two of them outliers")
    parser.add_argument("--repeats", type=_at_least(1), default=3, help="of what is cheap")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="JSON; a table is written beside it")
    own = parser.parse_args(argv[1:])
    device = factory.build_device(own.device)
    out = own.out or request.ROOT / "results" / device.type / "likelihood-benchmark.json"
    if out.suffix != ".json":
        raise RequestError(f"--out must end in .json, got {out}")
    command = ["python", "-m", "benchmarks.likelihood", *argv[1:]]
    return Asked(own.workdir, own.images, own.crowd, own.repeats, device, out, command)


def measured(asked: Asked) -> Json:
    """All the numbers."""
    start, bench = time.monotonic(), bench_of(asked)
    try:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--out {asked.out} cannot be written ({error.strerror})") from error
    origin = environment(asked.command, str(asked.device))
    images = min(DIVERGENCE_IMAGES, asked.images)
    settings = {
        "workdir": str(asked.workdir),
        "step": bench.step,
        "images": asked.images,
        "crowd": asked.crowd,
        "repeats": asked.repeats,
        "divergence_images": images,
        "dims": bench.test[0].numel(),
        "num_levels": bench.num_levels,
        "t": bench.t,
        "seed": SEED,
        "usual_schedule": bench.song,
        "cap_seconds": CAP_SECONDS,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg(),
    }
    points = bench.points(bench.test[: asked.images])
    truth, truth_rows = truths(bench, points)
    rows = curves(bench, points, truth, asked.repeats)
    gained = gains(rows)
    tolerance = gained["ours_tolerance"] or USUAL
    return {
        "truth": truth_rows,
        "truth_bits": {name: bits.tolist() for name, bits in truth.items()},
        "methods": rows,
        "gains": gained,
        "crowds": crowds(bench, asked.crowd, tolerance, truth["as trained"], asked.repeats),
        "divergence": divergence(bench, images, asked.repeats),
        "settings": settings,
        **origin,
        "minutes": (time.monotonic() - start) / 60,
    }


def main(argv: list[str]) -> int:
    """Measure and write; returns the exit status, as `scoreflow.main` does."""
    # scipy's remark on rtol = 0, which the log-density has on purpose
    warnings.filterwarnings("ignore", message="At least one element of `rtol` is too small")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        asked = parse(argv)
        record = measured(asked)
        text = report(record)
        data = dumps(record, asked.out.name, RunError, indent=1)
        write_atomic(asked.out, data)
        write_atomic(asked.out.with_suffix(".md"), text.encode())
    except RequestError as error:
        return _fail(error, 2)
    except RunError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        print("\nstopped; nothing was written", file=sys.stderr)
        return 130
    print(text)
    return 0


def _fail(error: Exception, status: int) -> int:
    print(f"likelihood: {' '.join(str(error).split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv))
