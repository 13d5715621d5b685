"""Euler-Maruyama on the reverse-time SDE (Anderson 1982; Song et al. 2021, Eq. 6)."""

from dataclasses import dataclass

from scoreflow.samplers.multistep.exponential_integrator import combined
from scoreflow.samplers.sampler import Step
from scoreflow.sde.types import Batch


@dataclass(frozen=True)
class EulerMaruyama:
    """x_s = x_t - (f x_t - g^2 score) dt + g sqrt(dt) z, dt = t - s, with f and g at t.

    Weak order 1. The step to s = 0 adds no noise.
    """

    def step(self, x_t: Batch, step: Step) -> Batch:
        """Draw x_s given x_t."""
        if step.without_signal:  # f and g are infinite
            return step.from_noise(x_t)
        sde, t, s = step.sde, step.t, step.s
        dt, f, g = (t - s).item(), sde.drift(t).item(), sde.diffusion(t).item()
        of_eps = -(g**2) * dt / sde.sigma(t).item()  # a score is -eps / sigma
        std, z = g * dt**0.5 * (s > 0).item(), step.normal(x_t)
        return combined(x_t, 1 - f * dt, (of_eps, step.predict(x_t).eps), (std, z))
