"""Profile of a training step: time by phase and by operation, and a trace.

Recorded by torch.profiler, on the run's own step: `Trainer` names its phases.
"""

import errno
import gzip
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from scoreflow.runtime.stopwatch import Stopwatch
from scoreflow.storage.atomic_files import Json, replacing
from scoreflow.storage.regular_files import temporary_folder
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
    _write(profiler, trace)
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


def _write(profiler: profile, trace: Path) -> None:
    """The trace, packed; torch writes it unpacked, and does not say where it could not."""
    with replacing(trace) as temporary, temporary_folder(trace) as place:
        plain = place / "trace.json"
        profiler.export_chrome_trace(str(plain))
        with open(plain, "rb") as whole, gzip.open(temporary, "wb") as packed:
            shutil.copyfileobj(whole, packed, 2**20)
        if not _ends_an_object(plain):
            raise OSError(errno.ENOSPC, "torch could not write the whole trace")


def _ends_an_object(path: Path) -> bool:
    """Whether a JSON file was written to its end."""
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 16))
        return file.read().rstrip().endswith(b"}")


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
