"""Exact log-likelihood by the probability flow, with what it is unsure of.

The change of variables along dx~/dphi = v from phi(t_min) to phi(N):

    log p(x) = log prior(x~_N) + integral of div v dphi - D log r_{t_min}.

The datum stands at t_min un-noised, so even a perfect model is scored on p_{t_min}, its density
blurred by sigma(t_min). For integers, dequantized uniformly over bins of width 2 / L on [-1, 1],

    bits/dim = -log p / (D ln 2) + log2(L / 2),

an upper bound in expectation over the dequantization, at the data's own number of levels L.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sde.base import SDE
from sde.flow import unit_probes, velocity_and_divergence
from sde.noise import Noise, Stream
from sde.ode import odeint
from sde.prediction import Denoiser


@dataclass(frozen=True)
class LogLikelihood:
    """Of a batch, one row a sample.

    Attributes:
        log_prob: nats, (B, P): one column a probe, or a single one for the exact divergence.
        latent: x~ at the prior, shaped like the data.
        evaluations: of the denoiser, (B,).
        status: `sde.ode.Status`, (B,).
        solver_error: accumulated local error estimate of the log-density, nats, (B,).
    """

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


def log_likelihood(
    denoiser: Denoiser, sde: SDE, x: Tensor, t_min: float, noise: Noise, solver: Solver
) -> LogLikelihood:
    """Log density of x under the probability flow of a denoiser.

    Args:
        denoiser: differentiable in x_t; asked at times in [t_min, N].
        sde: the process.
        x: (B, ...), real-valued data taken to stand at t_min.
        t_min: where the flow starts, in steps.
        noise: addresses the probes: fixed for a solve and the same for any two models.
        solver: probes, tolerances and method.
    """
    t = torch.tensor(t_min, dtype=torch.float64)
    prior_t = torch.tensor(float(sde.num_steps), dtype=torch.float64)
    x = x.double() / sde.scale(t)
    dims = x[0].numel()
    signs = [
        noise.rademacher(Stream.PROBE, tuple(x.shape[1:]), draw) for draw in range(solver.probes)
    ]

    def field(angle: Tensor, state: tuple[Tensor, ...], rows: Tensor) -> tuple[Tensor, ...]:
        probes = [sign[rows] for sign in signs] or unit_probes(state[0])
        v, products = velocity_and_divergence(sde, denoiser, angle, state[0], probes)
        return v, products if signs else products.sum(1, keepdim=True)

    solution = odeint(
        field,
        (x, x.new_zeros(len(x), max(solver.probes, 1))),
        float(sde.angle(t)),
        float(sde.angle(prior_t)),
        method=solver.method,
        rtol=(solver.tolerance, 0.0),
        atol=(solver.tolerance, solver.tolerance_bits * dims * math.log(2)),
        max_evaluations=solver.max_evaluations,
    )
    latent, divergence = solution.state
    std = sde.prior_std() / sde.scale(prior_t)
    log_prior = -0.5 * ((latent / std) ** 2 + torch.log(2 * math.pi * std**2)).flatten(1).sum(1)
    return LogLikelihood(
        log_prob=log_prior[:, None] + divergence - dims * sde.scale(t).log(),
        latent=latent * sde.scale(prior_t),
        evaluations=solution.evaluations,
        status=solution.status,
        solver_error=solution.error[1],
    )


def to_bits_per_dim(log_prob: Tensor, dims: int, num_levels: int) -> Tensor:
    """Bits/dim of integers in 0..L-1 from the log density (nats) of their points in [-1, 1]."""
    return math.log2(num_levels / 2) - log_prob / (dims * math.log(2))


def truncation_bits(sigma: float, num_levels: int) -> float:
    """What starting at t_min can cost a perfect model, in bits/dim: an upper bound for any data.

    Blurred by sigma, a level's bin of width w keeps the fraction

        Phi((u + 1/2) w / sigma) - Phi((u - 1/2) w / sigma)

    of its density; all other levels only add. The bound is the mean of -log2 of that over the
    bin, u in [-1/2, 1/2], and is attained by levels far apart.
    """
    ratio = 2 / num_levels / sigma
    # midpoints, graded towards the edge at 1/2, where all of the loss is once sigma << w
    edges = 0.5 * (1 - torch.linspace(1, 0, 20_001, dtype=torch.float64) ** 3)
    u, weight = (edges[1:] + edges[:-1]) / 2, edges.diff()
    kept = torch.special.ndtr((u + 0.5) * ratio) - torch.special.ndtr((u - 0.5) * ratio)
    return float(-2 * (weight * kept.log2()).sum())
