"""Ancestral sampling: the reverse of the chain (DDPM, Ho et al. 2020, Algorithm 2)."""

from dataclasses import dataclass

from scoreflow.samplers.multistep.exponential_integrator import combined
from scoreflow.samplers.reverse_variance import EpsError, Variance, reverse_variance
from scoreflow.samplers.sampler import Step
from scoreflow.sde.types import Batch


@dataclass(frozen=True)
class Ancestral:
    """One Gaussian a step: x_s = posterior mean at the estimated x_0, plus noise.

    mean = a sigma_s^2 / sigma_t^2 x_t + alpha_s w / sigma_t^2 x_0(x_t, t)
    x_s ~ N(mean, variance I)

    Attributes:
        variance: see `reverse_variance`. The step to s = 0 returns the mean under all.
        eps_error: for "optimal": of the denoiser to sample with.
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
