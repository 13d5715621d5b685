"""Five views of one estimate, and the function type that samplers and likelihoods depend on.

From x_t = alpha x_0 + sigma eps, with phi the angle, r the scale and x~ = x_t / r:

    eps     the noise                                   predicted by DDPM
    x_0     the clean datum                             x_0 = (x_t - sigma eps) / alpha
    v       the velocity dx~/dphi of the rotation       v = cos(phi) eps - sin(phi) x_0
    u       flow matching's velocity, dx/d(t/N) of      u = eps - x_0
            the rectified path
    score   grad log p_t(x_t)                           score = -eps / sigma

An estimate of one is an estimate of all: noise prediction, denoising and score matching are the
same regression. Each view is computed directly from the given one (score and eps are one but for a
factor), so that no digit is lost where one of the scales is small. Of v and u all but the score is
finite at both ends, and each of the other; on the rectified path, at tau = t / N,
v = r u + (1 - 2 tau) x_t / r. This is the only module that converts: also estimates about another
datum, z_0 = (x_0 - centre) / spread.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from torch import Tensor

from scoreflow.sde.base import SDE, broadcast
from scoreflow.sde.types import Batch, Times

Kind = Literal["eps", "x_0", "v", "score", "u"]
KINDS: tuple[Kind, ...] = get_args(Kind)
OF_NOISE: tuple[Kind, ...] = ("eps", "score")
"""Views that say nothing of x_0 where no signal is left."""
TELL_X_0: tuple[Kind, ...] = ("x_0", "v", "u")
"""The other views, of which one in error by a little says x_0 within a little at any time."""


@dataclass(frozen=True)
class Prediction:
    """An estimate at (x_t, t), given as one of `KINDS` and readable as all of them.

    Attributes:
        x_t: the noisy batch.
        alpha: signal scale, broadcast against x_t.
        sigma: noise scale, broadcast against x_t.
        kind: what `value` estimates.
        value: the estimate, shaped like x_t.
        fraction: where a reverse variance was learned, its place between the posterior's (0) and
            the transition's (1), shaped like x_t.
    """

    x_t: Batch
    alpha: Tensor
    sigma: Tensor
    kind: Kind
    value: Batch
    fraction: Batch | None = None

    @cached_property
    def eps(self) -> Batch:
        """The noise."""
        match self.kind:
            case "eps":
                return self.value
            case "x_0":
                return (self.x_t - self.alpha * self.value) / self.sigma
            case "v":
                return (
                    self.sigma * self.x_t / self._scale + self.alpha * self.value
                ) / self._scale
            case "score":
                return -self.sigma * self.value
            case "u":
                return (self.x_t + self.alpha * self.value) / (self.alpha + self.sigma)

    @cached_property
    def x_0(self) -> Batch:
        """The clean datum: E[x_0 | x_t] (Tweedie) when the estimate is exact."""
        match self.kind:
            case "eps":
                return (self.x_t - self.sigma * self.value) / self.alpha
            case "x_0":
                return self.value
            case "v":
                return (
                    self.alpha * self.x_t / self._scale - self.sigma * self.value
                ) / self._scale
            case "score":
                return (self.x_t + self.sigma**2 * self.value) / self.alpha
            case "u":
                return (self.x_t - self.sigma * self.value) / (self.alpha + self.sigma)

    @cached_property
    def v(self) -> Batch:
        """The velocity cos(phi) eps - sin(phi) x_0: the field of the probability flow."""
        match self.kind:
            case "x_0":
                return (
                    self.alpha * self.x_t / self._scale - self._scale * self.value
                ) / self.sigma
            case "v":
                return self.value
            case "eps" | "score":
                return (self._scale * self.eps - self.sigma * self.x_t / self._scale) / self.alpha
            case "u":
                difference = (self.alpha - self.sigma) * self.x_t / self._scale
                return (self._scale * self.value + difference) / (self.alpha + self.sigma)

    @cached_property
    def u(self) -> Batch:
        """The velocity eps - x_0 of the straight line from data to noise."""
        match self.kind:
            case "x_0":
                return (self.x_t - (self.alpha + self.sigma) * self.value) / self.sigma
            case "v":
                difference = (self.sigma - self.alpha) * self.x_t / self._scale
                return (difference + (self.alpha + self.sigma) * self.value) / self._scale
            case "u":
                return self.value
            case "eps" | "score":
                return ((self.alpha + self.sigma) * self.eps - self.x_t) / self.alpha

    @cached_property
    def score(self) -> Batch:
        """Grad log p_t(x_t)."""
        return self.value if self.kind == "score" else -self.eps / self.sigma

    @cached_property
    def _scale(self) -> Tensor:
        return (self.alpha**2 + self.sigma**2).sqrt()  # see SDE: hypot's bits depend on the place


Denoiser = Callable[[Tensor, Tensor], Prediction]
"""(x_t (B, ...), t () or (B,) in steps) -> Prediction: a network, a closed form, or a wrapper."""


def predict(
    sde: SDE, x_t: Batch, t: Times, kind: Kind, value: Batch, fraction: Batch | None = None
) -> Prediction:
    """A Prediction at time t of an SDE."""
    alpha, sigma = broadcast(sde.alpha(t), x_t), broadcast(sde.sigma(t), x_t)
    return Prediction(x_t, alpha, sigma, kind, value, fraction)


def predict_of_datum(
    sde: SDE,
    x_t: Batch,
    t: Times,
    kind: Literal["x_0", "v", "u"],
    value: Batch,
    centre: float,
    spread: float,
    fraction: Batch | None = None,
) -> Prediction:
    """A Prediction from an estimate about the datum z_0 = (x_0 - centre) / spread.

    Its path is x_t - alpha centre = (alpha spread) z_0 + sigma eps, of scale
    R = sqrt(alpha^2 spread^2 + sigma^2) and with a rotation of its own, whose velocity v_z gives

        x_0 = centre + spread z_0
        v = spread r / R v_z + alpha sigma (1 - spread^2) / (r R^2) (x_t - alpha centre)
            - sigma / r centre

    with bounded factors wherever alpha and sigma are not both small: v loses no digit at either
    end, where x_0 or eps alone would. EDM's network estimates -v_z (Karras et al. 2022, Eq. 7,
    with spread = sigma_data). Likewise u_z = eps - z_0 gives

        u = (spread (alpha + sigma) u_z + (1 - spread) (x_t - alpha centre))
            / (alpha spread + sigma) - centre

    An estimate of eps is about every datum.
    """
    if kind == "x_0":
        return predict(sde, x_t, t, "x_0", centre + spread * value, fraction)
    alpha, sigma, r = sde.alpha(t), sde.sigma(t), sde.scale(t)
    if kind == "u":
        whole = alpha * spread + sigma
        of_u, of_x_t = spread * (alpha + sigma) / whole, (1 - spread) / whole
        constant = -centre * (1 + alpha * of_x_t)
        u = broadcast(of_u, x_t) * value + broadcast(of_x_t, x_t) * x_t + broadcast(constant, x_t)
        return predict(sde, x_t, t, "u", u, fraction)
    own_variance = (alpha * spread) ** 2 + sigma**2
    of_v = spread * r / own_variance.sqrt()
    of_x_t = alpha * sigma * (1 - spread**2) / (r * own_variance)
    constant = -centre * (sigma / r + alpha * of_x_t)
    v = broadcast(of_v, x_t) * value + broadcast(of_x_t, x_t) * x_t + broadcast(constant, x_t)
    return predict(sde, x_t, t, "v", v, fraction)
