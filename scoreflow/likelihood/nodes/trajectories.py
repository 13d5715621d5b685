"""Trajectories of the flow whose points are the nodes of the divergence: one evaluation for both.

K nodes stand at q_k = (k + u) / K of the clock, u uniform on [0, 1) for each image: whatever the
integrand, the mean of (dphi/dq) div v / K over u is its integral, so that nodes too few for it
make noise, which an average removes and a standard error covers, and no bias. At each node the
divergence is estimated by probes of its own, whose noise therefore averages over the nodes too;
a probe that is held fixed (Grathwohl et al. 2019, "FFJORD", Sec. 3.1) adds the same error all
along the way.

The trajectory itself is Adams' (`sde.ode.adams`) on the grid of 0, the nodes and 1, every interval
in as many equal parts as asked. A row whose estimated error is above the tolerance is started anew
with twice as many, and the others do not wait for it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from scoreflow.likelihood.nodes.clock import Clock
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.ode.adams import adams
from scoreflow.sde.ode.result import Status

Field = Callable[[Tensor, Tensor, int | None], tuple[Tensor, Tensor | None]]
"""(angles (b,), states (b, ...), number of the node or None between nodes) -> velocity (b, ...),
and at a node estimates of its divergence, (b, P)."""


@dataclass(frozen=True)
class Group:
    """Rows that are solved together.

    Attributes:
        number: in the order of arrival, (b,).
        state: where they start, on the unit scale, (b, ...) float64.
        noise: addresses shifts and probes.
        substeps: steps between two nodes.
        evaluations: that earlier attempts took, (b,).
    """

    number: Tensor
    state: Tensor
    noise: Noise
    substeps: int
    evaluations: Tensor

    def take(self, rows: Tensor, substeps: int, evaluations: Tensor) -> "Group":
        """Some of the rows, at other substeps."""
        noise = self.noise.rows(rows)
        return Group(self.number[rows], self.state[rows], noise, substeps, evaluations)

    def join(self, other: "Group") -> "Group":
        """These and those, of the same substeps."""
        noise = Noise(self.noise.seed, torch.cat((self.noise.index, other.noise.index)))
        pairs = ((getattr(self, name), getattr(other, name)) for name in ("number", "state"))
        number, state = (torch.cat(pair) for pair in pairs)
        evaluations = torch.cat((self.evaluations, other.evaluations))
        return Group(number, state, noise, self.substeps, evaluations)


@dataclass(frozen=True)
class Ended:
    """Rows that need not be solved again.

    Attributes:
        number: as in `Group`, (b,).
        state: at the end, (b, ...).
        divergence: its integral along the way, (b, P).
        evaluations: of the field, all attempts together, (b,).
        error: of the trajectory, the sum of its steps' estimates, RMS on the unit scale, (b,).
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
        shape = group.state.shape[1:]
        divergence = grid.new_zeros(len(grid), self.columns)

        def slope(k: int, flat: Tensor) -> Tensor:
            angle, rate = self.clock.angles(grid[:, k])
            node, between = divmod(k, group.substeps)
            at_node = between == 0 and 1 <= node <= self.count
            v, found = field(angle, flat.view(-1, *shape), node - 1 if at_node else None)
            if found is not None:
                divergence.addcmul_(rate[:, None] / self.count, found)
            return v.flatten(1) * rate[:, None]

        error, state = grid.new_zeros(len(grid)), group.state.flatten(1)
        for step in adams(slope, state, grid, restart, after=group.substeps):
            state, error = step.state, error + step.error
        evaluations = group.evaluations + self.evaluations(group.substeps) + further
        finite = state.isfinite().all(1) & divergence.isfinite().all(1) & error.isfinite()
        good = finite & (error <= self.tolerance)
        left = self.max_evaluations - evaluations
        again = ~good & (left >= self.evaluations(2 * group.substeps))
        status = torch.where(finite, Status.MAX_EVALUATIONS.value, Status.NOT_FINITE.value)
        status = torch.where(good, Status.DONE.value, status)
        ends = (~again).nonzero()[:, 0]
        columns = (group.number, state.view(-1, *shape), divergence, evaluations, error, status)
        ended = Ended(*(column[ends] for column in columns))
        rest = again.nonzero()[:, 0]
        if not len(rest):
            return ended, None
        return ended, group.take(rest, 2 * group.substeps, evaluations[rest])

    def _grid(self, group: Group) -> tuple[Tensor, Tensor]:
        """Points of the clock, (b, 1 + substeps (K + 1)), and whether the first are crowded."""
        noise = group.noise.at(self.repeat * REPEAT)
        shift = noise.uniform(Stream.NODES)[:, None] + 2.0**-33  # 0 would make a step of none
        nodes = (torch.arange(self.count, device=shift.device) + shift) / self.count
        ends = torch.cat((torch.zeros_like(shift), nodes, torch.ones_like(shift)), 1)
        parts = torch.arange(group.substeps, device=shift.device) / group.substeps
        inner = ends[:, :-1, None] + ends.diff(dim=1)[:, :, None] * parts
        grid = torch.cat((inner.flatten(1), ends[:, -1:]), 1)
        return grid, shift[:, 0] < 0.5


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
                self.waiting[group.substeps] = _some(group, rows[self.capacity :])
            yield _some(group, rows[: self.capacity])


def _some(group: Group, rows: Tensor) -> Group:
    return group.take(rows, group.substeps, group.evaluations[rows])
