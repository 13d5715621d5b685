"""The variance of a reverse step: DDPM's two, the optimal one (Analytic-DPM) and a learned one."""

from collections.abc import Callable
from typing import Literal, assert_never

import torch
from torch import Tensor

from scoreflow.sde.base import SDE, broadcast
from scoreflow.sde.prediction import Prediction
from scoreflow.sde.types import Times

Variance = Literal["beta", "posterior", "optimal", "learned"]

EpsError = Callable[[Tensor], Tensor]
"""t, in steps -> E|eps error|^2 / D of a denoiser over data and noise, float64 shaped like t."""

ALMOST = 0.999
"""Share of N at which an error of eps still tells that of x_0, where it does not at N."""


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
        return broadcast(_optimal(sde, t, s, x_0_error(sde, t, eps_error)), x_t)
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
        eps_error: E|eps error|^2 / D at t, dimensionless. Where alpha is 0 it is 0, and says
            nothing of x_0: see `x_0_error`.
    """
    return _optimal(sde, t, s, _of_eps_error(sde, t, eps_error))


def _of_eps_error(sde: SDE, t: Times, eps_error: Times) -> Times:
    return sde.variance(t) / sde.alpha(t) ** 2 * eps_error


def _optimal(sde: SDE, t: Times, s: Times, x_0_error: Times) -> Times:
    _, w = sde.transition(s, t)
    slope = sde.alpha(s) * w / sde.variance(t)
    return sde.variance(s) * w / sde.variance(t) + slope**2 * x_0_error


def x_0_error(sde: SDE, t: Times, eps_error: EpsError) -> Times:
    """E|x_0 error|^2 / D at t, shaped like it; where alpha is 0, as just before (`ALMOST`)."""
    with_signal = torch.where(sde.alpha(t) > 0, t, ALMOST * t)
    return _of_eps_error(sde, with_signal, eps_error(with_signal))
