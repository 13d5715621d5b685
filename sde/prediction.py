"""Four views of one estimate, and the function type that samplers and likelihoods depend on.

From x_t = alpha x_0 + sigma eps, with phi the angle, r the scale and x~ = x_t / r:

    eps     the noise                                   predicted by DDPM
    x_0     the clean datum                             x_0 = (x_t - sigma eps) / alpha
    v       the velocity dx~/dphi of the rotation       v = cos(phi) eps - sin(phi) x_0
    score   grad log p_t(x_t)                           score = -eps / sigma

An estimate of one is an estimate of all: noise prediction, denoising and score matching are the
same regression. Each view is computed directly from the given one (score and eps are one but for a
factor), so that no digit is lost where one of the scales is small. This is the only module that
converts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from torch import Tensor

from scoreflow.sde.base import SDE, broadcast
from scoreflow.sde.types import Batch, Times

Kind = Literal["eps", "x_0", "v", "score"]
KINDS: tuple[Kind, ...] = get_args(Kind)


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
