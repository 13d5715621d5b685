"""DDIM: the estimate is kept, and the datum set down again with less noise (Song et al. 2020).

With no noise of its own this is the first-order exponential integrator of the probability flow: on
the unit scale the rotation with x_0 and eps held fixed,

    x~_s = cos(phi_s) x_0 + sin(phi_s) eps,

which solves dx~/dphi = v exactly when the estimate does not change on the way.
"""

from dataclasses import dataclass

from scoreflow.sde.base import SDE, broadcast
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import Denoiser
from scoreflow.sde.types import Batch, Times


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
    def stated_order(self) -> int | None:
        """Order of convergence that the paper states; None with noise, which leaves the flow."""
        return 1 if self.eta == 0 else None

    def step(
        self, denoiser: Denoiser, sde: SDE, x_t: Batch, t: Times, s: Times, noise: Noise
    ) -> Batch:
        """Draw x_s given x_t."""
        prediction = denoiser(x_t, t)
        kept = broadcast(sde.alpha(s), x_t) * prediction.x_0
        if self.eta == 0:
            return kept + broadcast(sde.sigma(s), x_t) * prediction.eps
        _, w = sde.transition(s, t)
        variance = self.eta**2 * sde.variance(s) * w / sde.variance(t)
        old = (sde.variance(s) - variance).sqrt()
        z = noise.normal(Stream.PREDICTOR, tuple(x_t.shape[1:]))
        return kept + broadcast(old, x_t) * prediction.eps + broadcast(variance.sqrt(), x_t) * z
