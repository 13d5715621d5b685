"""Exact log-likelihood by the probability-flow ODE (instantaneous change of variables).

The change of variables along dx~/dphi = v from phi(t) to phi(N):

    log p_t(x) = log prior(x~_N) + integral of div v dphi - D log r_t.

By "nodes" the divergence is estimated at points of the trajectory alone, randomly placed and with
fresh probes at each (`nodes.trajectories`); by the other methods it is a part of the state, with
probes held fixed. Rows go through a solver as a queue: one that is done makes room for the next,
so that a hard datum delays only itself. How integers become points at t, and what that costs, is
`dequantization`'s matter.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypedDict

import torch
from torch import Tensor

from scoreflow.likelihood.nodes.clock import Clock
from scoreflow.likelihood.nodes.trajectories import REPEAT, Attempts, Group, Nodes
from scoreflow.samplers.denoisers.wrapper import further_evaluations
from scoreflow.sde.base import SDE
from scoreflow.sde.flow import (
    sign_probes,
    sign_set_size,
    unit_probes,
    velocity,
    velocity_and_divergence,
)
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.ode import Solution, odeint, odeint_queue
from scoreflow.sde.prediction import Denoiser
from scoreflow.sde.types import State


@dataclass(frozen=True)
class LogLikelihood:
    """Of some rows, in any order.

    Attributes:
        row: their running numbers in the order of arrival, (B,).
        log_prob: nats, (B, P): one column a probe, or a single one for the exact divergence. By
            "nodes" a column has a probe of its own at each node; all have the same nodes.
        latent: x at the prior, shaped like the data.
        evaluations: of the denoiser, (B,).
        status: `sde.ode.Status`, (B,).
        solver_error: accumulated local error estimate of the log-density, nats, (B,). By "nodes"
            that of the trajectory, as if it had a random direction: sqrt(D) times its RMS.
    """

    row: Tensor
    log_prob: Tensor
    latent: Tensor
    evaluations: Tensor
    status: Tensor
    solver_error: Tensor


@dataclass(frozen=True)
class Solver:
    """How the flow is solved.

    Attributes:
        probes: random-sign probes of the divergence, by "nodes" so many at each; 0 takes it
            exactly, at D products an evaluation.
        tolerance: of the local error of a step, relative and absolute, in x on the unit scale; not
            of "nodes".
        tolerance_bits: of the local error of a step in the log-density, bits/dim; not of "nodes".
        method: "nodes", "dopri5" (per sample), "torchdiffeq:METHOD" or "scipy:METHOD".
        max_evaluations: cap for each sample.
        nodes: of "nodes", where the divergence is estimated.
        substeps: of "nodes", steps of the trajectory from one to the next, in a first attempt.
        trajectory_tolerance: of "nodes", of the sum of estimated local errors, each the RMS in
            units of the noise there: a row above it is solved again with twice the substeps.
        repeat: another number has other probes and other nodes.
    """

    probes: int = 1
    tolerance: float = 1e-4
    tolerance_bits: float = 1e-4
    method: str = "dopri5"
    max_evaluations: int = 10_000
    nodes: int = 32
    substeps: int = 1
    trajectory_tolerance: float = 0.05
    repeat: int = 0

    def tolerances(self, dims: int) -> tuple[tuple[float, float], tuple[float, float]]:
        """Relative and absolute tolerances of x and of the log-density of D = dims, nats."""
        nats = self.tolerance_bits * dims * math.log(2)
        return (self.tolerance, 0.0), (self.tolerance, nats)

    def finer(self, factor: float) -> "Solver":
        """The same with tolerances so many times smaller; "nodes" with `FINER` times the substeps.

        Nodes and probes are the same, so that only the error of the trajectory is less. Its
        tolerance is less too, or a row that had to double its substeps would stop where it did.
        """
        if self.method == "nodes":
            return replace(
                self,
                substeps=FINER * self.substeps,
                trajectory_tolerance=self.trajectory_tolerance / FINER,
                max_evaluations=FINER**2 * self.max_evaluations,
            )
        tolerance, bits = self.tolerance / factor, self.tolerance_bits / factor
        return replace(self, tolerance=tolerance, tolerance_bits=bits)


FINER = 4
"""Times the substeps: the error of a method of order 3 falls to a 64th, its estimate, of order 2
in the first steps, to a 16th."""
Arrivals = Callable[[int], tuple[Tensor, Noise]]
"""The most points to give -> the next points (k, ...) and their noise; fewer: no more come."""


def log_likelihood(
    denoiser: Denoiser, sde: SDE, x: Tensor, t: float, noise: Noise, solver: Solver
) -> LogLikelihood:
    """Log density p_t of x under the probability flow of a denoiser, row by row in order.

    Args:
        denoiser: differentiable in x_t; evaluated at times in [t, N].
        sde: the process.
        x: (B, ...), points on the path at time t.
        t: where the flow starts, in steps.
        noise: addresses the probes: fixed for a solve and the same for any two models.
        solver: probes, tolerances and method.
    """
    left = [(x, noise)]

    def arrivals(_most: int) -> tuple[Tensor, Noise]:
        return left.pop() if left else (x[:0], noise.rows(torch.arange(0, device=x.device)))

    flow = Flow(denoiser, sde, x, t, solver)
    found = list(flow.solve(arrivals, capacity=max(len(x), 1)))
    order = torch.cat([each.row for each in found]).argsort()
    columns = (torch.cat([getattr(each, name) for each in found])[order] for name in _COLUMNS)
    return LogLikelihood(*columns)


_COLUMNS = tuple(LogLikelihood.__dataclass_fields__)


class Flow:
    """The flow of a denoiser from time t to the prior, for a queue of points.

    Args:
        denoiser: as in `log_likelihood`.
        sde: the process.
        like: points of the shape and device to come, any number of them.
        t: where the flow starts, in steps.
        solver: probes, tolerances and method.
    """

    def __init__(
        self, denoiser: Denoiser, sde: SDE, like: Tensor, t: float, solver: Solver
    ) -> None:
        self.denoiser, self.sde, self.solver = denoiser, sde, solver
        self.like = like[:0].double()
        self.shape = like.shape[1:]
        self.t = torch.tensor(t, dtype=torch.float64)
        self.end = torch.tensor(float(sde.num_steps), dtype=torch.float64)

    @property
    def sign_set(self) -> int:
        """How many sign vectors the probes are drawn from."""
        return sign_set_size(self.shape.numel())

    def solve(self, arrivals: Arrivals, capacity: int) -> Iterator[LogLikelihood]:
        """Log densities as they are found, at most `capacity` rows at a time."""
        if self.solver.method == "nodes":
            yield from self._at_nodes(arrivals, capacity)
            return
        queue, solver = _Queue(self, arrivals, capacity), self.solver
        span = float(self.sde.angle(self.t)), float(self.sde.angle(self.end))
        rtol, atol = solver.tolerances(self.shape.numel())
        limits: _Limits = {"rtol": rtol, "atol": atol, "max_evaluations": solver.max_evaluations}
        if solver.method == "dopri5":
            like = self.start(self.like)
            for slots, solution in odeint_queue(
                queue.field, queue.source, like, *span, capacity=capacity, **limits
            ):
                yield self._found(queue, slots, solution)
            return
        free = torch.arange(capacity, device=self.like.device)
        while len((state := queue.source(free))[0]):
            solution = odeint(queue.field, state, *span, method=solver.method, **limits)
            yield self._found(queue, free[: len(state[0])], solution)

    def start(self, x: Tensor) -> tuple[Tensor, ...]:
        """The state of points: on the unit scale, and no change of volume yet."""
        unit = x.double() / self.sde.scale(self.t)
        return unit, unit.new_zeros(len(x), max(self.solver.probes, 1))

    def _at_nodes(self, arrivals: Arrivals, capacity: int) -> Iterator[LogLikelihood]:
        """The same by nodes: `capacity` rows at once, then with others those to solve again."""
        solver = self.solver
        nodes = Nodes(
            clock=Clock(float(self.sde.angle(self.t)), float(self.sde.angle(self.end))),
            count=solver.nodes,
            tolerance=solver.trajectory_tolerance,
            max_evaluations=solver.max_evaluations,
            columns=max(solver.probes, 1),
            repeat=solver.repeat,
        )
        attempts, arrived = Attempts(capacity), 0
        while len((points := arrivals(capacity))[0]):
            x, noise = points
            number = torch.arange(arrived, arrived + len(x), device=x.device)
            arrived += len(x)
            group = Group.begin(number, self.start(x)[0], noise, solver.substeps)
            for each in itertools.chain((group,), attempts.full()):
                yield from self._attempted(nodes, each, attempts)
        for each in attempts.all():
            yield from self._attempted(nodes, each, attempts)

    def _attempted(
        self, nodes: Nodes, group: Group, attempts: Attempts
    ) -> Iterator[LogLikelihood]:
        """Rows of a group that ended; the others are left to `attempts`."""
        further = torch.zeros_like(group.number)
        asked, probes = further_evaluations(self.denoiser), self.solver.probes

        def field(angle: Tensor, x: Tensor, node: int | None) -> tuple[Tensor, Tensor | None]:
            if asked is not None:
                further.add_(asked(self.sde.time(angle)))
            if node is None:
                return velocity(self.sde, self.denoiser, angle, x), None
            signs = self._signs(group.noise, 1 + node) if probes else unit_probes(x)
            v, products = velocity_and_divergence(self.sde, self.denoiser, angle, x, signs)
            return v, products if probes else products.sum(1, keepdim=True)

        with torch.no_grad():
            ended, again = nodes.solve(group, field, further)
        if again is not None:
            attempts.add(again)
        if len(ended.number):
            yield self._density(
                ended.number,
                ended.state,
                ended.divergence,
                evaluations=ended.evaluations,
                status=ended.status,
                error=ended.error * math.sqrt(self.shape.numel()),
            )

    def _signs(self, noise: Noise, step: int) -> tuple[Tensor, ...]:
        """The probes of each row at a step of the noise: each (B, ...)."""
        noise = noise.at(noise.step + self.solver.repeat * REPEAT + step)
        if self.solver.probes == 1:  # any one of the set is a vector of independent signs
            return (noise.rademacher(Stream.PROBE, tuple(self.shape)),)
        return sign_probes(noise, tuple(self.shape), self.solver.probes).unbind(1)

    def _found(self, queue: "_Queue", slots: Tensor, solution: Solution) -> LogLikelihood:
        return self._density(
            queue.held[slots],
            *solution.state,
            evaluations=solution.evaluations + queue.further[slots],
            status=solution.status,
            error=solution.error[1],
        )

    def _density(
        self,
        row: Tensor,
        latent: Tensor,
        divergence: Tensor,
        *,
        evaluations: Tensor,
        status: Tensor,
        error: Tensor,
    ) -> LogLikelihood:
        dims, scale = self.shape.numel(), self.sde.scale(self.end)
        std = self.sde.prior_std() / scale
        energy = (latent / std) ** 2 + torch.log(2 * math.pi * std**2)
        log_prior = -0.5 * energy.flatten(1).sum(1)
        return LogLikelihood(
            row=row,
            log_prob=log_prior[:, None] + divergence - dims * self.sde.scale(self.t).log(),
            latent=latent * scale,
            evaluations=evaluations,
            status=status,
            solver_error=error,
        )


class _Limits(TypedDict):
    """Where a solver's steps and evaluations end."""

    rtol: tuple[float, float]
    atol: tuple[float, float]
    max_evaluations: int


class _Queue:
    """Points in a solver's slots: their probes, and the velocity and divergence there.

    Args:
        flow: that is solved.
        arrivals: the points.
        capacity: slots.

    Attributes:
        held: the number in the order of arrival of the point in each slot, (capacity,).
        further: evaluations of it beyond one a call of the denoiser, (capacity,).
    """

    def __init__(self, flow: Flow, arrivals: Arrivals, capacity: int) -> None:
        self.flow, self.arrivals, self.arrived = flow, arrivals, 0
        self.signs = flow.like.new_zeros(capacity, flow.solver.probes, *flow.shape)
        self.held = torch.zeros(capacity, dtype=torch.int64, device=flow.like.device)
        self.further = torch.zeros_like(self.held)

    def source(self, free: Tensor) -> State:
        """The states of the next points, at most one a free slot."""
        probes = self.flow.solver.probes
        x, noise = self.arrivals(len(free))
        slots = free[: len(x)]
        if probes and len(x):
            noise = noise.at(noise.step + self.flow.solver.repeat * REPEAT)
            self.signs[slots] = sign_probes(noise, tuple(self.flow.shape), probes)
        number = torch.arange(self.arrived, self.arrived + len(x), device=self.held.device)
        self.held[slots] = number
        self.further.index_fill_(0, slots, 0)  # assigned, a GPU would wait for the number
        self.arrived += len(x)
        return self.flow.start(x)

    def field(self, angle: Tensor, state: State, rows: Tensor) -> State:
        """Velocity and divergence in the angle; rows are the slots of the state."""
        sde, denoiser, x = self.flow.sde, self.flow.denoiser, state[0]
        if (further := further_evaluations(denoiser)) is not None:
            self.further[rows] += further(sde.time(angle))
        random = self.flow.solver.probes > 0
        probes = self.signs[rows].unbind(1) if random else unit_probes(x)
        v, products = velocity_and_divergence(sde, denoiser, angle, x, probes)
        return v, products if random else products.sum(1, keepdim=True)


def to_bits_per_dim(log_prob: Tensor, dims: int, num_levels: int) -> Tensor:
    """Bits/dim of integers in 0..L-1 from the log density (nats) of their points in [-1, 1]."""
    return math.log2(num_levels / 2) - log_prob / (dims * math.log(2))
