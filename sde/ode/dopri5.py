"""The Dormand-Prince 5(4) method, with a clock and a step size of its own for each row.

A Runge-Kutta pair estimates the state a step h later twice, here with orders 5 and 4, from the
same 7 slopes. Their difference estimates the local error, which the step must keep to

    norm = max over parts: RMS over its elements of err / (atol + rtol max(|y|, |y_new|)) <= 1.

A part is one tensor of the state, say the position or the log-density: each has its own vote, its
own unit and, if wanted, its own tolerance. The step is accepted if norm <= 1, and either way the
next one is h * clip(0.9 norm^(-1/5), 0.2, 5) (no growth after a rejection). The state goes on from
the estimate of order 5 (local extrapolation), whose last slope is the next step's first (FSAL):
six evaluations a step.

Only operations whose rounding does not depend on where in a tensor an element lies: no matmul, and
no pow (torch's vector loop and its scalar tail differ in the last bit). Slopes are combined by
plain products and sums, a step's factor is looked up.

Sources: Dormand & Prince 1980, "A family of embedded Runge-Kutta formulae" (the pair); Hairer,
Norsett & Wanner, "Solving Ordinary Differential Equations I", II.4 (controller, first step).
"""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from scoreflow.sde.ode.result import Solution, Status, Tolerances
from scoreflow.sde.ode.sums import row_sums
from scoreflow.sde.types import Field, Rows, State

Source = Callable[[Rows], State]
"""free slots (k,) -> the first states of the next j <= k rows, (j, ...); j < k says: no more."""

# Row j: what slope j + 1 adds, in units of the step, to the states at which slopes 2..7 are taken
# (columns 0..5; column 5 is also the new state) and to the error, order 5 less order 4 (column 6).
# It is Butcher's table transposed: a known slope is added at once to all that need it.
_PUSH = (
    (1 / 5, 3 / 40, 44 / 45, 19372 / 6561, 9017 / 3168, 35 / 384, 71 / 57600),
    (0.0, 9 / 40, -56 / 15, -25360 / 2187, -355 / 33, 0.0, 0.0),
    (0.0, 0.0, 32 / 9, 64448 / 6561, 46732 / 5247, 500 / 1113, -71 / 16695),
    (0.0, 0.0, 0.0, -212 / 729, 49 / 176, 125 / 192, 71 / 1920),
    (0.0, 0.0, 0.0, 0.0, -5103 / 18656, -2187 / 6784, -17253 / 339200),
    (0.0, 0.0, 0.0, 0.0, 0.0, 11 / 84, 22 / 525),
    (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1 / 40),
)
_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9)  # of slopes 2..5; 6 and 7 are taken at the end of the step
_FIRST, _PER_STEP = 2, 6  # evaluations: to choose the first step; in each step
FEWEST = _FIRST + _PER_STEP
"""Evaluations of a solution of one step."""
_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 5.0


@dataclass(frozen=True)
class Standing:
    """The b rows still on their way."""

    rows: Tensor  # slots of the batch, int64 (b,)
    clock: Tensor  # (b,)
    state: Tensor  # the parts side by side, so that one operation moves all of them, (b, n)
    slope: Tensor  # the field there, (b, n)
    step: Tensor  # the length of the next step, before it is clipped to the end, >= 0, (b,)
    evaluations: Tensor  # so far, int64 (b,)
    error: Tensor  # the sum of local errors, (b, parts)
    accepted: Tensor  # was the last attempt? bool (b,)
    finite: Tensor  # was the last attempt? bool (b,)

    def take(self, keep: Tensor) -> "Standing":
        """Some of the rows."""
        return Standing(*(getattr(self, column.name)[keep] for column in fields(self)))

    def join(self, other: "Standing") -> "Standing":
        """These and those."""
        columns = (column.name for column in fields(self))
        return Standing(*(torch.cat((getattr(self, c), getattr(other, c))) for c in columns))


class PowerTable:
    """x -> gain x^(-1/10), clipped to [low, high], rounded down to a grid of 1 %; nan -> low.

    Comparisons are exact wherever an element lies, pow is not.
    """

    def __init__(self, gain: float, low: float, high: float, device: torch.device) -> None:
        count = math.ceil(100 * math.log(high / low)) + 1
        grid = torch.logspace(math.log10(high), math.log10(low), count, dtype=torch.float64)
        self.edges = ((gain / grid) ** 10).to(device)
        self.values = torch.cat((grid, grid[-1:])).to(device)

    def __call__(self, x: Tensor) -> Tensor:
        """Look it up."""
        return self.values[torch.bucketize(x, self.edges)]


class Dopri5:
    """The stepper: all that stays the same from step to step."""

    def __init__(
        self,
        field: Field,
        state: State,
        span: tuple[float, float],
        tolerances: Tolerances,
    ) -> None:
        device, number = state[0].device, functools.partial(torch.tensor, dtype=torch.float64)
        self.field, (self.start, self.end) = field, span
        self.length = abs(self.end - self.start)
        self.sign = math.copysign(1.0, self.end - self.start)
        self.shapes = [part.shape[1:] for part in state]
        self.sizes = [shape.numel() for shape in self.shapes]
        repeats = torch.tensor(self.sizes)
        self.rtol, self.atol = (
            number(each).repeat_interleave(repeats).to(device) for each in tolerances
        )
        self.push = (self.sign * number(_PUSH)).to(device)[:, :, None, None]
        self.nodes = (self.sign * number(_NODES)).to(device)[:, None]
        self.factor = PowerTable(_SAFETY, _SHRINK, _GROW, device)
        self.first = PowerTable(0.01**0.2, 1e-9 * self.length, self.length, device)

    def flat(self, state: State) -> Tensor:
        """The parts side by side, (b, n)."""
        rows = [part.reshape(-1, size) for part, size in zip(state, self.sizes, strict=True)]
        return torch.cat(rows, 1)

    def parts(self, flat: Tensor) -> State:
        """The parts of a flat state."""
        columns = zip(torch.split(flat, self.sizes, 1), self.shapes, strict=True)
        return tuple(part.view(-1, *shape) for part, shape in columns)

    def slope(self, clock: Tensor, flat: Tensor, rows: Tensor) -> Tensor:
        """The field, flat."""
        slope = self.flat(self.field(clock, self.parts(flat), rows))
        if slope.shape != flat.shape:
            raise ValueError(f"field must return {len(flat)} rows, got {len(slope)}")
        return slope

    def mean_squares(self, *vectors: Tensor) -> Tensor:
        """Mean square of each part of two or more vectors (b, n) -> (vectors, b, parts)."""
        columns = torch.split(torch.stack(vectors).square_(), self.sizes, 2)
        return torch.stack([row_sums(part) / part.shape[2] for part in columns], 2)

    def begin(self, rows: Rows, state: State) -> Standing:
        """Choose the first step of new rows (Hairer et al. I, II.4: "Starting Step Size").

        A probe h: an explicit Euler step of it moves the state by 1 %. Then h^5 max(|y'|, |y''|) =
        1 %, at most 100 probes; all in the norm of the tolerances, squared here. A state or slope
        without a scale is probed over 1e-6 of the interval.
        """
        flat = self.flat(state)
        clock = flat.new_full((len(flat),), self.start)
        slope = self.slope(clock, flat, rows)
        scale = self.atol + self.rtol * flat.abs()
        size, speed = self.mean_squares(flat / scale, slope / scale).amax(2)
        scaled = (size >= 1e-10) & (speed >= 1e-10) & (speed < math.inf)
        probe = torch.where(scaled, 0.01 * (size / speed).sqrt(), 1e-6 * self.length)
        probe.clamp_(max=self.length)
        goal = (clock + self.sign * probe).clamp_(*sorted((self.start, self.end)))
        later = self.slope(goal, flat + self.sign * probe[:, None] * slope, rows)
        turn, _ = self.mean_squares((later - slope) / scale, slope).amax(2)
        step = self.first(torch.maximum(speed, turn / probe.square()))
        finite = flat.isfinite().all(1) & slope.isfinite().all(1)
        step = torch.where(finite, torch.minimum(step, 100 * probe), 0.0)  # 0: none can succeed
        evaluations = torch.full_like(rows, _FIRST)
        error = flat.new_zeros(len(flat), len(state))
        return Standing(rows, clock, flat, slope, step, evaluations, error, finite, finite)

    def attempt(self, now: Standing, h: Tensor, goal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A step of length h to the clock `goal` -> new state, its slope, its error, (b, n)."""
        weights = self.push * h[:, None]  # (7, 7, b, 1)
        sums = weights[0] * now.slope  # (7, b, n): six states and the error
        sums[:6].add_(now.state)  # not +=, which would also copy the slice onto itself
        for stage, clock in enumerate((*(now.clock + self.nodes * h), goal, goal), 1):
            slope = self.slope(clock, sums[stage - 1], now.rows)
            sums[stage:].addcmul_(weights[stage, stage:], slope)
        return sums[5], slope, sums[6]

    def advance(self, now: Standing, h: Tensor, goal: Tensor) -> Standing:
        """Attempt a step, and keep it in the rows whose error allows it."""
        state, slope, error = self.attempt(now, h, goal)
        scale = self.atol.addcmul(self.rtol, torch.maximum(now.state.abs(), state.abs()))
        local, relative = self.mean_squares(error, error / scale)
        # A state that overflowed has err / inf = 0, but inf * 0 = nan: it is refused as well.
        norm = relative.amax(1) + scale.amax(1).mul_(0)
        accept = norm <= 1
        factor = torch.minimum(self.factor(norm), torch.where(now.accepted, _GROW, 1.0))
        moved = accept[:, None]
        return Standing(
            rows=now.rows,
            clock=torch.where(accept, goal, now.clock),
            state=torch.where(moved, state, now.state),
            slope=torch.where(moved, slope, now.slope),
            step=h * factor,
            evaluations=now.evaluations + _PER_STEP,
            error=now.error + torch.where(moved, local.sqrt_(), 0.0),
            accepted=accept,
            finite=norm.isfinite(),
        )

    def plan(self, now: Standing) -> tuple[Tensor, Tensor, Tensor]:
        """The next step's length, clipped to the end, its goal, and who can take it, (b,)."""
        remaining = (self.end - now.clock).abs_()
        last = 1.01 * now.step >= remaining  # rather stretch a step than leave a crumb
        h = torch.where(last, remaining, now.step)
        goal = torch.where(last, self.end, now.clock + self.sign * h)
        ulp = torch.finfo(torch.float64).eps
        least = 16 * ulp * now.clock.abs().clamp_(min=ulp * self.length)
        return h, goal, torch.where(last, remaining > 0, now.step >= least)

    def solve(self, source: Source, capacity: int, cap: int) -> Iterator[tuple[Rows, Solution]]:
        """Rows of the source, at most `capacity` at a time, given back as they stop.

        A slot that is free waits until a quarter of all are: the first two evaluations of a few
        rows cost a small network nearly as much as those of many.
        """
        free, now, more = torch.arange(capacity, device=self.rtol.device), None, True
        while True:
            if more and (now is None or len(now.rows) == 0 or 4 * len(free) >= capacity):
                arrived = source(free)
                count = len(arrived[0])
                more = count == len(free)
                if count:
                    began = self.begin(free[:count], arrived)
                    now, free = began if now is None else now.join(began), free[count:]
            if now is None or len(now.rows) == 0:
                return
            h, goal, able = self.plan(now)
            within = now.evaluations + _PER_STEP <= cap
            on = able & within
            going = on.nonzero()[:, 0]  # the one synchronisation
            if len(going) < len(h):
                stopped = on.argsort(stable=True)[: len(h) - len(going)]  # in order, unread
                ended = now.take(stopped)
                yield ended.rows, self.solution(ended, able[stopped])
                free = torch.cat((free, ended.rows))
                now = now.take(going)
                continue
            now = self.advance(now, h, goal)

    def solution(self, ended: Standing, able: Tensor) -> Solution:
        """The solution of rows that stop here."""
        parts = tuple(part.contiguous() for part in self.parts(ended.state))
        status, error = self.status(ended, able), ended.error.unbind(1)
        return Solution(parts, ended.clock, ended.evaluations, status, error)

    def status(self, now: Standing, able: Tensor) -> Tensor:
        """Why rows stop here; those still able do so for want of evaluations."""
        status = torch.where(now.finite, Status.STEP_UNDERFLOW.value, Status.NOT_FINITE.value)
        status = torch.where(able, Status.MAX_EVALUATIONS.value, status)
        return torch.where(now.clock == self.end, Status.DONE.value, status)
