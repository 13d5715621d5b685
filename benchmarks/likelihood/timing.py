"""Timed jobs that alternate, and the rows of what they found."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from benchmarks.likelihood import settings
from benchmarks.likelihood.bench import Outcome
from benchmarks.measure import say
from scoreflow.storage.atomic_files import Json


@dataclass
class Job:
    """One thing to time.

    Attributes:
        heading: first entries of its row.
        run: runs it, given the number of the repeat; its outcome lies on the CPU.
        truth: bits/dim of the first images, or None.
        outcomes: one a run.
        seconds: one a run.
    """

    heading: Json
    run: Callable[[int], Outcome]
    truth: Tensor | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def once_more(self) -> None:
        """Run it, unless its first run took longer than `settings.SLOW`."""
        if self.seconds and self.seconds[0] > settings.SLOW:
            return
        start = time.perf_counter()
        self.outcomes.append(self.run(len(self.seconds)))
        self.seconds.append(time.perf_counter() - start)
        if len(self.seconds) == 1:
            say(f"{', '.join(map(_shown, self.heading.values()))}: {summary(self.row())}")

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


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def summary(row: Json) -> str:
    """A row in one line, for the terminal."""
    error = ""
    if row["rms_error"] is not None:
        error = f", mean error {row['mean_error']:+.1e}, RMS {row['rms_error']:.1e} bits/dim"
    missing = f", {row['unsolved']} unsolved" if row["unsolved"] else ""
    return f"{row['seconds']:.2f} s, {row['evaluations']:.0f} evaluations{error}{missing}"


def in_turn(jobs: list[Job], repeats: int) -> list[Json]:
    """The rows of jobs that alternate, so that other load on the machine affects all of them."""
    for _ in range(repeats):
        for job in jobs:
            job.once_more()
    return [job.row() for job in jobs]


def rounded(bits: Tensor) -> list[float | None]:
    """Bits/dim, (B,), with seven digits; None for what is not finite."""
    return [round(value, 7) if math.isfinite(value) else None for value in bits.tolist()]
