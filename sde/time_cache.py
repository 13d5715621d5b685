"""Functions of time, looked up while a loop walks down a grid.

A sampling loop asks for the scales at the same K + 1 times, one by one, and each answer is a dozen
operations on a single number: as much work as the step itself. So while a grid is at hand, a
function of time is evaluated at all of its times at once, when it is first asked, and its answers
are handed out from then on. They have the same bits: see `SDE`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

Answer = TypeVar("Answer", bound="Tensor | tuple[Tensor, ...]")


class Lookup:
    """What walks down grids; its methods `at_times` and `between_times` are looked up."""

    _grid: "_Grid | None" = None

    @contextmanager
    def at_hand(self, times: Tensor) -> Iterator[None]:
        """Within this context, look up what is asked about a grid.

        Args:
            times: (K + 1,) float64 on the CPU, each below the one before.
        """
        before, self._grid = self._grid, _Grid(times)
        try:
            yield
        finally:
            self._grid = before


class _Grid:
    """The times of a grid, and the answers for them that have been asked for."""

    def __init__(self, times: Tensor) -> None:
        self.times = times
        self.place = {time: k for k, time in enumerate(times.tolist())}
        self.answers: dict[str, list[Any]] = {}

    def place_of(self, t: Tensor) -> int | None:
        """Which time of the grid this is; never waits for another device."""
        return self.place.get(t.item()) if t.ndim == 0 and t.is_cpu else None


def at_times(function: Callable[[Any, Tensor], Answer]) -> Callable[[Any, Tensor], Answer]:
    """A function of one time, looked up where a grid is at hand."""
    name = function.__name__

    @wraps(function)
    def asked(self: Lookup, t: Tensor) -> Answer:
        grid = self._grid
        if grid is None or (place := grid.place_of(t)) is None:
            return function(self, t)
        answers = grid.answers.get(name)
        if answers is None:
            answers = grid.answers[name] = _each(self, grid, lambda: function(self, grid.times))
        answer: Answer = answers[place]
        return answer

    return asked


def between_times(
    function: Callable[[Any, Tensor, Tensor], Answer],
) -> Callable[[Any, Tensor, Tensor], Answer]:
    """A function of a time s and a later t, looked up where they are neighbours of a grid."""
    name = function.__name__

    @wraps(function)
    def asked(self: Lookup, s: Tensor, t: Tensor) -> Answer:
        grid = self._grid
        if grid is None or (place := grid.place_of(t)) is None or grid.place_of(s) != place + 1:
            return function(self, s, t)
        answers = grid.answers.get(name)
        if answers is None:
            s_all, t_all = grid.times[1:], grid.times[:-1]
            answers = grid.answers[name] = _each(self, grid, lambda: function(self, s_all, t_all))
        answer: Answer = answers[place]
        return answer

    return asked


def _each(owner: Lookup, grid: _Grid, ask: Callable[[], Any]) -> list[Any]:
    """The answers for a grid, one by one, made without looking anything up."""
    owner._grid = None
    try:
        answer = ask()
    finally:
        owner._grid = grid
    if isinstance(answer, torch.Tensor):
        return list(answer.unbind())
    return list(zip(*(part.unbind() for part in answer), strict=True))
