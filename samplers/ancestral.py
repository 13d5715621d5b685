"""Ancestral sampling: the reverse of the chain (DDPM, Ho et al. 2020, Algorithm 2)."""

from dataclasses import dataclass
from typing import Literal, assert_never

import torch
from torch import Tensor

from sde.base import SDE, broadcast
from sde.noise import Noise, Stream
from sde.prediction import Denoiser, Prediction
from sde.types import Batch, Times

Variance = Literal["beta", "posterior", "learned"]


@dataclass(frozen=True)
class Ancestral:
    """One Gaussian a step: x_s = posterior mean at the estimated x_0, plus noise.

    mean = a sigma_s^2 / sigma_t^2 x_t + alpha_s w / sigma_t^2 x_0(x_t, t)
    x_s ~ N(mean, variance I)

    Attributes:
        variance: see `reverse_variance`. The step to s = 0 returns the mean under all.
    """

    variance: Variance = "beta"

    def step(
        self, denoiser: Denoiser, sde: SDE, x_t: Batch, t: Times, s: Times, noise: Noise
    ) -> Batch:
        """Draw x_s given x_t."""
        prediction = denoiser(x_t, t)
        mean, _ = sde.posterior(x_t, prediction.x_0, t, s)
        std = reverse_variance(prediction, sde, t, s, self.variance).sqrt() * s.sign()
        return mean + std * noise.normal(Stream.PREDICTOR, tuple(x_t.shape[1:]))


def reverse_variance(
    prediction: Prediction, sde: SDE, t: Times, s: Times, variance: Variance
) -> Tensor:
    """Variance of p(x_s | x_t), broadcast against x_t.

    beta        w: right for data that are N(0, I) under a VP (DDPM, section 3.2, for any s < t);
                under another process somewhat more than is right for them
    posterior   sigma_s^2 w / sigma_t^2: right for data at one point. It is 0 at s = 0; the density
                of x_0 needs another, and takes that of the step before of equal stride, as DDPM's
                code does
    learned     between the two on a logarithmic scale, element by element (Nichol & Dhariwal 2021,
                Eq. 15)
    """
    x_t = prediction.x_t
    _, w = sde.transition(s, t)
    if variance == "beta":
        return broadcast(w, x_t)
    posterior = sde.variance(s) * w / sde.variance(t)
    before = (2 * t - s).clamp(max=sde.num_steps)
    _, w_before = sde.transition(t, before)
    at_zero = sde.variance(t) * w_before / sde.variance(before)
    # a single step from N to 0 has none before it
    least = torch.where(s > 0, posterior, torch.where(before > t, at_zero, w))
    if variance == "posterior":
        return broadcast(least, x_t)
    if variance == "learned":
        if prediction.fraction is None:
            raise ValueError("this denoiser has no learned variance: use beta or posterior")
        low, high = broadcast(least.log(), x_t), broadcast(w.log(), x_t)
        return (low + prediction.fraction * (high - low)).exp()
    assert_never(variance)
