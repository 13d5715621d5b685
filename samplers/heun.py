"""Heun's method with churn (EDM, Karras et al. 2022, Algorithm 2), for any process."""

import math
from dataclasses import dataclass, replace

import torch

from scoreflow.samplers.multistep.exponential_integrator import combined, ratio
from scoreflow.samplers.sampler import Step
from scoreflow.sde.types import Batch


@dataclass(frozen=True)
class Heun:
    """The trapezoidal rule on d(x / alpha) / d rho = eps, rho = sigma / alpha. Order 2.

    With churn, noise is first raised from rho to rho^ = (1 + churn) rho, as far as the prior:

        x^ / alpha^ = x / alpha + sqrt(rho^^2 - rho^2) z
        x_s = alpha_s (x^ / alpha^ + (rho_s - rho^) (eps^ + eps_s) / 2)

    The step to s = 0 is Euler's, for there is no estimate at 0. From where alpha is 0, and rho
    infinite, the rule is that of d(x / (alpha + sigma)) / d tau = u with
    tau = sigma / (alpha + sigma): the same flow, on a clock that is finite there.

    Attributes:
        churn: by how much noise is raised before a step, relative, in [0, sqrt(2) - 1]; 0 is
            deterministic.
    """

    churn: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.churn <= math.sqrt(2) - 1:
            raise ValueError(f"churn must lie in [0, sqrt(2) - 1], got {self.churn}")

    @property
    def flow_order(self) -> int | None:
        """Order of convergence to the probability flow; None with churn."""
        return 2 if self.churn == 0 else None

    def step(self, x_t: Batch, step: Step) -> Batch:
        """Draw x_s given x_t."""
        if step.without_signal:
            return _from_noise(x_t, step)
        if self.churn:
            x_t, step = self._raised(x_t, step)
        sde, t, s = step.sde, step.t, step.s
        prediction = step.predict(x_t)
        rho_t, rho_s = ratio(sde, t), ratio(sde, s)
        scale, stride = (sde.alpha(s) / sde.alpha(t)).item(), sde.alpha(s).item() * (rho_s - rho_t)
        x_s = combined(x_t, scale, (stride, prediction.eps))
        if s == 0:
            return x_s
        slopes = prediction.eps + step.denoiser(x_s, s).eps
        return combined(x_t, scale, (0.5 * stride, slopes))

    def _raised(self, x_t: Batch, step: Step) -> tuple[Batch, Step]:
        """x^, and the step from its time to s."""
        sde, t = step.sde, step.t
        end = torch.full_like(t, sde.num_steps)
        rho = ratio(sde, t)
        raised = min((1 + self.churn) * rho, ratio(sde, end))
        later = sde.time(torch.full_like(t, math.atan(raised))).clamp(max=sde.num_steps)
        alpha = sde.alpha(later).item()
        std = alpha * math.sqrt(max(ratio(sde, later) ** 2 - rho**2, 0.0))
        x_later = combined(x_t, alpha / sde.alpha(t).item(), (std, step.normal(x_t)))
        return x_later, replace(step, t=later)


def _from_noise(x_t: Batch, step: Step) -> Batch:
    """The trapezoidal rule in tau, from tau = 1: of order 2 as the steps after it."""
    sde, s, prediction = step.sde, step.s, step.predict(x_t)
    x_s = sde.perturb(prediction.x_0, s, prediction.eps)  # Euler's step in tau is DDIM's
    if s == 0:
        return x_s
    whole = (sde.alpha(s) + sde.sigma(s)).item()
    half = 0.5 * (sde.sigma(s).item() - whole)  # whole (tau_s - 1) / 2
    slopes = prediction.u + step.denoiser(x_s, s).u
    return combined(x_t, whole / sde.sigma(step.t).item(), (half, slopes))
