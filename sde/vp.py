"""The discrete variance-preserving SDE: DDPM's chain, read as an SDE.

One float64 table holds log alpha at the integers 0..N, built from the betas of the chain:

    log alpha_i = 1/2 sum_{j <= i} log(1 - beta_j),    sigma^2 = 1 - alpha^2 = -expm1(2 log alpha).

Between integers log alpha is linear, so f = 1/2 log(1 - beta_i) and g^2 = -2 f are constant on
each (i - 1, i], and the transition of the SDE over a whole step is exactly the chain's
N(sqrt(1 - beta_i) x, beta_i I): the chain *is* the SDE at integer times, with no limit taken. The
closed-form linear-beta VP-SDE of Song et al. 2021 is the limit N -> infinity of this table.
"""

import math

import torch
from torch import Tensor

from scoreflow.sde.base import SDE
from scoreflow.sde.time_cache import at_times
from scoreflow.sde.types import Times


class VPSDE(SDE):
    """alpha_i = prod_{j <= i} sqrt(1 - beta_j), sigma^2 = 1 - alpha^2; log-linear in between.

    Args:
        betas: (N,) float64, each in (0, 1): variance added by step i = 1..N (DDPM's beta_i).
    """

    def __init__(self, betas: Tensor) -> None:
        if betas.ndim != 1 or len(betas) == 0:
            raise ValueError(f"betas must be a vector, one a step, got shape {tuple(betas.shape)}")
        bad = betas[~((betas > 0) & (betas < 1))]
        if len(bad):
            raise ValueError(f"betas must lie in (0, 1), got {len(bad)} outside: {bad.tolist()}")
        self.betas = betas.double()
        self.num_steps = len(betas)
        steps = 0.5 * torch.log1p(-self.betas)
        self._table = torch.cat([steps.new_zeros(1), steps.cumsum(0)])  # log alpha at 0..N
        self._tables = {self._table.device: self._table}

    @classmethod
    def linear(cls, num_steps: int, beta_min: float = 0.1, beta_max: float = 20.0) -> "VPSDE":
        """DDPM's linear betas, from beta_min / N to beta_max / N in N equal increments.

        With the defaults and N = 1000 these are the 1e-4 .. 0.02 of Ho et al. 2020, section 4.
        Dividing by N keeps the path the same whatever its number of steps, to O(1 / N).
        """
        betas = torch.linspace(beta_min, beta_max, num_steps, dtype=torch.float64) / num_steps
        return cls(betas)

    @classmethod
    def cosine(cls, num_steps: int, offset: float = 0.008, beta_cap: float = 0.999) -> "VPSDE":
        """Cosine betas (Nichol & Dhariwal 2021, Eq. 17), each capped.

        alpha_i^2 = cos^2((i/N + c) / (1 + c) pi/2) / cos^2(c / (1 + c) pi/2), with c the offset.
        """
        i = torch.arange(num_steps + 1, dtype=torch.float64)
        alpha_squared = torch.cos((i / num_steps + offset) / (1 + offset) * math.pi / 2) ** 2
        return cls((1 - alpha_squared[1:] / alpha_squared[:-1]).clamp(max=beta_cap))

    @classmethod
    def log_linear(
        cls, num_steps: int, sigma_min: float = 1e-3, alpha_min: float = 5e-3
    ) -> "VPSDE":
        """Log-SNR linear in i = 1..N (VDM, Kingma et al. 2021, their fixed linear schedule).

        Every step carries the same share of the variational bound, so the mean over uniform times
        of the plain noise-prediction error *is* the bound up to a factor.

        Args:
            num_steps: N, at least 2.
            sigma_min: noise scale at t = 1.
            alpha_min: signal scale at t = N.
        """
        if num_steps < 2:
            raise ValueError(f"a log-SNR with two ends needs num_steps >= 2, got {num_steps}")
        top = math.log1p(-(sigma_min**2)) - 2 * math.log(sigma_min)
        bottom = 2 * math.log(alpha_min) - math.log1p(-(alpha_min**2))
        log_snr = torch.linspace(top, bottom, num_steps, dtype=torch.float64)
        log_alpha = 0.5 * torch.nn.functional.logsigmoid(log_snr)
        steps = log_alpha.diff(prepend=log_alpha.new_zeros(1))
        return cls(-torch.expm1(2 * steps))

    @at_times
    def log_alpha(self, t: Times) -> Times:
        """Linear interpolation of the table; at an integer, the slope is the one from below."""
        table = self._on(t.device)
        left = (t.detach().ceil() - 1).clamp(0, self.num_steps - 1).long()
        below, above = table[left], table[left + 1]
        return below + (t - left) * (above - below)

    @at_times
    def variance(self, t: Times) -> Times:
        """sigma^2 = 1 - alpha^2, by expm1: 1 - exp(-x) loses every digit at small t."""
        return -torch.expm1(2 * self.log_alpha(t))

    @at_times
    def scale(self, t: Times) -> Times:
        """One, for alpha^2 + sigma^2 is."""
        return torch.ones_like(t)

    def time(self, angle: Times) -> Times:
        """Inverse interpolation: cos(angle) = alpha."""
        # log cos, from sin below pi/4 and from cos above, whichever keeps its digits
        return self._time_of(
            torch.where(
                angle < math.pi / 4,
                0.5 * torch.log1p(-(angle.sin() ** 2)),
                angle.cos().clamp(min=1e-300).log(),
            )
        )

    def _time_of(self, log_alpha: Times) -> Times:
        """The time at which the interpolated table has this value."""
        table = self._on(log_alpha.device)
        right = torch.searchsorted(-table, -log_alpha).clamp(1, self.num_steps)
        below, above = table[right - 1], table[right]
        t = (right - 1) + (log_alpha - below) / (above - below)
        return t.clamp(0, self.num_steps)  # rounding at either end must not leave the path

    def _on(self, device: torch.device) -> Tensor:
        """The table on a device, copied there once."""
        if device not in self._tables:
            self._tables[device] = self._table.to(device)
        return self._tables[device]
