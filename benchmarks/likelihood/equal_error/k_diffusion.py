"""The log-likelihood of k-diffusion, re-enacted from its method.

In the coordinates of Karras et al. 2022, y = x / alpha and sigma_y = sigma / alpha, the flow is
dy/dsigma_y = (y - D(y; sigma_y)) / sigma_y with D the estimate of x_0 (their Eq. 1 and 3). The
state (y, log p) of the whole batch is solved in float32 by torchdiffeq's dopri5, one tolerance
relative and absolute, with one random-sign probe that is fixed for the solve, drift and product
from the same pass.
"""

import math

import torch
import torchdiffeq
from torch import Tensor

from benchmarks.likelihood.bench import Outcome, Points
from scoreflow.models.score_model import ScoreModel
from scoreflow.samplers import Counted
from scoreflow.sde.flow import sign_probes

State = tuple[Tensor, Tensor]


class SigmaField:
    """Derivative in sigma of y and of the change of log p.

    Args:
        model: a float32 network.
        first: the least time, which rounding of sigma must not pass.
        probe: signs, shaped like the batch.
    """

    def __init__(self, model: ScoreModel, first: float, probe: Tensor) -> None:
        self.model, self.sde, self.probe = Counted(model), model.sde, probe
        self.first, self.evaluations = first, 0

    def __call__(self, sigma: Tensor, state: State) -> State:
        """dy/dsigma, shaped like y, and probe^T J probe, (B,)."""
        self.evaluations += 1
        t = self.sde.time(sigma.double().atan()).clamp(self.first, self.sde.num_steps)
        alpha = self.sde.alpha(t)
        with torch.enable_grad():
            y = state[0].detach().requires_grad_()
            slope = (y - self.model((alpha * y).to(y.dtype), t).x_0) / sigma
            (product,) = torch.autograd.grad((slope * self.probe).sum(), y)
        return slope.detach(), (product * self.probe).flatten(1).sum(1)


@torch.no_grad()
def k_diffusion(model: ScoreModel, points: Points, tolerance: float) -> Outcome:
    """Log-likelihood of a batch that is solved as one system.

    Args:
        model: a float32 network.
        points: what is scored.
        tolerance: relative and absolute.
    """
    sde, device, batch = model.sde, points.x.device, len(points.x)
    first, last = (torch.tensor(t, dtype=torch.float64) for t in (points.t, float(sde.num_steps)))
    probe = sign_probes(points.noise, tuple(points.x.shape[1:]), 1)[:, 0].float()
    field = SigmaField(model, points.t, probe)
    y = (points.x / sde.alpha(first)).float()
    span = torch.stack([sde.angle(each).tan() for each in (first, last)]).float().to(device)
    path = torchdiffeq.odeint(
        field, (y, y.new_zeros(batch)), span, rtol=tolerance, atol=tolerance, method="dopri5"
    )
    latent, change = (part[-1].double() for part in path)
    std = sde.prior_std() / sde.alpha(last)
    energy = (latent / std) ** 2 + torch.log(2 * math.pi * std**2)
    log_prob = -0.5 * energy.flatten(1).sum(1) + change - points.dims * sde.alpha(first).log()
    count = torch.full((batch,), field.evaluations)
    return Outcome(
        points.bits(log_prob[:, None]),
        count,
        field.model.rows / batch,
        float(field.evaluations),
        0,
    )
