"""Profile of a training step: time by phase and by operation, and a trace.

Recorded by torch.profiler, on the run's own step: `Trainer` names its phases.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from scoreflow.runtime.stopwatch import Stopwatch
from scoreflow.storage.atomic_files import Json
from scoreflow.training.trainer import PHASES, Trainer

SHOWN = 15
"""Operations that the table has, the dearest first."""


@dataclass(frozen=True)
class Spent:
    """Time of a step taken by a phase or an operation.

    Attributes:
        name: of the phase or operation.
        milliseconds: a step; of an operation, without those that it is made of.
        share: of all the phases, or of all the operations.
        calls: a step.
    """

    name: str
    milliseconds: float
    share: float
    calls: float


def measure(trainer: Trainer, num_steps: int, warmup: int, trace: Path) -> Json:
    """Train some steps under the profiler.

    On a GPU an operation's time is that of its kernels, and a phase's is the host's: what it takes
    to launch them, unless it waits.

    Args:
        trainer: of the run; its weights move.
        num_steps: steps profiled.
        warmup: steps before them, in which what is only done once is done.
        trace: where the trace goes, a .json.gz for chrome://tracing or Perfetto.

    Returns:
        Milliseconds a step (not profiled: the profiler slows it), images/s, the phases and the
        operations.
    """
    device = trainer.data.train.device
    on_gpu = device.type == "cuda"
    trainer.advance(warmup)
    watch = Stopwatch(device)
    trainer.advance(num_steps)
    seconds = watch.seconds / num_steps
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities) as profiler:
        trainer.advance(num_steps)
        if on_gpu:
            torch.cuda.synchronize(device)
    # it appears whole; the ending says it is packed
    unfinished = trace.with_name(f".{trace.name}")
    profiler.export_chrome_trace(str(unfinished))
    os.replace(unfinished, trace)
    events = profiler.key_averages()
    clock = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    phases = [(e.key, e.cpu_time_total, e.count) for e in events if e.key in PHASES]
    phases.sort(key=lambda row: PHASES.index(row[0]))
    operations = [(e.key, getattr(e, clock), e.count) for e in events if e.key not in PHASES]
    operations.sort(key=lambda row: -row[1])
    return {
        "value": 1e3 * seconds,
        "unit": "milliseconds a training step, not profiled",
        "images_per_second": trainer.settings.batch_size / seconds,
        "phases": [vars(row) for row in _rows(phases, num_steps)],
        "operations": [vars(row) for row in _rows(operations, num_steps)[:SHOWN]],
    }


def _rows(found: list[tuple[str, float, int]], num_steps: int) -> list[Spent]:
    whole = sum(microseconds for _, microseconds, _ in found) or 1.0
    return [
        Spent(name, microseconds / num_steps / 1e3, microseconds / whole, count / num_steps)
        for name, microseconds, count in found
    ]


def table(result: Json) -> str:
    """Phases and operations for the terminal."""
    lines = [
        f"{result['value']:.2f} ms a step, {result['images_per_second']:.1f} images/s; where "
        "the profiler finds it:"
    ]
    for title in ("phases", "operations"):
        lines.append(f"\n{title[:-1]:40s}{'ms a step':>12s}{'share':>9s}{'calls':>9s}")
        lines += [
            f"{row['name'][:39]:40s}{row['milliseconds']:12.3f}{100 * row['share']:8.1f}%"
            f"{row['calls']:9.1f}"
            for row in result[title]
        ]
    return "\n".join(lines)
