"""Solve ordinary differential equations, with the error controlled sample by sample.

The probability flow moves a sample (and its log-density) along dy/dt = field(t, y).

**Every row of the batch has its own clock, step and status** (`sde.ode.dopri5`). With one norm for
the whole batch (torchdiffeq, scipy) a result depends on its batch mates and one hard sample makes
all of them pay: a few outlying pixels in one image can raise everybody's evaluations a
hundredfold. Here a row that cannot go on stops alone, with a `Status` and never an exception, and
a row's result is the same **to the bit** alone and in any company, as long as the field computes
its rows independently.

`odeint` solves a batch. `odeint_queue` solves any number of rows, so many at a time: one that is
done makes room for the next, so that a hard one delays only itself. One synchronisation a step, to
find the rows that are left.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from scoreflow.sde.ode.dopri5 import FEWEST, Dopri5, Source
from scoreflow.sde.ode.libraries import (
    check_method,
    check_step_size,
    solve_reference,
)
from scoreflow.sde.ode.result import (
    Solution,
    Status,
    Tolerance,
    check_state,
    check_tolerances,
    one_outcome,
)
from scoreflow.sde.types import Field, Rows, State

__all__ = ["Solution", "Status", "check_method", "odeint", "odeint_queue"]


@torch.no_grad()
def odeint(
    field: Field,
    state: State,
    start: float,
    end: float,
    *,
    method: str = "dopri5",
    rtol: Tolerance,
    atol: Tolerance,
    max_evaluations: int = 10_000,
    step_size: float | None = None,
) -> Solution:
    """Solve dstate/dclock = field(clock, state, rows) from `start` to `end`, in either direction.

    Args:
        field: gets the clock (b,), the state of b rows and their positions in the batch, int64
            (b,), and returns the derivatives of the parts. Rows that stopped are no longer
            evaluated, so index by `rows` whatever is kept per row. It may switch gradients on
            inside; it must not change its arguments, nor keep them. The clock never leaves
            [start, end].
        state: parts (B, ...), float64, on one device.
        start: the clock at which `state` holds.
        end: the clock at which the solution is wanted; exactly this one is reached.
        method: "dopri5" (per sample), or "torchdiffeq:NAME" and "scipy:NAME", which move the whole
            batch with one clock and an error norm of their own.
        rtol: relative tolerance, >= 0, for all parts or one for each.
        atol: absolute tolerance, > 0, in the units of the parts, for all parts or one for each.
        max_evaluations: of each row, >= 8; a row stops rather than exceed it.
        step_size: > 0, in the clock's unit; only for torchdiffeq's fixed steps, which need it.

    Returns:
        The state and a status for each row: look at it. Nothing is raised for a row that fails.
    """
    check_method(method)
    check_step_size(method, step_size)
    check_state(state, start, end)
    tolerances = check_tolerances(rtol, atol, len(state))
    if max_evaluations < FEWEST:
        raise ValueError(f"max_evaluations must be >= {FEWEST}, got {max_evaluations}")
    span = (start, end)
    if start == end or len(state[0]) == 0:
        return one_outcome(state, end, 0, Status.DONE, error=0.0)
    if method == "dopri5":
        stepper = Dopri5(field, state, span, tolerances)
        return _gathered(stepper.solve(_once(state), len(state[0]), max_evaluations))
    return solve_reference(method, field, state, span, tolerances, max_evaluations, step_size)


@torch.no_grad()
def odeint_queue(
    field: Field,
    source: Source,
    like: State,
    start: float,
    end: float,
    *,
    capacity: int,
    rtol: Tolerance,
    atol: Tolerance,
    max_evaluations: int = 10_000,
) -> Iterator[tuple[Rows, Solution]]:
    """`odeint` by dopri5 of any number of rows, at most `capacity` at a time, as they stop.

    Args:
        field: as in `odeint`; its `rows` are slots, 0..capacity-1.
        source: called for rows whenever slots are free; see `sde.ode.dopri5.Source`.
        like: a state of the same parts, any number of rows: shapes and device.
        start: the clock at which every row comes in.
        end: the clock at which the solutions are wanted.
        capacity: rows at a time.
        rtol: as in `odeint`.
        atol: as in `odeint`.
        max_evaluations: as in `odeint`.

    Yields:
        Slots that have become free, and the solutions of the rows that held them.
    """
    check_state(like, start, end)
    tolerances = check_tolerances(rtol, atol, len(like))
    if max_evaluations < FEWEST or capacity < 1:
        raise ValueError(
            f"max_evaluations must be >= {FEWEST} and capacity >= 1, got {max_evaluations} and "
            f"{capacity}"
        )
    stepper = Dopri5(field, like, (start, end), tolerances)
    yield from stepper.solve(source, capacity, max_evaluations)


def _once(state: State) -> Source:
    """A source that has these rows and no others."""
    left = [state]
    nothing = tuple(part[:0] for part in state)
    return lambda _free: left.pop() if left else nothing


def _gathered(solutions: Iterator[tuple[Rows, Solution]]) -> Solution:
    """The solutions of a batch in its own order."""
    slots, found = zip(*solutions, strict=True)
    order = torch.cat(slots).argsort()

    def column(pieces: Iterable[Tensor]) -> Tensor:
        return torch.cat(tuple(pieces))[order]

    return Solution(
        tuple(map(column, zip(*(each.state for each in found), strict=True))),
        column(each.clock for each in found),
        column(each.evaluations for each in found),
        column(each.status for each in found),
        tuple(map(column, zip(*(each.error for each in found), strict=True))),
    )
