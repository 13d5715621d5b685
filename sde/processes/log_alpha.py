"""Two shapes of a VP's log alpha over time: a table that is linear between, and a parabola."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from scoreflow.sde.types import Times


class LogAlpha(ABC):
    """A falling log alpha on [0, N], with log alpha(0) = 0, and its inverse."""

    @abstractmethod
    def at(self, t: Times) -> Times:
        """The value at a time, in steps; differentiable."""

    @abstractmethod
    def time_of(self, log_alpha: Times) -> Times:
        """The time that has a value, to rounding; beyond N where the value is."""


class Table(LogAlpha):
    """Values at the integers, linear in between: a chain's.

    Args:
        values: (N + 1,) float64, falling from 0.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.num_steps = len(values) - 1
        self._copies = {values.device: values}

    def at(self, t: Times) -> Times:
        """Linear interpolation; at an integer, the slope is the one from below."""
        table = self._on(t.device)
        left = (t.detach().ceil() - 1).clamp(0, self.num_steps - 1).long()
        below, above = table[left], table[left + 1]
        return below + (t - left) * (above - below)

    def time_of(self, log_alpha: Times) -> Times:
        """Inverse interpolation."""
        table = self._on(log_alpha.device)
        right = torch.searchsorted(-table, -log_alpha).clamp(1, self.num_steps)
        below, above = table[right - 1], table[right]
        return (right - 1) + (log_alpha - below) / (above - below)

    def _on(self, device: torch.device) -> Tensor:
        """The table on a device, copied there once."""
        if device not in self._copies:
            to_gpu = device.type != "cpu"  # a CPU would read it before it has come
            self._copies[device] = self.values.to(device, non_blocking=to_gpu)
        return self._copies[device]


class Parabola(LogAlpha):
    """The integral of betas that are linear in time (Song et al. 2021, Eq. 33), with u = t / N.

        log alpha = -(u^2 (beta_max - beta_min) / 4 + u beta_min / 2)

    Args:
        num_steps: N.
        beta_min: rate at u = 0, positive.
        beta_max: rate at u = 1, positive.
    """

    def __init__(self, num_steps: int, beta_min: float, beta_max: float) -> None:
        if not (beta_min > 0 and beta_max > 0):
            raise ValueError(f"rates must be positive, got {beta_min} and {beta_max}")
        self.num_steps, self.start, self.rise = num_steps, beta_min, beta_max - beta_min

    def at(self, t: Times) -> Times:
        """The value at a time."""
        u = t / self.num_steps
        return -u * (u * self.rise / 4 + self.start / 2)

    def time_of(self, log_alpha: Times) -> Times:
        """The root, in the form without a difference that would cancel at small times."""
        fall = -log_alpha
        # a little beyond the end of falling rates, the parabola's top may be passed
        root = (self.start**2 / 4 + self.rise * fall).clamp(min=0).sqrt()
        return self.num_steps * 2 * fall / (self.start / 2 + root)
