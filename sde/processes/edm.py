"""EDM's process: Karras' noise scales over a signal that keeps its scale.

    alpha = 1,    sigma_i^(1/rho) linear in i from sigma_min at i = 1 to sigma_max at i = N

(Karras et al. 2022, Eq. 5), and so between the integers. On [0, 1] the variance grows linearly
from 0, as in `ve`, from which only the clock differs.
"""

import torch

from scoreflow.sde.base import SDE
from scoreflow.sde.time_cache import at_times
from scoreflow.sde.types import Times


class EDMSDE(SDE):
    """x_t = x_0 + sigma_t eps, sigma^(1/rho) linear from t = 1 to N.

    Args:
        num_steps: N, at least 2.
        sigma_min: noise scale at t = 1.
        sigma_max: noise scale at t = N, and of the prior N(0, sigma_max^2 I).
        rho: the greater, the more steps at little noise.
    """

    def __init__(
        self, num_steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
    ) -> None:
        if num_steps < 2:
            raise ValueError(f"a noise scale with two ends needs num_steps >= 2, got {num_steps}")
        if not (0 < sigma_min < sigma_max and rho > 0):
            raise ValueError(
                "sigma_min must be positive and below sigma_max, and rho positive, got "
                f"{sigma_min}, {sigma_max} and {rho}"
            )
        self.num_steps, self.sigma_min, self.sigma_max = num_steps, sigma_min, sigma_max
        self.rho, self._low = rho, sigma_min ** (1 / rho)
        self._slope = (sigma_max ** (1 / rho) - self._low) / (num_steps - 1)  # of sigma^(1/rho)

    @at_times
    def log_alpha(self, t: Times) -> Times:
        """Zero: the signal keeps its scale."""
        return torch.zeros_like(t)

    @at_times
    def variance(self, t: Times) -> Times:
        """sigma_t^2; at t = 1 the slope is the one from below."""
        root = self._low + self._slope * (t - 1).clamp(min=0)
        return torch.where(t <= 1, self.sigma_min**2 * t, root ** (2 * self.rho))

    def time(self, angle: Times) -> Times:
        """The inverse of tan(phi) = sigma."""
        sigma = angle.tan()
        t = torch.where(
            sigma <= self.sigma_min,
            (sigma / self.sigma_min) ** 2,
            1 + (sigma ** (1 / self.rho) - self._low) / self._slope,
        )
        return t.clamp(0, self.num_steps)

    def prior_std(self) -> Times:
        """sigma_max: the data under x_N are left out, as in EDM."""
        return self.sigma(torch.tensor(float(self.num_steps), dtype=torch.float64))
