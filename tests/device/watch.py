"""What is asked of the pretended device: mixtures, waits, and kernels by what they are for.

    with pretending() as device, watching() as seen:
        trainer.advance(1)
    assert not seen.waits
    assert seen.of("noise").kernels <= 12

A mixture of devices that CUDA refuses raises `Refused` where it is made.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from tests.device import rules
from tests.device.pretend import NAME, Mode, Pretended, mapped, tensors

ROOT = Path(__file__).parents[2]
PROJECT = tuple(f"{ROOT}/{name}/" for name in ("scoreflow", "sde", "samplers", "benchmarks"))

BY_FILE = (
    ("/sde/noise", "noise"),
    ("scoreflow/models/dropout", "dropout"),
    ("scoreflow/training/ema", "ema"),
    ("torch/optim/", "optimiser"),
    ("torch/nn/utils/clip_grad", "clip"),
    ("scoreflow/losses/", "loss"),
    ("scoreflow/data/", "batch"),
    ("scoreflow/training/", "batch"),
    ("/sde/ode/", "solver"),
    ("/sde/", "process"),
    ("/samplers/", "sampler"),
    ("scoreflow/models/", ""),
)
"""What a call is for, by the innermost file of its stack; in a network by what it computes."""
BY_NAME = (
    ("convolution", "convolutions"),
    ("native_group_norm", "norms"),
    ("silu", "activations"),
    ("_scaled_dot_product", "attention"),
    ("clone", "copies and casts"),
    ("_to_copy", "copies and casts"),
    ("copy_", "copies and casts"),
    ("mm", "products"),
    ("addmm", "products"),
    ("bmm", "products"),
    ("_fused_adam", "optimiser"),
)
REST = "elementwise"
LAYOUT = "layout copies"
AGAIN = " again"
"""After the source of what is computed a second time, on the way back."""


class Refused(RuntimeError):
    """CUDA would not take these devices together."""


@dataclass
class Tally:
    """Kernels, and the bytes that they move."""

    kernels: int = 0
    moved: int = 0

    def add(self, kernels: int, moved: int) -> None:
        """Count some more."""
        self.kernels += kernels
        self.moved += moved


@dataclass(frozen=True)
class Place:
    """A tensor argument of a call: where it is and how it lies, not what it holds."""

    device: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """One call: its name, its arguments with tensors as `Place`s, and the source line."""

    name: str
    args: str
    where: str


@dataclass
class Seen:
    """What was asked of the device.

    Attributes:
        waits: one line for each time that the host waits for it, with the line that asked.
        by_source: kernels and bytes by what they are for.
        by_call: launches by (source, name of the call), to find out why there are so many.
        calls: every call with a tensor on the device, if they are recorded.
    """

    waits: list[str] = field(default_factory=list)
    by_source: dict[str, Tally] = field(default_factory=dict)
    by_call: Counter[tuple[str, str]] = field(default_factory=Counter)
    calls: list[Call] = field(default_factory=list)

    def clear(self) -> None:
        """Forget all of it, as before a step that is to be looked at."""
        for each in (self.waits, self.by_source, self.by_call, self.calls):
            each.clear()

    def of(self, *sources: str) -> Tally:
        """Kernels and bytes for these, computed once or again; of all if none is named."""
        total = Tally()
        for source, tally in self.by_source.items():
            if not sources or source.removesuffix(AGAIN) in sources:
                total.add(tally.kernels, tally.moved)
        return total

    def table(self) -> str:
        """Lines of source, kernels and MB, most bytes first."""
        rows = sorted(self.by_source.items(), key=lambda row: -row[1].moved)
        total = self.of()
        lines = [f"{name:28} {t.kernels:6} {t.moved / 1e6:12.1f}" for name, t in rows]
        return "\n".join([*lines, f"{'all':28} {total.kernels:6} {total.moved / 1e6:12.1f}"])


class Watch(Mode):
    """Asks the rules about every call, and keeps what they say in `seen`.

    Args:
        record: whether `seen.calls` is written.
    """

    def __init__(self, record: bool = False) -> None:
        super().__init__()
        self.seen, self.record = Seen(), record
        self._of_node: dict[int, str] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        there = any(isinstance(x, Pretended) for x in tensors(args, kwargs))
        if not there and "device" not in kwargs:
            return func(*args, **kwargs)
        if bad := rules.mixing(func, args, kwargs):
            raise Refused(f"{_line()}: {bad}")
        out = func(*args, **kwargs)
        if why := rules.waiting(func, args, kwargs, out):
            self.seen.waits.append(f"{_line()}: {why}")
        counted = rules.launched(func, args, kwargs, out)
        name = rules.name_of(func)
        source = self._source(name)
        if counted.kernels:
            self._count(source, name, counted)
        if self.record and any(t.device.type == NAME for t in tensors(args, kwargs, out)):
            shown = repr(mapped(_placed, (args, kwargs)))
            self.seen.calls.append(Call(name, shown, _line()))
        return out

    def _count(self, source: str, name: str, counted: rules.Launched) -> None:
        tallies, layout = self.seen.by_source, counted.layout_kernels
        kernels, moved = counted.kernels - layout, counted.moved - counted.layout_moved
        tallies.setdefault(source, Tally()).add(kernels, moved)
        self.seen.by_call[source, name] += kernels
        if layout:
            tallies.setdefault(LAYOUT, Tally()).add(layout, counted.layout_moved)
            self.seen.by_call[LAYOUT, name] += layout

    def _source(self, name: str) -> str:
        """What a call is for: by its stack, or on the way back by that of its way forth."""
        node, own = torch._C._current_autograd_node(), rules.OWN.get(name)
        by_file, again = _by_stack()
        source = own.source if own else by_file or _by_name(name)
        if node is None or again:
            self._of_node[torch.autograd._get_sequence_nr() - 1] = source
            return source + AGAIN * again
        if own is None and by_file in ("", "batch"):  # the stack is the trainer's
            kept = self._of_node.get(node._sequence_nr(), "")
            known = _by_name(name)
            return kept if known == REST and kept else known
        return source


def _placed(value: object) -> object:
    if not isinstance(value, Tensor):
        return value
    return Place(value.device.type, value.dtype, tuple(value.shape), tuple(value.stride()))


@cache
def _by_name(name: str) -> str:
    return next((source for start, source in BY_NAME if name.startswith(start)), REST)


@cache
def _of_file(file: str) -> str | None:
    """What the calls of a source file are for; None if the table does not say."""
    return next((what for part, what in BY_FILE if part in file), None)


def _by_stack() -> tuple[str, bool]:
    """(What the innermost file of the table is for, whether it is computed a second time)."""
    frame, source, again = sys._getframe(2), None, False
    backward = torch._C._current_autograd_node() is not None
    while frame is not None:
        file = frame.f_code.co_filename
        if source is None:
            source = _of_file(file)
        if source is not None and not backward:
            break
        if file.endswith("torch/utils/checkpoint.py"):
            again = backward
            break
        frame = frame.f_back
    return source or "", again


def _line() -> str:
    """The innermost line of the project, as file:line."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(PROJECT):
            return f"{file.removeprefix(f'{ROOT}/')}:{frame.f_lineno}"
        frame = frame.f_back
    return "outside"


@contextmanager
def watching(record: bool = False) -> Iterator[Seen]:
    """Within `pretending`: raises on what CUDA refuses, and keeps what it is asked."""
    with Watch(record) as watch:
        yield watch.seen
