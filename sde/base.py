"""A Gaussian path and all that follows from its two scales.

A process states log alpha(t) and sigma(t)^2 on t in [0, N]; this module derives the rest:

    angle       phi_t = atan(sigma_t / alpha_t)             0 at clean data, near pi/2 at the prior
    scale       r_t = sqrt(alpha_t^2 + sigma_t^2)
    transition  x_t | x_s ~ N(a x_s, w I)                   a = alpha_t / alpha_s
                                                            w = sigma_t^2 - a^2 sigma_s^2
    posterior   x_s | x_t, x_0 ~ N(mean, sigma_s^2 w / sigma_t^2 I)
                mean = a sigma_s^2 / sigma_t^2 x_t + alpha_s w / sigma_t^2 x_0
    SDE         dx = f x dt + g dW                          f = d log alpha / dt
                                                            g^2 = d sigma^2 / dt - 2 f sigma^2

The posterior is DDPM's Eq. 7 (Ho et al. 2020) when s = t - 1; at s = 0 its standard deviation is
zero by the formula, so no sampler needs a special case for the last step.

Seen in the angle, x_t / r_t = cos(phi) x_0 + sin(phi) eps: all processes are one rotation, run
with different clocks phi(t) and displayed at different scales r(t).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from scoreflow.sde.time_cache import TimeCache, at_times, between_times
from scoreflow.sde.types import Batch, Times


def broadcast(coefficient: Tensor, x: Tensor) -> Tensor:
    """Shape a coefficient so that it multiplies a batch: the one place where this is done.

    Args:
        coefficient: () for all samples or (B,) for one a sample.
        x: (B, ...).

    Returns:
        () or (B, 1, ..., 1), in the dtype of x.

    Raises:
        ValueError: the coefficient is neither () nor (B,).
    """
    if coefficient.ndim == 0:
        return coefficient if coefficient.dtype == x.dtype else coefficient.to(x.dtype)
    if coefficient.shape != x.shape[:1]:
        raise ValueError(
            f"a coefficient must have shape () or ({len(x)},) for a batch of {len(x)}, "
            f"got {tuple(coefficient.shape)}"
        )
    return coefficient.to(x.dtype).view(-1, *[1] * (x.ndim - 1))


class SDE(TimeCache, ABC):
    """A Gaussian path x_t = alpha_t x_0 + sigma_t eps on t in [0, num_steps].

    Times are float64, () or (B,), in steps; every method returns float64 of the same shape unless
    it says otherwise. A time's result has the same bits wherever in a batch it stands: a CPU's
    atan2 and hypot have not (their vector loop and its scalar tail differ in the last bit), so
    neither is used.
    """

    num_steps: int

    @abstractmethod
    def log_alpha(self, t: Times) -> Times:
        """Logarithm of the signal scale; 0 at t = 0, -inf where no signal is left."""

    @abstractmethod
    def variance(self, t: Times) -> Times:
        """sigma_t^2; 0 at t = 0."""

    @abstractmethod
    def time(self, angle: Times) -> Times:
        """The time at which the path has this angle, in radians within [0, angle(N)]."""

    def time_of_log_snr(self, log_snr: Times) -> Times:
        """The time at which the path has this log(alpha^2 / sigma^2): the inverse of `log_snr`."""
        return self.time((-0.5 * log_snr).exp().atan())

    @at_times
    def alpha(self, t: Times) -> Times:
        """Signal scale."""
        return self.log_alpha(t).exp()

    @at_times
    def sigma(self, t: Times) -> Times:
        """Noise scale."""
        return self.variance(t).sqrt()

    @at_times
    def angle(self, t: Times) -> Times:
        """phi_t = atan(sigma_t / alpha_t), in radians."""
        return (self.sigma(t) / self.alpha(t)).atan()

    @at_times
    def scale(self, t: Times) -> Times:
        """r_t = sqrt(alpha_t^2 + sigma_t^2)."""
        return (self.alpha(t) ** 2 + self.variance(t)).sqrt()

    @at_times
    def log_snr(self, t: Times) -> Times:
        """log(alpha_t^2 / sigma_t^2); +inf at t = 0."""
        return 2 * self.log_alpha(t) - self.variance(t).log()

    def prior_std(self) -> Times:
        """r_N: standard deviation of the prior N(0, r_N^2 I) that stands in for x_N, ()."""
        return self.scale(torch.tensor(float(self.num_steps), dtype=torch.float64))

    def perturb(self, x_0: Batch, t: Times, eps: Batch) -> Batch:
        """x_t = alpha_t x_0 + sigma_t eps."""
        return broadcast(self.alpha(t), x_0) * x_0 + broadcast(self.sigma(t), x_0) * eps

    @between_times
    def transition(self, s: Times, t: Times) -> tuple[Times, Times]:
        """x_t given x_s, for s <= t: the factor a and the variance w of N(a x_s, w I)."""
        a = (self.log_alpha(t) - self.log_alpha(s)).exp()
        return a, self.variance(t) - a**2 * self.variance(s)

    def posterior(self, x_t: Batch, x_0: Batch, t: Times, s: Times) -> tuple[Batch, Times]:
        """x_s given x_t and x_0, for s < t (DDPM, Ho et al. 2020, Eq. 7 when s = t - 1).

        Returns:
            The mean, shaped like x_t, and the standard deviation, shaped like t.
        """
        of_x_t, of_x_0, variance = self.posterior_weights(s, t)
        return broadcast(of_x_t, x_t) * x_t + broadcast(of_x_0, x_t) * x_0, variance.sqrt()

    @between_times
    def posterior_weights(self, s: Times, t: Times) -> tuple[Times, Times, Times]:
        """The posterior's numbers: the weights of x_t and of x_0 in its mean, and its variance."""
        a, w = self.transition(s, t)
        variance_s, variance_t = self.variance(s), self.variance(t)
        of_x_t, of_x_0 = a * variance_s / variance_t, self.alpha(s) * w / variance_t
        return of_x_t, of_x_0, variance_s * w / variance_t

    @at_times
    def drift(self, t: Times) -> Times:
        """The f of the drift f x: d log alpha / dt, per step; at a kink, the slope from below."""
        return _derivative(self.log_alpha, t)

    @at_times
    def diffusion(self, t: Times) -> Times:
        """The g of the noise g dW: sqrt(d sigma^2 / dt - 2 f sigma^2), per root of a step."""
        return (_derivative(self.variance, t) - 2 * self.drift(t) * self.variance(t)).sqrt()


def ends_without_signal(sde: SDE) -> bool:
    """Whether alpha is 0 at t = N, as on the rectified path."""
    return not sde.alpha(torch.tensor(float(sde.num_steps), dtype=torch.float64)) > 0


def shifted(sde: SDE, t: Times, low: float, high: float, factor: float) -> Times:
    """Times with sigma / alpha multiplied by a factor, between two ends that stay.

    With y = sigma / alpha, multiplied is z = (y - y_low) / (1 - y / y_high), which is 0 and inf at
    the ends: y itself, and so a translation of log-SNR by -2 log factor, where they are clean data
    and noise alone. On the rectified path this is tau to k tau / (1 + (k - 1) tau), the shift of
    SD3 (Esser et al. 2024).

    Args:
        sde: the process.
        t: times in [low, high], in steps.
        low: the lower end, in [0, high).
        high: the upper end, at most N.
        factor: positive.
    """
    ends = torch.tensor([low, high], dtype=torch.float64)
    alpha_low, alpha_high = sde.alpha(ends).unbind()
    sigma_low, sigma_high = sde.sigma(ends).unbind()
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    # z as a quotient: nothing is divided by an alpha, which may be 0
    above = factor / (1 + factor) * (sigma * alpha_low - alpha * sigma_low)
    below = 1 / (1 + factor) * (alpha * sigma_high - sigma * alpha_high)
    y = (above * sigma_high + below * sigma_low) / (above * alpha_high + below * alpha_low)
    return sde.time(y.atan()).clamp(low, high)


class Rescaled(SDE):
    """A process of other units: the path of x_0 / c under another process, at the scale of x_0.

    With y_0 = x_0 / c and y_t = alpha y_0 + sigma eps, c y_t = alpha x_0 + (c sigma) eps: the same
    signal, and noise c times as large. A network that was trained on images from -1 to 1
    inclusive, 2 k / (L - 1) - 1 of level k, knows the centres of our bins by c = (L - 1) / L.

    Args:
        base: the process of x_0 / c.
        unit: c, positive.
    """

    def __init__(self, base: SDE, unit: float) -> None:
        if not unit > 0:
            raise ValueError(f"the unit of a process must be positive, got {unit}")
        self.base, self.unit, self.num_steps = base, unit, base.num_steps

    @at_times
    def log_alpha(self, t: Times) -> Times:
        """That of the other process."""
        return self.base.log_alpha(t)

    @at_times
    def alpha(self, t: Times) -> Times:
        """That of the other process."""
        return self.base.alpha(t)

    @at_times
    def variance(self, t: Times) -> Times:
        """c^2 times that of the other process."""
        return self.unit**2 * self.base.variance(t)

    def time(self, angle: Times) -> Times:
        """The other process' time of tan(angle) / c."""
        return self.base.time((angle.tan() / self.unit).atan())

    def prior_std(self) -> Times:
        """C times that of the other process."""
        return self.unit * self.base.prior_std()

    @between_times
    def transition(self, s: Times, t: Times) -> tuple[Times, Times]:
        """The same factor, and c^2 times the variance."""
        a, w = self.base.transition(s, t)
        return a, self.unit**2 * w


def in_units(sde: SDE, unit: float) -> SDE:
    """The process itself where the unit is 1, and else `Rescaled`."""
    return sde if unit == 1 else Rescaled(sde, unit)


class Ended(SDE):
    """A process that ends at a step before N: the same path, and its prior where it ends.

    The prior is N(0, r^2 I), as everywhere, with the scale r of that step.

    Args:
        base: the whole process.
        num_steps: the step at which it ends, in 1..N.
    """

    def __init__(self, base: SDE, num_steps: int) -> None:
        if not 1 <= num_steps <= base.num_steps:
            raise ValueError(
                f"a process of {base.num_steps} steps ends at one of them, got {num_steps}"
            )
        self.base, self.num_steps = base, num_steps

    @at_times
    def log_alpha(self, t: Times) -> Times:
        """That of the whole process."""
        return self.base.log_alpha(t)

    @at_times
    def alpha(self, t: Times) -> Times:
        """That of the whole process."""
        return self.base.alpha(t)

    @at_times
    def variance(self, t: Times) -> Times:
        """That of the whole process."""
        return self.base.variance(t)

    @at_times
    def scale(self, t: Times) -> Times:
        """That of the whole process."""
        return self.base.scale(t)

    def time(self, angle: Times) -> Times:
        """That of the whole process."""
        return self.base.time(angle)

    @between_times
    def transition(self, s: Times, t: Times) -> tuple[Times, Times]:
        """That of the whole process."""
        return self.base.transition(s, t)


def _derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Exact derivative of an elementwise function, by forward-mode differentiation."""
    tangent: Tensor = torch.func.jvp(function, (t,), (torch.ones_like(t),))[1]
    return tangent
