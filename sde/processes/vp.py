"""The discrete variance-preserving SDE: DDPM's chain, read as an SDE.

One float64 table holds log alpha at the integers 0..N, built from the betas of the chain:

    log alpha_i = 1/2 sum_{j <= i} log(1 - beta_j),    sigma^2 = 1 - alpha^2 = -expm1(2 log alpha).

Between integers log alpha is linear, so f = 1/2 log(1 - beta_i) and g^2 = -2 f are constant on
each (i - 1, i], and the transition of the SDE over a whole step is exactly the chain's
N(sqrt(1 - beta_i) x, beta_i I): the chain *is* the SDE at integer times, with no limit taken. The
closed-form linear-beta VP-SDE of Song et al. 2021 is the limit N -> infinity of this table, and
has the same class: its log alpha is a parabola, and its chain the one of its integer times.
"""

import math

import torch
from torch import Tensor

from scoreflow.sde.base import SDE
from scoreflow.sde.processes.log_alpha import LogAlpha, Parabola, Table
from scoreflow.sde.time_cache import at_times
from scoreflow.sde.types import Times


class VPSDE(SDE):
    """alpha_i = prod_{j <= i} sqrt(1 - beta_j), sigma^2 = 1 - alpha^2; log-linear in between.

    Args:
        betas: (N,) float64, each in (0, 1): variance added by step i = 1..N (DDPM's beta_i).
        path: log alpha on [0, N] with these betas; None for the log-linear one.
    """

    def __init__(self, betas: Tensor, path: LogAlpha | None = None) -> None:
        if betas.ndim != 1 or len(betas) == 0:
            raise ValueError(f"betas must be a vector, one a step, got shape {tuple(betas.shape)}")
        bad = betas[~((betas > 0) & (betas < 1))]
        if len(bad):
            raise ValueError(
                f"betas must lie in (0, 1), got {len(bad)} outside: {bad[:5].tolist()}"
                + ("; 1 leaves no signal: cap it, as at 0.9999" if bool((bad == 1).any()) else "")
            )
        self.betas = betas.double()
        self.num_steps = len(betas)
        steps = 0.5 * torch.log1p(-self.betas)
        self._path = path or Table(torch.cat([steps.new_zeros(1), steps.cumsum(0)]))

    @classmethod
    def linear(cls, num_steps: int, beta_min: float = 0.1, beta_max: float = 20.0) -> "VPSDE":
        """DDPM's linear betas, from beta_min / N to beta_max / N in N equal increments.

        With the defaults and N = 1000 these are the 1e-4 .. 0.02 of Ho et al. 2020, section 4.
        Dividing by N keeps the path the same whatever its number of steps, to O(1 / N).
        """
        betas = torch.linspace(beta_min, beta_max, num_steps, dtype=torch.float64) / num_steps
        return cls(betas)

    @classmethod
    def scaled_linear(
        cls, num_steps: int, beta_min: float = 0.85, beta_max: float = 12.0
    ) -> "VPSDE":
        """Betas whose roots are linear in i, from beta_min / N to beta_max / N (latent diffusion).

        The defaults with N = 1000 are Stable Diffusion's (Rombach et al. 2022).
        """
        ends = (beta_min / num_steps) ** 0.5, (beta_max / num_steps) ** 0.5
        return cls(torch.linspace(*ends, num_steps, dtype=torch.float64) ** 2)

    @classmethod
    def linear_continuous(
        cls, num_steps: int, beta_min: float = 0.1, beta_max: float = 20.0
    ) -> "VPSDE":
        """The VP-SDE in closed form, its rate of noise linear in t (Song et al. 2021, Eq. 33).

        alpha = exp(-u^2 (beta_max - beta_min) / 4 - u beta_min / 2) with u = t / N.

        Args:
            num_steps: N, steps on the way from u = 0 to 1; the path is the same for every N.
            beta_min: rate per unit of u, at u = 0.
            beta_max: the same at u = 1.
        """
        path = Parabola(num_steps, beta_min, beta_max)
        log_alpha = path.at(torch.arange(num_steps + 1, dtype=torch.float64))
        return cls(-torch.expm1(2 * log_alpha.diff()), path)

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
        """Of the path; at an integer, the slope is the one from below."""
        return self._path.at(t)

    @at_times
    def variance(self, t: Times) -> Times:
        """sigma^2 = 1 - alpha^2, by expm1: 1 - exp(-x) loses every digit at small t."""
        return -torch.expm1(2 * self.log_alpha(t))

    @at_times
    def scale(self, t: Times) -> Times:
        """One, for alpha^2 + sigma^2 is."""
        return torch.ones_like(t)

    def time(self, angle: Times) -> Times:
        """The inverse of cos(angle) = alpha."""
        # log cos, from sin below pi/4 and from cos above, whichever keeps its digits
        return self._time_of(
            torch.where(
                angle < math.pi / 4,
                0.5 * torch.log1p(-(angle.sin() ** 2)),
                angle.cos().clamp(min=1e-300).log(),
            )
        )

    def _time_of(self, log_alpha: Times) -> Times:
        """The time at which the path has this value."""
        t = self._path.time_of(log_alpha)
        return t.clamp(0, self.num_steps)  # rounding at either end must not leave the path
