"""The sub-VP SDE: a VP's signal with less noise (Song et al. 2021, section 3.4).

    alpha as in the VP-SDE of the same betas,    sigma = 1 - alpha^2,

so that sigma^2 stays below the VP's 1 - alpha^2. With a = alpha_t / alpha_s, its transition is

    w = (1 - a^2) (1 - alpha_t^2 alpha_s^2).
"""

import torch

from scoreflow.sde.base import SDE
from scoreflow.sde.processes.vp import VPSDE
from scoreflow.sde.time_cache import at_times, between_times
from scoreflow.sde.types import Times


class SubVPSDE(VPSDE):
    """alpha from betas, sigma = 1 - alpha^2. See `VPSDE` for the schedules."""

    @at_times
    def variance(self, t: Times) -> Times:
        """(1 - alpha^2)^2."""
        return torch.expm1(2 * self.log_alpha(t)) ** 2

    scale = SDE.scale  # below a VP's

    @between_times
    def transition(self, s: Times, t: Times) -> tuple[Times, Times]:
        """x_t given x_s, for s <= t; w as a product, where the difference would cancel."""
        log_s, log_t = self.log_alpha(s), self.log_alpha(t)
        w = torch.expm1(2 * (log_t - log_s)) * torch.expm1(2 * (log_t + log_s))
        return (log_t - log_s).exp(), w

    def time(self, angle: Times) -> Times:
        """The inverse of tan(phi) = 1 / alpha - alpha = -2 sinh(log alpha)."""
        return self._time_of(-(0.5 * angle.tan()).asinh())
