"""The rows of the comparison: what each case cost, and each part of its error."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.likelihood import settings
from benchmarks.likelihood.bench import Bench, Outcome, Points
from benchmarks.likelihood.equal_error.cases import Case
from benchmarks.likelihood.equal_error.reference import Reference
from benchmarks.likelihood.timing import Job
from scoreflow.errors import RunError
from scoreflow.sde.flow import sign_set_size
from scoreflow.sde.noise import Noise
from scoreflow.storage.atomic_files import Json
from scoreflow.uncertainty import mean_and_error


@dataclass(frozen=True)
class Measured:
    """A case that has been run.

    Attributes:
        case: the case.
        job: its runs: the first with the noise of the references, every other with its own.
        solver: error of the solver alone, bits/dim, (B,).
    """

    case: Case
    job: Job
    solver: Tensor


def measured(
    bench: Bench, points: Points, cases: list[Case], reference: Reference, repeats: int
) -> list[Measured]:
    """Run all cases in turn.

    Args:
        bench: the network.
        points: what is scored.
        cases: all settings of all procedures.
        reference: of these points.
        repeats: runs of each; `nodes`, whose errors are measured, has `settings.REPETITIONS`.
    """
    jobs = [
        Job(case.heading, lambda repeat, case=case: case.run(renewed(points, repeat)),
            reference.exact[case.schedule])
        for case in cases
    ]  # fmt: skip
    for repeat in range(max(repeats, settings.REPETITIONS)):
        for case, job in zip(cases, jobs, strict=True):
            if repeat < repeats or case.finer is not None:
                job.once_more()
    return [
        Measured(case, job, _solver_error(case, job.outcomes[0], points, reference))
        for case, job in zip(cases, jobs, strict=True)
    ]


def renewed(points: Points, repeat: int) -> Points:
    """The same points with the probes, and nodes, of another repetition."""
    noise = Noise(points.noise.seed + repeat, points.noise.index)
    return Points(points.x, points.offset, noise, points.t)


def _solver_error(case: Case, found: Outcome, points: Points, reference: Reference) -> Tensor:
    """Bits/dim, (B,); nan for images that were not solved."""
    if case.finer is None:
        return found.bits[:, 0] - reference.same_probe[case.schedule]
    return found.bits.mean(1) - case.finer(points).bits.mean(1)


def probe_variance(bench: Bench, all_measured: list[Measured]) -> float:
    """Variance over probes of an image's bits/dim by one fixed probe, a mean over images.

    From the solve with most probes: P of a set of K drawn without replacement spread about their
    own mean by K / (K - 1) times the variance over the whole set.

    Raises:
        RunError: no case has two probes, or its images are not solved.
    """
    size = sign_set_size(bench.test[0].numel())
    fixed = [each for each in all_measured if each.case.method == "dopri5"]
    bits = max((each.job.outcomes[0].bits for each in fixed), key=lambda found: found.shape[1])
    value = float(bits.var(1).mean()) * (size - 1) / size
    if not math.isfinite(value):
        raise RunError("the variance of a probe is not known, for an image was not solved")
    return value


def left_of(variance: float, probes: int, size: int) -> float:
    """Variance of the mean over P of K signs, drawn without replacement."""
    return variance / probes * (1 - (probes - 1) / max(size - 1, 1))


def row(bench: Bench, each: Measured, variance: float) -> Json:
    """Costs and errors of a case, in bits/dim.

    scatter: what independent repetitions average; bias: the mean of the solver's error, with its
    standard error over images; solver_rms: its root mean square; error: all of it.
    """
    found, job = each.job.row(), each.job
    bias, bias_error = mean_and_error(each.solver)
    solver = float(each.solver.square().mean())
    bits = torch.stack([outcome.bits.mean(1) for outcome in job.outcomes])
    errors = (bits - job.truth).mean(0) if job.truth is not None else bits.mean(0)
    own = each.case.finer is not None
    if own:
        scatter = float(bits.var(0).mean())
        error = found["rms_error"] or math.nan
    else:
        size = sign_set_size(bench.test[0].numel())
        scatter = left_of(variance, found["probes"], size)
        error = math.sqrt(scatter + solver)
    found |= {
        "repetitions": len(bits),
        "images": bits.shape[1],
        "mean_error_error": mean_and_error(errors)[1],
        "bias": bias,
        "bias_error": bias_error,
        "solver_rms": math.sqrt(solver),
        "scatter": math.sqrt(scatter),
        "error": error,
        "error_is": "measured" if own else "scaled",
        "averaged": each.case.averaged,
    }
    lost = {"bias", "bias_error", "solver_rms", "scatter", "error", "mean_error_error"}
    return {k: None if k in lost and not math.isfinite(v) else v for k, v in found.items()}
