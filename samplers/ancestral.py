"""Ancestral sampling: the reverse of the chain (DDPM, Ho et al. 2020, Algorithm 2)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, assert_never

import torch
from torch import Tensor

from scoreflow.samplers.multistep.exponential_integrator import combined
from scoreflow.samplers.sampler import Step
from scoreflow.sde.base import SDE, broadcast
from scoreflow.sde.prediction import Prediction
from scoreflow.sde.types import Batch, Times

Variance = Literal["beta", "posterior", "optimal", "learned"]

EpsError = Callable[[Tensor], Tensor]
"""t, in steps -> E|eps error|^2 / D of a denoiser over data and noise, float64 shaped like t."""


@dataclass(frozen=True)
class Ancestral:
    """One Gaussian a step: x_s = posterior mean at the estimated x_0, plus noise.

    mean = a sigma_s^2 / sigma_t^2 x_t + alpha_s w / sigma_t^2 x_0(x_t, t)
    x_s ~ N(mean, variance I)

    Attributes:
        variance: see `reverse_variance`. The step to s = 0 returns the mean under all.
        eps_error: optimal: of the denoiser that will be asked.
    """

    variance: Variance = "beta"
    eps_error: EpsError | None = None

    def __post_init__(self) -> None:
        if (self.variance == "optimal") != (self.eps_error is not None):
            raise ValueError(
                "the optimal variance, and no other, needs the denoiser's eps_error, got variance "
                f"{self.variance!r} {'without' if self.eps_error is None else 'with'} it"
            )

    def step(self, x_t: Batch, step: Step) -> Batch:
        """Draw x_s given x_t."""
        sde, t, s = step.sde, step.t, step.s
        prediction = step.predict(x_t)
        of_x_t, of_x_0, _ = sde.posterior_weights(s, t)
        variance = reverse_variance(prediction, sde, t, s, self.variance, self.eps_error)
        z = step.normal(x_t)
        mean = combined(x_t, of_x_t.item(), (of_x_0.item(), prediction.x_0))
        if variance.ndim:  # learned: an element's own
            return mean + variance.sqrt() * s.sign() * z
        return mean.add(z, alpha=variance.item() ** 0.5 * (s.item() > 0))


def reverse_variance(
    prediction: Prediction,
    sde: SDE,
    t: Times,
    s: Times,
    variance: Variance,
    eps_error: EpsError | None = None,
) -> Tensor:
    """Variance of p(x_s | x_t), broadcast against x_t.

    beta        w: right for data that are N(0, I) under a VP (DDPM, section 3.2, for any s < t);
                under another process somewhat more than is right for them
    posterior   sigma_s^2 w / sigma_t^2: right for data at one point. It is 0 at s = 0; the density
                of x_0 needs another, and takes that of the step before of equal stride, as DDPM's
                code does
    optimal     `optimal_variance` of eps_error: right on average over any data
    learned     between the two on a logarithmic scale, element by element (Nichol & Dhariwal 2021,
                Eq. 15)
    """
    x_t = prediction.x_t
    _, w = sde.transition(s, t)
    if variance == "beta":
        return broadcast(w, x_t)
    if variance == "optimal":
        if eps_error is None:
            raise ValueError("the optimal variance needs the denoiser's eps_error")
        return broadcast(optimal_variance(sde, t, s, eps_error(t)), x_t)
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


def optimal_variance(sde: SDE, t: Times, s: Times, eps_error: Times) -> Times:
    """The p of N(mean, p I) for x_s given x_t that is likeliest on average.

    p = sigma_s^2 w / sigma_t^2 + (alpha_s w / sigma_t^2)^2 E|x_0 error|^2 / D,
    E|x_0 error|^2 = sigma_t^2 / alpha_t^2 E|eps error|^2

    The posterior's own variance, and what its mean moves with the x_0 that is not known: the mean
    square distance of x_s from the sampler's mean. Analytic-DPM's (Bao et al. 2022, Theorem 1)
    for any s < t of any process; there the denoiser is exact, and 1 - E|eps estimate|^2 / D stands
    for E|eps error|^2 / D. At s = 0 it is the mean square error of x_0.

    Args:
        sde: the process.
        t: () or (n,), in steps.
        s: below t.
        eps_error: E|eps error|^2 / D at t, dimensionless.
    """
    _, w = sde.transition(s, t)
    slope = sde.alpha(s) * w / sde.variance(t)
    x_0_error = sde.variance(t) / sde.alpha(t) ** 2 * eps_error
    return sde.variance(s) * w / sde.variance(t) + slope**2 * x_0_error
