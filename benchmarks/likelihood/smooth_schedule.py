"""A VP process without kinks: its log-SNR is a cubic spline through a discrete schedule's."""

import numpy as np
import scipy.interpolate
import torch
from torch import Tensor

from scoreflow.sde.base import SDE
from scoreflow.sde.processes.vp import VPSDE
from scoreflow.sde.types import Times


class Smooth(SDE):
    """A VP process whose log-SNR is the cubic spline through a table's at t = 1..N.

    At integers it equals the table; between them it has two continuous derivatives.

    Args:
        table: the discrete schedule.
    """

    def __init__(self, table: VPSDE) -> None:
        self.num_steps = table.num_steps
        knots = torch.arange(1, table.num_steps + 1, dtype=torch.float64)
        self._values = table.log_snr(knots)
        spline = scipy.interpolate.CubicSpline(knots.numpy(), self._values.numpy())
        self._cubics = torch.from_numpy(np.ascontiguousarray(spline.c.T))  # (N - 1, 4)

    def log_snr(self, t: Times) -> Times:
        """The spline."""
        a, b, c, d, x = self._piece(t)
        return ((a * x + b) * x + c) * x + d

    def log_alpha(self, t: Times) -> Times:
        """From alpha^2 = sigmoid(log-SNR)."""
        return 0.5 * torch.nn.functional.logsigmoid(self.log_snr(t))

    def variance(self, t: Times) -> Times:
        """sigma^2 = 1 - alpha^2."""
        return torch.sigmoid(-self.log_snr(t))

    def time(self, angle: Times) -> Times:
        """Newton's method on the spline, from a linear interpolation of the table."""
        wanted = (-2 * angle.tan().log()).to(torch.float64)
        values = self._values.to(angle.device)
        right = torch.searchsorted(-values, -wanted).clamp(1, self.num_steps - 1)
        below, above = values[right - 1], values[right]
        t = right + (wanted - below) / (above - below)
        for _ in range(6):
            t = t - (self.log_snr(t) - wanted) / self._slope(t)
        return t.clamp(1, self.num_steps)

    def drift(self, t: Times) -> Times:
        """In closed form, as the usual procedure has it: f = sigma^2 log-SNR' / 2."""
        return 0.5 * self.variance(t) * self._slope(t)

    def diffusion(self, t: Times) -> Times:
        """In closed form: g^2 = -sigma^2 log-SNR'."""
        return (-self.variance(t) * self._slope(t)).sqrt()

    def _slope(self, t: Tensor) -> Tensor:
        a, b, c, _, x = self._piece(t)
        return (3 * a * x + 2 * b) * x + c

    def _piece(self, t: Tensor) -> tuple[Tensor, ...]:
        """The four coefficients of the cubic at t, and the distance of t from its left knot."""
        left = t.detach().floor().clamp(1, self.num_steps - 1)
        self._cubics = self._cubics.to(t.device)
        return *self._cubics[left.long() - 1].unbind(-1), t - left
