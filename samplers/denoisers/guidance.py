"""Classifier-free and classifier guidance, as Denoisers around Denoisers."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scoreflow.samplers.denoisers.wrapper import Wrapper, evaluations
from scoreflow.sde.prediction import Denoiser, Prediction
from scoreflow.sde.types import Batch, LogProb, PerSample, Times


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance (Ho & Salimans 2022): eps_u + weight (eps_c - eps_u).

    Its score is grad log p(x_t) + weight grad log p(y | x_t). (Their w is weight - 1.) At weight 1
    or 0 one of the two is all there is, and the other is not evaluated. The combination is taken
    in the view that the conditional estimate is given in: x_t and t being shared, it is the same
    in every view, and no digit is lost to a conversion.

    Attributes:
        conditional: the estimate given the class.
        unconditional: the estimate without a class.
        weight: of the class; 1 is the conditional law itself, 0 the unconditional one.
    """

    conditional: Denoiser
    unconditional: Denoiser
    weight: float

    @property
    def evaluations(self) -> int:
        """Network evaluations of one call: of both Denoisers, or of the one that is called."""
        return sum(evaluations(denoiser) for denoiser in self._called)

    @property
    def _called(self) -> tuple[Denoiser, ...]:
        if self.weight == 1:
            return (self.conditional,)
        if self.weight == 0:
            return (self.unconditional,)
        return (self.conditional, self.unconditional)

    def __call__(self, x_t: Batch, t: Times) -> Prediction:
        """The guided prediction; a learned variance is that of the conditional estimate."""
        first, *others = (denoiser(x_t, t) for denoiser in self._called)
        if not others:
            return first
        base: Tensor = getattr(others[0], first.kind)
        return replace(first, value=base + self.weight * (first.value - base))


@dataclass(frozen=True)
class ClassifierGuided(Wrapper):
    """Classifier guidance (Song et al. 2021, section 5; Dhariwal & Nichol 2021, section 4).

    score + weight grad log p(y | x_t), that is eps - weight sigma_t grad log p(y | x_t). A call's
    `evaluations` are the score network's; the classifier's are not among them. It is an estimate
    of eps: where alpha is 0, no gradient in x_t tells what x_0 is, so the process must end before
    (`sde.flow.well_posed(sde, "score")`).

    Attributes:
        denoiser: of the law without a class.
        log_prob: (x_t, t) -> log p(y | x_t), (B,), differentiable in x_t; no row may depend on
            another.
        weight: of its gradient; at 1, with an exact classifier, the law is the conditional one.
    """

    denoiser: Denoiser
    log_prob: LogProb
    weight: float

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
