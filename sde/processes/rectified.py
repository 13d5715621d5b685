"""The rectified path of flow matching: from data to noise on a straight line.

    alpha = 1 - tau,    sigma = tau,    tau = t / N

(rectified flow, Liu et al. 2023; the conditional optimal-transport path of Lipman et al. 2023).
x_t moves with the constant velocity u = eps - x_0 of tau. At t = N no signal is left: alpha is 0
there, log alpha and the log-SNR -inf, the angle pi/2, and f and g are infinite, so an SDE's own
formulas hold below N. In the angle nothing of this is seen: tan(phi) = tau / (1 - tau).
"""

import torch

from scoreflow.sde.base import SDE
from scoreflow.sde.time_cache import at_times, between_times
from scoreflow.sde.types import Times


class RectifiedSDE(SDE):
    """x_t = (1 - t / N) x_0 + t / N eps.

    Args:
        num_steps: N, at least 1.
    """

    def __init__(self, num_steps: int) -> None:
        if num_steps < 1:
            raise ValueError(f"a path has at least 1 step, got num_steps = {num_steps}")
        self.num_steps = num_steps

    @at_times
    def log_alpha(self, t: Times) -> Times:
        """-inf at t = N."""
        return torch.log1p(-t / self.num_steps)

    @at_times
    def alpha(self, t: Times) -> Times:
        """1 - t / N, to its last digit and 0 at t = N."""
        return (self.num_steps - t) / self.num_steps

    @at_times
    def variance(self, t: Times) -> Times:
        """(t / N)^2."""
        return (t / self.num_steps) ** 2

    @between_times
    def transition(self, s: Times, t: Times) -> tuple[Times, Times]:
        """x_t given x_s, for s <= t; w as a product, where the difference would cancel."""
        tau_s, tau_t, left = s / self.num_steps, t / self.num_steps, self.alpha(s)
        a = self.alpha(t) / left
        return a, (t - s) / self.num_steps / left * (tau_t + a * tau_s)

    def time(self, angle: Times) -> Times:
        """The inverse of tan(phi) = tau / (1 - tau)."""
        tau = angle.sin() / (angle.sin() + angle.cos())
        return (self.num_steps * tau).clamp(0, self.num_steps)
