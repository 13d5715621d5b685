"""Denoisers around denoisers: what changes an estimate is composed, not flagged."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sde.base import SDE, broadcast
from sde.prediction import Denoiser, Prediction, predict
from sde.types import Batch, PerSample, Times

LogProb = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, ...), t () or (B,) in steps) -> log p(y | x_t) of the class that is wanted, (B,)."""


def evaluations(denoiser: Denoiser) -> int:
    """How many evaluations of a network one call of a denoiser is; 1 unless it says otherwise."""
    return getattr(denoiser, "evaluations", 1)


@dataclass(frozen=True)
class Clipped:
    """x_0 clipped to the range of the data, as DDPM's sampler does; never for a likelihood.

    Attributes:
        denoiser: the Denoiser to clip.
        low: least value of a datum.
        high: greatest value of a datum.
    """

    denoiser: Denoiser
    low: float = -1.0
    high: float = 1.0

    @property
    def evaluations(self) -> int:
        """Evaluations of a network a call."""
        return evaluations(self.denoiser)

    def __call__(self, x_t: Batch, t: Times) -> Prediction:
        """The prediction, with x_0 inside the range and the other views to match."""
        p = self.denoiser(x_t, t)
        clipped = p.x_0.clamp(self.low, self.high)
        return Prediction(p.x_t, p.alpha, p.sigma, "x_0", clipped, p.fraction)


@dataclass(frozen=True)
class Thresholded:
    """x_0 clipped to [-q, q] and divided by q, each sample by its own q >= 1.

    Dynamic thresholding (Imagen, Saharia et al. 2022, section 2.3): q = max(1, the `share`
    quantile of |x_0| over a sample's elements), linear between order statistics. Where that
    quantile lies within 1 it is `Clipped`; an image that guidance drives out is shrunk instead of
    saturated. For data in [-1, 1].

    Attributes:
        denoiser: the Denoiser to threshold.
        share: of the elements that q is not less than, in (0, 1].
    """

    denoiser: Denoiser
    share: float = 0.995

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share must lie in (0, 1], got {self.share}")

    @property
    def evaluations(self) -> int:
        """Evaluations of a network a call."""
        return evaluations(self.denoiser)

    def __call__(self, x_t: Batch, t: Times) -> Prediction:
        """The prediction, with x_0 inside [-1, 1] and the other views to match."""
        prediction = self.denoiser(x_t, t)
        q = broadcast(self._quantile(prediction.x_0).clamp(min=1), x_t)
        inside = torch.minimum(torch.maximum(prediction.x_0, -q), q) / q
        return replace(prediction, kind="x_0", value=inside)

    def _quantile(self, x_0: Batch) -> Tensor:
        """By sorting: torch.quantile refuses more than 2^24 elements."""
        ordered = x_0.flatten(1).abs().sort(dim=1).values
        place = self.share * (ordered.shape[1] - 1)
        below = int(place)
        low, high = ordered[:, below], ordered[:, min(below + 1, ordered.shape[1] - 1)]
        return low + (place - below) * (high - low)


@dataclass(frozen=True)
class Reclocked:
    """A denoiser of one process, asked about another: VP, sub-VP and VE share their networks.

    Every process is the rotation x~ = cos(phi) x_0 + sin(phi) eps, run by its own clock phi(t) and
    shown at its own scale r(t), and v belongs to the rotation. So x_t of the other process is
    shown to the denoiser at the time of its own that has the same angle.

    Attributes:
        denoiser: of process `of`.
        of: the process that the denoiser knows.
        on: the process that it is asked about.
    """

    denoiser: Denoiser
    of: SDE
    on: SDE

    @property
    def evaluations(self) -> int:
        """Evaluations of a network a call."""
        return evaluations(self.denoiser)

    def __call__(self, x_t: Batch, t: Times) -> Prediction:
        """The prediction for x_t at time t of process `on`."""
        own = self.of.time(self.on.angle(t))
        scale = self.of.scale(own) / self.on.scale(t)
        v = self.denoiser(broadcast(scale, x_t) * x_t, own).v
        return predict(self.on, x_t, t, "v", v)


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance (Ho & Salimans 2022): eps_u + weight (eps_c - eps_u).

    Its score is grad log p(x_t) + weight grad log p(y | x_t). (Their w is weight - 1.) At weight 1
    or 0 one of the two is all there is, and the other is not evaluated. The combination is taken
    in the view that the conditional estimate is given in: x_t and t being shared, it is the same
    in every view, and no digit is lost to a conversion.

    Attributes:
        conditional: told the class.
        unconditional: told none.
        weight: of the class; 1 is the conditional law itself, 0 the unconditional one.
    """

    conditional: Denoiser
    unconditional: Denoiser
    weight: float

    @property
    def evaluations(self) -> int:
        """Evaluations of a network a call."""
        return sum(evaluations(denoiser) for denoiser in self._asked)

    @property
    def _asked(self) -> tuple[Denoiser, ...]:
        if self.weight == 1:
            return (self.conditional,)
        if self.weight == 0:
            return (self.unconditional,)
        return (self.conditional, self.unconditional)

    def __call__(self, x_t: Batch, t: Times) -> Prediction:
        """The guided prediction; a learned variance is that of the conditional estimate."""
        first, *others = (denoiser(x_t, t) for denoiser in self._asked)
        if not others:
            return first
        base: Tensor = getattr(others[0], first.kind)
        return replace(first, value=base + self.weight * (first.value - base))


@dataclass(frozen=True)
class ClassifierGuided:
    """Classifier guidance (Song et al. 2021, section 5; Dhariwal & Nichol 2021, section 4).

    score + weight grad log p(y | x_t), that is eps - weight sigma_t grad log p(y | x_t).

    Attributes:
        denoiser: of the law without a class.
        log_prob: (x_t, t) -> log p(y | x_t), (B,), differentiable in x_t; no row may depend on
            another.
        weight: of its gradient; at 1, with an exact classifier, the law is the conditional one.
    """

    denoiser: Denoiser
    log_prob: LogProb
    weight: float

    @property
    def evaluations(self) -> int:
        """Evaluations of the score network a call; the classifier's are not among them."""
        return evaluations(self.denoiser)

    def __call__(self, x_t: Batch, t: Times) -> Prediction:
        """The guided prediction."""
        prediction = self.denoiser(x_t, t)
        slope = self._slope(x_t, t)
        eps = prediction.eps - self.weight * prediction.sigma * slope
        return replace(prediction, kind="eps", value=eps)

    def _slope(self, x_t: Batch, t: Times) -> Batch:
        """Gradient of log p(y | x_t) in x_t; samplers run without gradients, so here with.

        Where a caller differentiates (MMPS, DPS), it is differentiable: the classifier's Hessian
        is part of the Jacobian.
        """
        differentiable = torch.is_grad_enabled() and x_t.requires_grad
        with torch.enable_grad():
            x = x_t if differentiable else x_t.detach().requires_grad_()
            log_prob: PerSample = self.log_prob(x, t)
            (slope,) = torch.autograd.grad(log_prob.sum(), x, create_graph=differentiable)
        return slope
