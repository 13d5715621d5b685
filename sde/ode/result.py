"""The solution of an ODE solve, a status for each row, and the checks of its arguments."""

import functools
import math
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from scoreflow.sde.types import State

Tolerance = float | tuple[float, ...]
"""One for all parts of a state, or one for each."""

Tolerances = tuple[tuple[float, ...], tuple[float, ...]]
"""rtol and atol, for each part."""

_LEAST_ATOL = 1e-300  # a state of exactly zero needs a scale


class Status(IntEnum):
    """Why a row stopped."""

    DONE = 0
    """It stands on `end`."""
    MAX_EVALUATIONS = 1
    """Another step would exceed `max_evaluations`."""
    STEP_UNDERFLOW = 2
    """The tolerance asks for a step that the clock cannot resolve: singular, or too tight."""
    NOT_FINITE = 3
    """The field or the state is inf or nan ahead, however small the step."""


@dataclass(frozen=True)
class Solution:
    """Where every row of the batch ended.

    Attributes:
        state: parts (B, ...), float64. A row that is not DONE holds its last accepted state at its
            `clock`, which is not a solution; nan from the libraries' methods.
        clock: where each row stands, in the unit of `start` and `end`, (B,).
        evaluations: how often the field was evaluated for each row, int64 (B,).
        status: a `Status` for each row, int64 (B,).
        error: for each part, the sum over accepted steps of the RMS of the local error estimate,
            in the part's own unit, (B,): an indicator of the global error, not a bound. nan from
            the libraries' methods, which return none.
    """

    state: State
    clock: Tensor
    evaluations: Tensor
    status: Tensor
    error: State


def one_outcome(
    state: State, clock: float, evaluations: int, status: Status, error: float = math.nan
) -> Solution:
    """The same clock, evaluations, status and error for every row of a state."""
    rows = functools.partial(state[0].new_full, (len(state[0]),))
    counts = functools.partial(rows, dtype=torch.int64)
    errors = tuple(rows(error) for _ in state)
    return Solution(state, rows(clock), counts(evaluations), counts(status), errors)


def check_state(state: State, start: float, end: float) -> None:
    """Raise a ValueError unless these can be integrated."""
    if not (math.isfinite(start) and math.isfinite(end)):
        raise ValueError(f"start and end must be finite, got {start} and {end}")
    if not state or any(part.dtype != torch.float64 or part.ndim == 0 for part in state):
        got = [(part.dtype, tuple(part.shape)) for part in state]
        raise ValueError(f"state must be float64 parts (B, ...), got {got}")
    if len({part.shape[0] for part in state}) > 1:
        shapes = [tuple(part.shape) for part in state]
        raise ValueError(f"the parts of a state must share their first axis, got {shapes}")


def check_tolerances(rtol: Tolerance, atol: Tolerance, parts: int) -> Tolerances:
    """Return one of each for every part; a ValueError if that is impossible."""
    return _per_part("rtol", rtol, parts, 0.0), _per_part("atol", atol, parts, _LEAST_ATOL)


def _per_part(name: str, tolerance: Tolerance, parts: int, least: float) -> tuple[float, ...]:
    each = tolerance if isinstance(tolerance, tuple) else (tolerance,) * parts
    if len(each) != parts or not all(least <= value < math.inf for value in each):
        rule = f"must be >= {least:g}, one number or one for each of the {parts} parts"
        raise ValueError(f"{name} {rule}, got {tolerance}")
    return each
