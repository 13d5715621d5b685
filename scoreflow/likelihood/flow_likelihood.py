"""Exact log-likelihood by the probability-flow ODE (instantaneous change of variables).

The change of variables along dx~/dphi = v from phi(t) to phi(N):

    log p_t(x) = log prior(x~_N) + integral of div v dphi - D log r_t.

Rows go through the solver as a queue: one that is done makes room for the next, so that a hard
datum delays only itself. How integers become points at t, and what that costs, is
`dequantization`'s matter.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scoreflow.sde.base import SDE
from scoreflow.sde.flow import sign_probes, sign_set_size, unit_probes, velocity_and_divergence
from scoreflow.sde.noise import Noise
from scoreflow.sde.ode import Solution, odeint, odeint_queue
from scoreflow.sde.prediction import Denoiser


@dataclass(frozen=True)
class LogLikelihood:
    """Of some rows, in any order.

    Attributes:
        row: their running numbers in the order of arrival, (B,).
        log_prob: nats, (B, P): one column a probe, or a single one for the exact divergence.
        latent: x at the prior, shaped like the data.
        evaluations: of the denoiser, (B,).
        status: `sde.ode.Status`, (B,).
        solver_error: accumulated local error estimate of the log-density, nats, (B,).
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
        probes: random-sign probes of the divergence; 0 takes it exactly, at D products an
            evaluation.
        tolerance: of the local error of a step, relative and absolute, in x on the unit scale.
        tolerance_bits: of the local error of a step in the log-density, bits/dim.
        method: "dopri5" (per sample), "torchdiffeq:METHOD" or "scipy:METHOD".
        max_evaluations: cap for each sample.
    """

    probes: int = 1
    tolerance: float = 1e-4
    tolerance_bits: float = 1e-4
    method: str = "dopri5"
    max_evaluations: int = 10_000

    def finer(self, factor: float) -> "Solver":
        """The same with tolerances so many times smaller."""
        tolerance, bits = self.tolerance / factor, self.tolerance_bits / factor
        return replace(self, tolerance=tolerance, tolerance_bits=bits)


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
        solver, dims = self.solver, self.shape.numel()
        signs = self.like.new_zeros(capacity, solver.probes, *self.shape)
        held = torch.zeros(capacity, dtype=torch.int64, device=self.like.device)
        arrived = 0

        def source(free: Tensor) -> tuple[Tensor, ...]:
            nonlocal arrived
            x, noise = arrivals(len(free))
            slots = free[: len(x)]
            if solver.probes and len(x):
                signs[slots] = sign_probes(noise, tuple(self.shape), solver.probes)
            held[slots] = torch.arange(arrived, arrived + len(x), device=held.device)
            arrived += len(x)
            return self._start(x)

        def field(angle: Tensor, state: tuple[Tensor, ...], rows: Tensor) -> tuple[Tensor, ...]:
            probes = signs[rows].unbind(1) if solver.probes else unit_probes(state[0])
            v, products = velocity_and_divergence(self.sde, self.denoiser, angle, state[0], probes)
            return v, products if solver.probes else products.sum(1, keepdim=True)

        rtol = (solver.tolerance, 0.0)
        atol = (solver.tolerance, solver.tolerance_bits * dims * math.log(2))
        most = solver.max_evaluations
        span = float(self.sde.angle(self.t)), float(self.sde.angle(self.end))
        if solver.method == "dopri5":
            like = self._start(self.like)
            solved = odeint_queue(
                field,
                source,
                like,
                *span,
                capacity=capacity,
                rtol=rtol,
                atol=atol,
                max_evaluations=most,
            )
            for slots, solution in solved:
                yield self._found(held[slots], solution)
            return
        free = torch.arange(capacity, device=held.device)
        while len((state := source(free))[0]):
            solution = odeint(
                field,
                state,
                *span,
                method=solver.method,
                rtol=rtol,
                atol=atol,
                max_evaluations=most,
            )
            yield self._found(held[: len(state[0])], solution)

    def _start(self, x: Tensor) -> tuple[Tensor, ...]:
        """The state of points: on the unit scale, and no change of volume yet."""
        unit = x.double() / self.sde.scale(self.t)
        return unit, unit.new_zeros(len(x), max(self.solver.probes, 1))

    def _found(self, row: Tensor, solution: Solution) -> LogLikelihood:
        latent, divergence = solution.state
        dims, scale = self.shape.numel(), self.sde.scale(self.end)
        std = self.sde.prior_std() / scale
        energy = (latent / std) ** 2 + torch.log(2 * math.pi * std**2)
        log_prior = -0.5 * energy.flatten(1).sum(1)
        return LogLikelihood(
            row=row,
            log_prob=log_prior[:, None] + divergence - dims * self.sde.scale(self.t).log(),
            latent=latent * scale,
            evaluations=solution.evaluations,
            status=solution.status,
            solver_error=solution.error[1],
        )


def to_bits_per_dim(log_prob: Tensor, dims: int, num_levels: int) -> Tensor:
    """Bits/dim of integers in 0..L-1 from the log density (nats) of their points in [-1, 1]."""
    return math.log2(num_levels / 2) - log_prob / (dims * math.log(2))
