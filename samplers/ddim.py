"""DDIM: x_0 and eps are estimated, and combined again with less noise (Song et al. 2021).

With no noise of its own this is the first-order exponential integrator of the probability flow: on
the unit scale the rotation with x_0 and eps held fixed,

    x~_s = cos(phi_s) x_0 + sin(phi_s) eps,

which solves dx~/dphi = v exactly when the estimate does not change on the way.
"""

from dataclasses import dataclass

from scoreflow.samplers.sampler import Step
from scoreflow.sde.base import broadcast
from scoreflow.sde.types import Batch


@dataclass(frozen=True)
class DDIM:
    """x_s = alpha_s x_0 + sqrt(sigma_s^2 - u^2) eps + u z, with u = eta sigma_s sqrt(w) / sigma_t.

    Denoising Diffusion Implicit Models (Song, Meng & Ermon 2021, Eq. 12 and 16), for any process.

    Attributes:
        eta: share of the posterior's standard deviation that is drawn anew, in [0, 1]: 0 is
            deterministic, 1 has the law of ancestral sampling with the posterior variance.
    """

    eta: float = 0.0

    @property
    def flow_order(self) -> int | None:
        """Order of convergence to the probability flow; None with noise of its own."""
        return 1 if self.eta == 0 else None

    def step(self, x_t: Batch, step: Step) -> Batch:
        """Draw x_s given x_t."""
        sde, t, s = step.sde, step.t, step.s
        prediction = step.predict(x_t)
        kept = broadcast(sde.alpha(s), x_t) * prediction.x_0
        if self.eta == 0:
            return kept + broadcast(sde.sigma(s), x_t) * prediction.eps
        _, w = sde.transition(s, t)
        variance = self.eta**2 * sde.variance(s) * w / sde.variance(t)
        # at eta 1 nearly all of a sub-VP's variance is new, and their difference may round below 0
        old = (sde.variance(s) - variance).clamp(min=0).sqrt()
        z = step.normal(x_t)
        return kept + broadcast(old, x_t) * prediction.eps + broadcast(variance.sqrt(), x_t) * z
