"""Profile of a training step: time by phase and by operation, and a trace.

Recorded by torch.profiler, on the run's own step: `Trainer` names its phases.
"""

import errno
import gzip
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch._C._autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from scoreflow.runtime.stopwatch import Stopwatch
from scoreflow.storage.atomic_files import Json, replacing
from scoreflow.storage.regular_files import temporary_folder
from scoreflow.training.trainer import PHASES, Trainer

SHOWN = 15
"""Operations that the table has, the dearest first."""
OF_NO_OPERATION = "kernels of no operation"
"""Those that were launched outside torch's operations, as by a replayed graph."""


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
    phases = phase_times(profiler.events())
    operations = operation_times(profiler.events(), on_gpu)
    return {
        "value": 1e3 * seconds,
        "unit": "milliseconds a training step, not profiled",
        "images_per_second": trainer.settings.batch_size / seconds,
        "phases": [vars(row) for row in _rows(phases, num_steps)],
        "operations": [vars(row) for row in _rows(operations, num_steps)[:SHOWN]],
    }


def phase_times(events: Iterable[FunctionEvent]) -> list[tuple[str, float, int]]:
    """Name, microseconds of the host and calls of each phase, in their order.

    On a GPU torch lists a phase twice: as the host ran it, and the span of its kernels.
    """
    spent: dict[str, float] = defaultdict(float)
    calls = Counter[str]()
    for event in events:
        if event.device_type == DeviceType.CPU and event.key in PHASES:
            spent[event.key] += event.cpu_time_total
            calls[event.key] += 1
    return [(name, spent[name], calls[name]) for name in PHASES if calls[name]]


def operation_times(events: Iterable[FunctionEvent], on_gpu: bool) -> list[tuple[str, float, int]]:
    """Name, microseconds and calls of each operation, the dearest first; each kernel counts once.

    On a GPU torch lists a kernel with the operation that launched it, and by itself; a span that
    somebody named has a row of the host, with its length on the device among its kernels, and one
    of the device. An operation's time is that of the kernels it launched itself; what no operation
    launched is a row of its own, so that the rows' sum is the time of all kernels.

    Args:
        events: of a profile.
        on_gpu: whether its time is that of kernels, or of the host.
    """
    events = list(events)
    spans = {event.key for event in events if event.is_user_annotation} | {*PHASES}
    spent: dict[str, float] = defaultdict(float)
    calls, kernels = Counter[str](), 0
    for event in events:
        if event.device_type == DeviceType.CPU and event.key not in PHASES:
            own = [each.duration for each in event.kernels if each.name not in spans]
            spent[event.key] += sum(own) if on_gpu else event.self_cpu_time_total
            calls[event.key] += 1
            kernels += len(own)
    alone = [e for e in events if e.device_type != DeviceType.CPU and e.key not in spans]
    if len(alone) > kernels:
        every = sum(event.time_range.elapsed_us() for event in alone)
        spent[OF_NO_OPERATION] = every - sum(spent.values())
        calls[OF_NO_OPERATION] = len(alone) - kernels
    return sorted(((name, time, calls[name]) for name, time in spent.items()), key=lambda r: -r[1])


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
