"""Trajectories of the flow whose points are the nodes of the divergence: one evaluation for both.

K nodes stand at q_k = (k + u) / K of the clock, u uniform on [0, 1) for each image: whatever the
integrand f = (dphi/dq) div v, the mean over u of the sum of f(q_k) / K is its integral, so that
nodes too few for it make noise, which an average removes and a standard error covers, and no bias.
Where f is not 0 at its ends, that noise would mostly be the ends' own; the line from f(0) to f(1),
whose integral is known, takes it away: what is added is (f(1) - f(0)) (1/2 - u) / K, of mean 0.

At each node the divergence is estimated by probes of its own, whose noise therefore averages over
the nodes too; a probe that is held fixed (Grathwohl et al. 2019, "FFJORD", Sec. 3.1) adds the same
error all along the way.

The trajectory itself is Adams' (`sde.ode.adams`) on the grid of 0, the nodes and 1, every interval
in as many equal parts as asked. Its velocity is interpolated, the clock's rate is not: at low
noise, where a step may span several times the noise, that is all that changes. An error counts in
units of the noise where it is made: off the path by more than that, the divergence means nothing,
however little it is beside the data. The unit is sin phi, or `RELATIVE` times what the network
takes for the noise where that is more: sin phi |eps|, but no more than the state. An untrained
network may carry a state to 1e13, where no step is good to a part of sin phi, and a density that
is all |x|^2 asks for relative errors.

A row whose estimated error is above the tolerance is started anew with twice as many steps, and
the others do not wait for it. Where that no longer helps, the field is rough in time on a scale
that no affordable step resolves, or its rounding is all that is left: then the row is taken as it
is, its error above the tolerance, and solving again with more steps measures what that costs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from scoreflow.likelihood.nodes.clock import Clock
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.ode.adams import adams, rms
from scoreflow.sde.ode.result import Status

Field = Callable[[Tensor, Tensor, int | None], tuple[Tensor, Tensor | None]]
"""(angles (b,), states (b, ...), number of the node, 0 and K + 1 at the ends, or None between two)
-> velocity (b, ...), and at a node estimates of its divergence, (b, P)."""


@dataclass(frozen=True)
class Group:
    """Rows that are solved together.

    Attributes:
        number: in the order of arrival, (b,).
        state: where they start, on the unit scale, (b, ...) float64.
        noise: addresses shifts and probes.
        substeps: steps between two nodes.
        evaluations: that earlier attempts took, (b,).
        errors: of the last three attempts, the oldest first, inf where there was none, (b, 3).
        first: substeps of the first attempt.
    """

    number: Tensor
    state: Tensor
    noise: Noise
    substeps: int
    evaluations: Tensor
    errors: Tensor
    first: int

    @classmethod
    def begin(cls, number: Tensor, state: Tensor, noise: Noise, substeps: int) -> "Group":
        """Rows that were not tried yet."""
        errors = state.new_full((len(state), 3), torch.inf)
        return cls(number, state, noise, substeps, number * 0, errors, substeps)

    def take(self, rows: Tensor) -> "Group":
        """Some of the rows."""
        taken: dict[str, Any] = {name: getattr(self, name)[rows] for name in _COLUMNS}
        return replace(self, noise=self.noise.rows(rows), **taken)

    def again(self, evaluations: Tensor, error: Tensor) -> "Group":
        """The rows with twice the substeps; evaluations and errors of the attempt before."""
        errors = torch.cat((self.errors[:, 1:], error[:, None]), 1)
        return replace(self, substeps=2 * self.substeps, evaluations=evaluations, errors=errors)

    def join(self, other: "Group") -> "Group":
        """These and those, of the same substeps."""
        noise = replace(self.noise, index=torch.cat((self.noise.index, other.noise.index)))
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in _COLUMNS)
        joined: dict[str, Any] = {name: torch.cat((own, its)) for name, own, its in pairs}
        return replace(self, noise=noise, **joined)


_COLUMNS = ("number", "state", "evaluations", "errors")


@dataclass(frozen=True)
class Ended:
    """Rows that need not be solved again.

    Attributes:
        number: as in `Group`, (b,).
        state: at the end, (b, ...).
        divergence: its integral along the way, (b, P).
        evaluations: of the field, all attempts together, (b,).
        error: of the trajectory, the sum of its steps' estimates, each the RMS over the noise
            there, sin phi or as the module says; inf where the row is not finite, (b,).
        status: `sde.ode.Status`, (b,).
    """

    number: Tensor
    state: Tensor
    divergence: Tensor
    evaluations: Tensor
    error: Tensor
    status: Tensor


@dataclass(frozen=True)
class Nodes:
    """How the trajectories are solved.

    Attributes:
        clock: along them.
        count: K, the nodes of each.
        tolerance: of the trajectory, as `Ended.error`.
        max_evaluations: cap for each row.
        columns: P, the estimates of the divergence at a node.
        repeat: another number has other shifts.
    """

    clock: Clock
    count: int
    tolerance: float
    max_evaluations: int
    columns: int
    repeat: int

    def evaluations(self, substeps: int) -> int:
        """Of one attempt: at both ends, the nodes and between."""
        return 1 + substeps * (self.count + 1)

    def solve(self, group: Group, field: Field, further: Tensor) -> tuple[Ended, Group | None]:
        """One attempt: the rows that ended, and those to solve again with twice the substeps.

        Args:
            group: the rows.
            field: along which.
            further: that the field counts evaluations of each row in, beyond one a call, (b,).
        """
        grid, restart = self._grid(group)
        angles, rates = self.clock.angles(grid.T.contiguous())
        shape = group.state.shape[1:]
        divergence = grid.new_zeros(len(grid), self.columns)
        begun = torch.ones_like(restart)
        inner = grid.new_full((len(grid), 1), 1 / self.count)
        uneven = (0.5 * inner[:, 0] - grid[:, group.substeps])[:, None]
        weights = {0: -uneven, self.count + 1: uneven}

        def slope(k: int, flat: Tensor) -> Tensor:
            angle, rate = angles[k], rates[k]
            node, between = divmod(k, group.substeps)
            v, found = field(angle, flat.view(-1, *shape), None if between else node)
            if found is not None:
                divergence.addcmul_(weights.get(node, inner) * rate[:, None], found)
            if k == 0:
                begun.logical_and_(v.flatten(1).isfinite().all(1))
            return v.flatten(1)

        error, state = grid.new_zeros(len(grid)), group.state.flatten(1)
        sines, cosines, rate = angles.sin(), angles.cos(), lambda q: self.clock.angles(q)[1]
        steps = adams(slope, state, grid, restart, after=group.substeps, rate=rate)
        for k, step in enumerate(steps, 1):
            state = step.state
            noise = sines[k] * rms(sines[k, :, None] * state + cosines[k, :, None] * step.slope)
            seen = RELATIVE * noise.minimum(rms(state))
            error = error + step.error / torch.maximum(sines[k], seen)
        evaluations = group.evaluations + self.evaluations(group.substeps) + further
        finite = state.isfinite().all(1) & divergence.isfinite().all(1) & error.isfinite()
        error = torch.where(finite, error, torch.inf)
        left = self.max_evaluations - evaluations
        useless = self._useless(group, error)
        good = finite & ((error <= self.tolerance) | useless) & (left >= 0)
        # where the field is not finite at the start, no shorter step helps
        more = left >= self.evaluations(2 * group.substeps) + 2 * further
        again = ~good & begun & ~useless & more
        status = torch.where(finite, Status.MAX_EVALUATIONS.value, Status.NOT_FINITE.value)
        status = torch.where(good, Status.DONE.value, status)
        ends = (~again).nonzero()[:, 0]
        columns = (group.number, state.view(-1, *shape), divergence, evaluations, error, status)
        ended = Ended(*(column[ends] for column in columns))
        rest = again.nonzero()[:, 0]
        if not len(rest):
            return ended, None
        return ended, group.take(rest).again(evaluations[rest], error[rest])

    def _useless(self, group: Group, error: Tensor) -> Tensor:
        """Of rows whether more steps would not help, bool (b,); their errors of this attempt."""
        stalled = error > group.errors[:, 0] / 2
        if group.substeps >= MOST * group.first:
            return stalled | error.isinf()
        return stalled & (error <= NEAR * self.tolerance)

    def _grid(self, group: Group) -> tuple[Tensor, Tensor]:
        """Points of the clock, (b, 1 + substeps (K + 1)), and whether the first are crowded."""
        noise = group.noise.at(group.noise.step + self.repeat * REPEAT)
        shift = noise.uniform(Stream.NODES)[:, None] + 2.0**-33  # 0 would make a step of none
        nodes = (torch.arange(self.count, device=shift.device) + shift) / self.count
        ends = torch.cat((torch.zeros_like(shift), nodes, torch.ones_like(shift)), 1)
        parts = torch.arange(group.substeps, device=shift.device) / group.substeps
        inner = ends[:, :-1, None] + ends.diff(dim=1)[:, :, None] * parts
        grid = torch.cat((inner.flatten(1), ends[:, -1:]), 1)
        return grid, shift[:, 0] < 0.5


RELATIVE = 0.1
"""So that the unit is sin phi itself wherever the network's noise is less than ten times that."""
NEAR, MOST = 10.0, 16
"""Doubled three times, steps that are short enough for a field take an error of order 2 or more to
a 64th. If they do not even halve one that is within NEAR times the tolerance, more of them do not
help. A greater one may be that of steps too long to show their order, and has until MOST times the
first substeps."""
REPEAT = 1 << 16
"""Steps of the noise between two repetitions, more than any number of nodes."""


class Attempts:
    """Groups of rows to solve, those with the most substeps first.

    Args:
        capacity: the most rows of a group.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.waiting: dict[int, Group] = {}

    def add(self, group: Group) -> None:
        """Rows to be solved again."""
        there = self.waiting.get(group.substeps)
        self.waiting[group.substeps] = group if there is None else there.join(group)

    def full(self) -> Iterator[Group]:
        """Groups of `capacity` rows, as long as there are."""
        yield from self._taken(self.capacity)

    def all(self) -> Iterator[Group]:
        """Every group; what is added meanwhile comes too."""
        yield from self._taken(1)

    def _taken(self, least: int) -> Iterator[Group]:
        while True:
            able = [key for key, group in self.waiting.items() if len(group.number) >= least]
            if not able:
                return
            group = self.waiting.pop(max(able))
            rows = torch.arange(len(group.number), device=group.number.device)
            if len(rows) > self.capacity:
                self.waiting[group.substeps] = group.take(rows[self.capacity :])
            yield group.take(rows[: self.capacity])
