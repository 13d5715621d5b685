"""The variance-exploding SDE of score matching with Langevin dynamics (SMLD), in N steps.

The signal keeps its scale and the noise grows geometrically (Song et al. 2021, section 3.4):

    alpha = 1,    sigma_i = sigma_min (sigma_max / sigma_min)^((i - 1) / (N - 1)),  i = 1..N,

log-linear in t between the integers too. On [0, 1], which SMLD leaves open, the variance grows
linearly from 0, so that the path starts at clean data. Seen in the angle this is the rotation that
every process is: only the clock, tan(phi) = sigma, and the scale differ from a VP's.
"""

import math

import torch

from scoreflow.sde.base import SDE
from scoreflow.sde.time_cache import at_times
from scoreflow.sde.types import Times


class VESDE(SDE):
    """x_t = x_0 + sigma_t eps, sigma geometric from t = 1 to N.

    Args:
        num_steps: N, at least 2.
        sigma_min: noise scale at t = 1.
        sigma_max: noise scale at t = N, and of the prior N(0, sigma_max^2 I).
    """

    def __init__(self, num_steps: int, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        if num_steps < 2:
            raise ValueError(f"a noise scale with two ends needs num_steps >= 2, got {num_steps}")
        if not 0 < sigma_min < sigma_max:
            raise ValueError(
                f"sigma_min must be positive and below sigma_max, got {sigma_min}, {sigma_max}"
            )
        self.num_steps, self.sigma_min, self.sigma_max = num_steps, sigma_min, sigma_max
        self._low = 2 * math.log(sigma_min)
        self._slope = 2 * math.log(sigma_max / sigma_min) / (num_steps - 1)  # of log sigma^2

    @at_times
    def log_alpha(self, t: Times) -> Times:
        """Zero: the signal keeps its scale."""
        return torch.zeros_like(t)

    @at_times
    def variance(self, t: Times) -> Times:
        """sigma_t^2; at t = 1 the slope is the one from below."""
        return torch.where(
            t <= 1, math.exp(self._low) * t, (self._low + self._slope * (t - 1)).exp()
        )

    def time(self, angle: Times) -> Times:
        """The inverse of tan(phi) = sigma."""
        sigma = angle.tan()
        # 1 in the branch that is not taken keeps its logarithm finite
        log_variance = 2 * torch.where(angle > 0, sigma, 1.0).log()
        t = torch.where(
            log_variance <= self._low,
            (log_variance - self._low).exp(),
            1 + (log_variance - self._low) / self._slope,
        )
        return torch.where(angle > 0, t, 0.0).clamp(0, self.num_steps)

    def prior_std(self) -> Times:
        """sigma_max: the data under x_N are left out, as in SMLD."""
        return self.sigma(torch.tensor(float(self.num_steps), dtype=torch.float64))
