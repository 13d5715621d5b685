"""Reverse diffusion: the chain's own step, undone (Song et al. 2021, appendix E)."""

from dataclasses import dataclass

from scoreflow.samplers.multistep.exponential_integrator import combined
from scoreflow.samplers.sampler import Step
from scoreflow.sde.types import Batch


@dataclass(frozen=True)
class ReverseDiffusion:
    """x_s = (2 - a) x_t + w score + sqrt(w) z, where the chain goes x_t = a x_s + sqrt(w) z.

    Ancestral sampling up to O(w^2) in a step: there the mean is (x_t + w score) / a. The step to
    s = 0 adds no noise.
    """

    def step(self, x_t: Batch, step: Step) -> Batch:
        """Draw x_s given x_t."""
        if step.without_signal:  # w is all of the noise, and not of a short step
            return step.from_noise(x_t)
        sde, t, s = step.sde, step.t, step.s
        a, w = sde.transition(s, t)
        of_eps = -(w / sde.sigma(t)).item()  # a score is -eps / sigma
        std, z = w.sqrt() * s.sign(), step.normal(x_t)
        return combined(x_t, 2 - a.item(), (of_eps, step.predict(x_t).eps), (std.item(), z))
