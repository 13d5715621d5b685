"""Heun's method with churn (EDM, Karras et al. 2022, Algorithm 2), for any process."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoreflow.samplers.multistep.exponential_integrator import combined, ratio
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import Denoiser
from scoreflow.sde.types import Batch, Times


@dataclass(frozen=True)
class Heun:
    """The trapezoidal rule on d(x / alpha) / d rho = eps, rho = sigma / alpha. Order 2.

    With churn, noise is first raised from rho to rho^ = (1 + churn) rho, as far as the prior:

        x^ / alpha^ = x / alpha + sqrt(rho^^2 - rho^2) z
        x_s = alpha_s (x^ / alpha^ + (rho_s - rho^) (eps^ + eps_s) / 2)

    The step to s = 0 is Euler's, for there is no estimate at 0.

    Attributes:
        churn: by how much noise is raised before a step, relative, in [0, sqrt(2) - 1]; 0 is
            deterministic.
    """

    churn: float = 0.0

    @property
    def stated_order(self) -> int | None:
        """Order of convergence that the paper states; None with noise, which leaves the flow."""
        return 2 if self.churn == 0 else None

    def __post_init__(self) -> None:
        if not 0 <= self.churn <= math.sqrt(2) - 1:
            raise ValueError(f"churn must lie in [0, sqrt(2) - 1], got {self.churn}")

    def step(
        self, denoiser: Denoiser, sde: SDE, x_t: Batch, t: Times, s: Times, noise: Noise
    ) -> Batch:
        """Draw x_s given x_t."""
        if self.churn:
            x_t, t = self._raised(sde, x_t, t, noise)
        prediction = denoiser(x_t, t)
        rho_t, rho_s = ratio(sde, t), ratio(sde, s)
        scale, stride = (sde.alpha(s) / sde.alpha(t)).item(), sde.alpha(s).item() * (rho_s - rho_t)
        x_s = combined(x_t, scale, (stride, prediction.eps))
        if s == 0:
            return x_s
        slopes = prediction.eps + denoiser(x_s, s).eps
        return combined(x_t, scale, (0.5 * stride, slopes))

    def _raised(self, sde: SDE, x_t: Batch, t: Times, noise: Noise) -> tuple[Batch, Tensor]:
        end = torch.full_like(t, sde.num_steps)
        rho = ratio(sde, t)
        raised = min((1 + self.churn) * rho, ratio(sde, end))
        later = sde.time(torch.full_like(t, math.atan(raised))).clamp(max=sde.num_steps)
        alpha = sde.alpha(later).item()
        std = alpha * math.sqrt(max(ratio(sde, later) ** 2 - rho**2, 0.0))
        z = noise.normal(Stream.PREDICTOR, tuple(x_t.shape[1:]))
        return combined(x_t, alpha / sde.alpha(t).item(), (std, z)), later
