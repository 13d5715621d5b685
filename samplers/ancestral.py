"""Ancestral sampling: the reverse of the chain (DDPM, Ho et al. 2020, Algorithm 2)."""

from dataclasses import dataclass
from typing import Literal

from sde.base import SDE, broadcast
from sde.noise import Noise, Stream
from sde.prediction import Denoiser
from sde.types import Batch, Times


@dataclass(frozen=True)
class Ancestral:
    """One Gaussian a step: x_s = posterior mean at the estimated x_0, plus noise.

    mean = a sigma_s^2 / sigma_t^2 x_t + alpha_s w / sigma_t^2 x_0(x_t, t)
    x_s ~ N(mean, variance I)

    Attributes:
        variance: the two choices of DDPM, section 3.2, for any s < t. "posterior" is
            sigma_s^2 w / sigma_t^2, right for data at one point; "beta" is w, right for data that
            are N(0, I). The step to s = 0 returns the mean under both.
    """

    variance: Literal["beta", "posterior"] = "beta"

    def step(
        self, denoiser: Denoiser, sde: SDE, x_t: Batch, t: Times, s: Times, noise: Noise
    ) -> Batch:
        """Draw x_s given x_t."""
        mean, std = sde.posterior(x_t, denoiser(x_t, t).x_0, t, s)
        if self.variance == "beta":
            _, w = sde.transition(s, t)
            std = w.sqrt() * (s > 0)
        return mean + broadcast(std, x_t) * noise.normal(Stream.PREDICTOR, tuple(x_t.shape[1:]))
