"""Euler-Maruyama on the reverse-time SDE (Anderson 1982; Song et al. 2021, Eq. 6)."""

from dataclasses import dataclass

from sde.base import SDE, broadcast
from sde.noise import Noise, Stream
from sde.prediction import Denoiser
from sde.types import Batch, Times


@dataclass(frozen=True)
class EulerMaruyama:
    """x_s = x_t - (f x_t - g^2 score) dt + g sqrt(dt) z, dt = t - s, with f and g at t.

    Weak order 1. The step to s = 0 adds no noise.
    """

    def step(
        self, denoiser: Denoiser, sde: SDE, x_t: Batch, t: Times, s: Times, noise: Noise
    ) -> Batch:
        """Draw x_s given x_t."""
        dt, f, g = t - s, sde.drift(t), sde.diffusion(t)
        score = denoiser(x_t, t).score
        mean = broadcast(1 - f * dt, x_t) * x_t + broadcast(g**2 * dt, x_t) * score
        std = g * dt.sqrt() * (s > 0)
        return mean + broadcast(std, x_t) * noise.normal(Stream.PREDICTOR, tuple(x_t.shape[1:]))
