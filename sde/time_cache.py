"""Mixin of an SDE: caches its functions of time on a sampling grid.

A sampling loop needs the scales at the same K + 1 times, one by one, and each value is a dozen
operations on a single number: as much work as the step itself. So while a grid is set, a function
of time is evaluated at all of its times at once, on its first call, and later calls are dictionary
lookups. The values have the same bits either way: see `SDE`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value", bound="Tensor | tuple[Tensor, ...]")


class TimeCache:
    """Methods decorated with `at_times` or `between_times` are cached while a grid is set.

    Not thread-safe: the grid is an attribute, so of two threads that sample with one SDE, either
    may drop the other's grid or leave its own behind. Give each thread an SDE.
    """

    _grid: "_Grid | None" = None

    @contextmanager
    def cached_at(self, times: Tensor) -> Iterator[None]:
        """Within this context, cache functions of time at these times.

        Args:
            times: (K + 1,) float64 on the CPU, each below the one before.
        """
        before, self._grid = self._grid, _Grid(times)
        try:
            yield
        finally:
            self._grid = before


class _Grid:
    """The times of a grid, and the values computed at them, by function name."""

    def __init__(self, times: Tensor) -> None:
        self.times = times
        self.place = {time: k for k, time in enumerate(times.tolist())}
        self.values: dict[str, list[Any]] = {}

    def place_of(self, t: Tensor) -> int | None:
        """Position of t in the grid, or None; never waits for another device."""
        return self.place.get(t.item()) if t.ndim == 0 and t.is_cpu else None


def at_times(function: Callable[[Any, Tensor], Value]) -> Callable[[Any, Tensor], Value]:
    """Decorate a function of one time: cached at the times of the grid."""
    name = function.__name__

    @wraps(function)
    def cached(self: TimeCache, t: Tensor) -> Value:
        grid = self._grid
        if grid is None or (place := grid.place_of(t)) is None:
            return function(self, t)
        values = grid.values.get(name)
        if values is None:
            values = grid.values[name] = _each(self, grid, lambda: function(self, grid.times))
        value: Value = values[place]
        return value

    return cached


def between_times(
    function: Callable[[Any, Tensor, Tensor], Value],
) -> Callable[[Any, Tensor, Tensor], Value]:
    """Decorate a function of s and a later t: cached where they are neighbours of the grid."""
    name = function.__name__

    @wraps(function)
    def cached(self: TimeCache, s: Tensor, t: Tensor) -> Value:
        grid = self._grid
        if grid is None or (place := grid.place_of(t)) is None or grid.place_of(s) != place + 1:
            return function(self, s, t)
        values = grid.values.get(name)
        if values is None:
            s_all, t_all = grid.times[1:], grid.times[:-1]
            values = grid.values[name] = _each(self, grid, lambda: function(self, s_all, t_all))
        value: Value = values[place]
        return value

    return cached


def _each(owner: TimeCache, grid: _Grid, compute: Callable[[], Any]) -> list[Any]:
    """The values at a grid, one by one, computed with the cache off."""
    owner._grid = None
    try:
        value = compute()
    finally:
        owner._grid = grid
    if isinstance(value, torch.Tensor):
        return list(value.unbind())
    return list(zip(*(part.unbind() for part in value), strict=True))
