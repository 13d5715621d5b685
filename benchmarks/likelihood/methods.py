"""The usual procedure (`usual`), and ours by any solver (`ours`)."""

import itertools
import math
import time

import numpy as np
import numpy.typing as npt
import scipy.integrate
import torch
from torch import Tensor

from benchmarks.likelihood import settings
from benchmarks.likelihood.bench import Outcome, Points
from scoreflow.likelihood.flow_likelihood import Flow, Solver, log_likelihood
from scoreflow.models.score_model import ScoreModel
from scoreflow.samplers import Counted
from scoreflow.sde.base import broadcast
from scoreflow.sde.flow import sign_probes
from scoreflow.sde.noise import Noise
from scoreflow.sde.ode import Status


class TimeLimitError(Exception):
    """The usual procedure has exceeded its limit of time."""


class JointField:
    """Derivative in t of the joint state of a batch, flat in numpy: all x, then all log p.

    Args:
        model: a float32 network.
        points: a batch that is solved as one system.
        passes: 2 as usual; 1 takes drift and divergence from the same pass.
        cap: seconds after which it raises.
    """

    def __init__(self, model: ScoreModel, points: Points, passes: int, cap: float) -> None:
        self.model, self.sde, self.passes = Counted(model), model.sde, passes
        self.shape, self.device = points.x.shape, points.x.device
        event = tuple(self.shape[1:])
        self.probe = sign_probes(points.noise, event, 1)[:, 0].float()
        self.evaluations, self.deadline = 0, time.monotonic() + cap

    def drift(self, x: Tensor, t: Tensor, f: Tensor, g: Tensor) -> Tensor:
        """The drift f x - g^2 score / 2 of Song et al. 2021, Eq. 13."""
        return f * x - 0.5 * g**2 * self.model(x, t).score

    def divergence(self, x: Tensor, *coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """The drift, from a pass that keeps its graph, and probe^T J probe, (B,)."""
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            drift = self.drift(x, *coefficients)
            (product,) = torch.autograd.grad((drift * self.probe).sum(), x)
        return drift.detach(), (product * self.probe).flatten(1).sum(1)

    @torch.no_grad()
    def __call__(self, t: float, flat: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The derivative; a TimeLimitError after the limit of time."""
        if time.monotonic() > self.deadline:
            raise TimeLimitError
        self.evaluations += 1
        x = torch.from_numpy(flat[: -self.shape[0]]).to(self.device).float().view(self.shape)
        at = torch.tensor(t, dtype=torch.float64)
        f, g = broadcast(self.sde.drift(at), x), broadcast(self.sde.diffusion(at), x)
        first = self.drift(x, at, f, g) if self.passes == 2 else None
        second, product = self.divergence(x, at, f, g)
        parts = (second if first is None else first).flatten(), product
        return np.concatenate([part.cpu().numpy().astype(np.float64) for part in parts])


def usual(
    model: ScoreModel,
    points: Points,
    tolerance: float,
    passes: int = 2,
    cap: float | None = None,
) -> Outcome:
    """Log-likelihood by scipy's RK45 in t over the joint state of the whole batch.

    Args:
        model: a float32 network, on the schedule to integrate along.
        points: solved as one system.
        tolerance: relative and absolute.
        passes: through the network an evaluation: 2 as usual, or 1.
        cap: limit of time in seconds; None for `settings.CAP_SECONDS`.
    """
    batch, sde = len(points.x), model.sde
    field = JointField(model, points, passes, settings.CAP_SECONDS if cap is None else cap)
    start = np.concatenate([points.x.flatten().cpu().numpy(), np.zeros(batch)])
    span = (points.t, float(sde.num_steps))
    try:
        found = scipy.integrate.solve_ivp(
            field, span, start, method="RK45", rtol=tolerance, atol=tolerance
        )
        end = torch.from_numpy(found.y[:, -1]) if found.success else None
    except TimeLimitError:
        end = None
    log_prob = torch.full((batch,), math.nan, dtype=torch.float64)
    if end is not None:
        latent, std = end[:-batch].view(batch, -1), sde.prior_std()
        energy = (latent / std) ** 2 + torch.log(2 * math.pi * std**2)
        log_prob = -0.5 * energy.sum(1) + end[-batch:]
    return Outcome(
        points.bits(log_prob[:, None].to(points.offset.device)),
        torch.full((batch,), field.evaluations),
        field.model.rows / batch,
        float(field.evaluations),
        0 if end is not None else batch,
    )


def ours(model: ScoreModel, points: Points, solver: Solver, capacity: int = 0) -> Outcome:
    """Log-likelihood by our package: at nodes, or with a step size for each image.

    Args:
        model: a float32 network.
        points: what is scored.
        solver: probes, tolerances and method.
        capacity: images that are solved at a time, the others wait in a queue; 0 for all.
    """
    counted, batch = Counted(model), len(points.x)
    if capacity:
        log_prob, evaluations, status = _queued(counted, model, points, solver, capacity)
    else:
        found = log_likelihood(counted, model.sde, points.x, points.t, points.noise, solver)
        log_prob, evaluations, status = found.log_prob, found.evaluations, found.status
    done = (status == Status.DONE).cpu()
    bits = points.bits(log_prob).where(done[:, None], math.nan)
    forwards = counted.rows / batch
    times = solver.nodes * attempts(evaluations, solver) if solver.method == "nodes" else forwards
    products = times * (solver.probes or points.dims)
    return Outcome(bits, evaluations.cpu(), forwards, products, int((~done).sum()))


def attempts(evaluations: Tensor, solver: Solver) -> float:
    """How often a trajectory was solved, a mean over images: each time at twice the substeps."""
    left, found, substeps = evaluations.double(), 0.0, solver.substeps
    while bool((left > 0).any()):
        found += float((left > 0).double().mean())
        left = left - (1 + substeps * (solver.nodes + 1))
        substeps *= 2
    return found


def _queued(
    counted: Counted, model: ScoreModel, points: Points, solver: Solver, capacity: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-densities, (B, P), evaluations and status, (B,), by `Flow`'s queue."""
    batch, waiting = len(points.x), iter(range(len(points.x)))

    def arrivals(most: int) -> tuple[Tensor, Noise]:
        now = list(itertools.islice(waiting, most))
        return points.x[now], Noise(points.noise.seed, points.noise.index[now])

    log_prob = points.offset.new_empty(batch, max(solver.probes, 1))
    evaluations, status = (torch.empty_like(points.noise.index) for _ in range(2))
    flow = Flow(counted, model.sde, points.x, points.t, solver)
    for found in flow.solve(arrivals, capacity):
        log_prob[found.row] = found.log_prob
        evaluations[found.row] = found.evaluations
        status[found.row] = found.status
    return log_prob, evaluations, status


def solver_of(tolerance: float, method: str = "dopri5", probes: int = 1) -> Solver:
    """A solver with fixed probes, and one number for both tolerances."""
    return Solver(probes=probes, tolerance=tolerance, tolerance_bits=tolerance, method=method)


def nodes_solver(nodes: int, probes: int = 1, substeps: int = 1) -> Solver:
    """Ours: fresh probes at so many nodes."""
    return Solver(probes=probes, method="nodes", nodes=nodes, substeps=substeps)
