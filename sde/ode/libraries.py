"""torchdiffeq and scipy behind the call of `odeint`: independent references for our own method.

Both move the whole batch with one clock and one error norm of their own: torchdiffeq takes the RMS
of each part over the batch and then the largest, scipy the RMS over all numbers of the state. So a
result depends on its batch mates, and one tolerance does not mean the same as with our own method.
scipy computes on the CPU, in numpy. Neither gives a partial result: what fails, fails for all
rows, with nan for a state.

Sources: torchdiffeq, R. T. Q. Chen 2018; scipy.integrate, Virtanen et al. 2020.
"""

import difflib
import math

import numpy as np
import numpy.typing as npt
import scipy.integrate
import torch
import torchdiffeq
from torch import Tensor

from scoreflow.sde.ode.result import Solution, Status, Tolerances, one_outcome
from scoreflow.sde.types import Field, State

_ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
_FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams")
_ONE_RTOL = ("Radau", "BDF")  # the others take one for each element
_SCIPY = ("RK45", "RK23", "DOP853", "Radau", "BDF", "LSODA")
METHODS = (
    "dopri5",
    *(f"torchdiffeq:{name}" for name in _ADAPTIVE + _FIXED),
    *(f"scipy:{name}" for name in _SCIPY),
)


def check_method(name: str) -> None:
    """Raise a ValueError with the nearest methods, and all of them, unless `name` is one."""
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=2, cutoff=0.4)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(
            f"unknown ODE method {name!r}.{hint} The methods are {', '.join(METHODS)}"
        )


def check_step_size(method: str, step_size: float | None) -> None:
    """Raise a ValueError unless a fixed-step method has a step size, and no other has one."""
    if method in [f"torchdiffeq:{name}" for name in _FIXED]:
        if step_size is None or not 0 < step_size < math.inf:
            raise ValueError(f"{method} has fixed steps: step_size must be > 0, got {step_size}")
    elif step_size is not None:
        raise ValueError(f"{method} chooses its steps: step_size must be None, got {step_size}")


class _OutOfBudgetError(Exception):
    """One more evaluation would exceed the cap."""


class _Counted:
    """The field of a batch that shares its clock; counts evaluations and refuses one too many."""

    def __init__(self, field: Field, state: State, cap: int) -> None:
        self.field, self.cap, self.evaluations, self.finite = field, cap, 0, True
        self.batch, self.like = len(state[0]), state[0]
        self.rows = torch.arange(self.batch, device=state[0].device)

    def __call__(self, clock: Tensor, state: State) -> State:
        if self.evaluations == self.cap:
            raise _OutOfBudgetError
        self.evaluations += 1
        slope = self.field(clock.to(self.like).expand(self.batch), state, self.rows)
        self.finite = all(bool(part.isfinite().all()) for part in slope)
        return slope


def solve_reference(
    method: str,
    field: Field,
    state: State,
    span: tuple[float, float],
    tolerances: Tolerances,
    max_evaluations: int,
    step_size: float | None,
) -> Solution:
    """Solve with a library; arguments as for `odeint`, `span` is (start, end)."""
    library, name = method.split(":")
    if name in _ONE_RTOL and len(set(tolerances[0])) > 1:
        raise ValueError(f"{method} takes one rtol for all parts, got {tolerances[0]}")
    counted = _Counted(field, state, max_evaluations)
    status = Status.STEP_UNDERFLOW
    try:
        if library == "torchdiffeq":
            end = _torchdiffeq(name, counted, state, span, tolerances, step_size)
        else:
            end = _scipy(name, counted, state, span, tolerances)
    except _OutOfBudgetError:
        end, status = None, Status.MAX_EVALUATIONS
    if end is not None and all(bool(part.isfinite().all()) for part in end):
        return one_outcome(end, span[1], counted.evaluations, Status.DONE)
    if end is not None or not counted.finite:
        status = Status.NOT_FINITE
    nowhere = tuple(torch.full_like(part, math.nan) for part in state)
    return one_outcome(nowhere, math.nan, counted.evaluations, status)


def _torchdiffeq(
    name: str,
    counted: _Counted,
    state: State,
    span: tuple[float, float],
    tolerances: Tolerances,
    step_size: float | None,
) -> State | None:
    clock = torch.tensor(span, dtype=torch.float64, device=state[0].device)
    rtol, atol = tolerances
    # Without step_t it steps over the end, evaluates the field there, and interpolates back.
    options = {"step_t": clock[1:]} if step_size is None else {"step_size": step_size}
    try:
        path = torchdiffeq.odeint(
            counted, state, clock, rtol=rtol, atol=atol, method=name, options=options
        )
    except AssertionError as failure:
        if "underflow in dt" in str(failure) or "non-finite values" in str(failure):
            return None
        raise
    return tuple(part[-1] for part in path)


def _scipy(
    name: str, counted: _Counted, state: State, span: tuple[float, float], tolerances: Tolerances
) -> State | None:
    shapes, sizes = [part.shape for part in state], [part.numel() for part in state]

    def parts(flat: npt.NDArray[np.float64]) -> State:
        columns = torch.split(torch.from_numpy(flat.copy()).to(state[0]), sizes)
        return tuple(part.view(shape) for part, shape in zip(columns, shapes, strict=True))

    def flat(parts: State) -> npt.NDArray[np.float64]:
        joined: npt.NDArray[np.float64]
        joined = torch.cat([part.reshape(-1).double() for part in parts]).cpu().numpy()
        return joined

    def slope(clock: float, y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return flat(counted(torch.tensor(clock, dtype=torch.float64), parts(y)))

    rtol = tolerances[0][0] if name in _ONE_RTOL else np.repeat(tolerances[0], sizes)
    atol = np.repeat(tolerances[1], sizes)
    # The solver's class and not solve_ivp, which keeps the state after every step.
    solver = getattr(scipy.integrate, name)(
        slope, span[0], flat(state), span[1], rtol=rtol, atol=atol
    )
    while solver.status == "running":
        solver.step()
    return parts(solver.y) if solver.status == "finished" else None
