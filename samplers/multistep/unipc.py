"""UniPC: a predictor, and a corrector that costs no evaluation (Zhao et al. 2023)."""

from dataclasses import dataclass
from math import expm1, inf

from scoreflow.samplers.multistep.exponential_integrator import (
    Estimate,
    combined,
    half_log_snr,
    moved,
    quadrature,
)
from scoreflow.samplers.sampler import Multistep, Step
from scoreflow.sde.base import SDE
from scoreflow.sde.prediction import Prediction
from scoreflow.sde.types import Batch, Times


@dataclass(frozen=True)
class Memory:
    """The corrected state at which the last step started, and the estimates, latest first."""

    x: Batch
    t: Times
    estimates: tuple[Estimate, ...]


@dataclass(frozen=True)
class UniPC(Multistep):
    """x_s / sigma_s = x_t / sigma_t + integral of e^lambda x_0 dlambda, by UniPC-p, B = e^h - 1.

    The evaluation at t serves twice: it corrects the state at t, which was predicted without
    it, and it predicts the next. Steps of order p have a corrected error of order p + 1. The first
    steps have fewer estimates and are of lower order; the step to s = 0 returns x_0. From where
    alpha is 0, lambda is -inf and e^lambda x_0 dlambda still a finite area, that of x_0 over
    alpha / sigma: predicted by x_0 there, and corrected by the trapezoidal rule.

    Attributes:
        order: p of the predictor, 1..3.
        correct: whether states are corrected.
    """

    order: int = 2
    correct: bool = True

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"order must lie in 1..3, got {self.order}")

    @property
    def flow_order(self) -> int:
        """Order of convergence to the probability flow: one more with the corrector.

        That of a step with a full memory: see `exponential_integrator`.
        """
        return self.order + self.correct

    def advance(self, x_t: Batch, step: Step, memory: Memory | None) -> tuple[Batch, Memory]:
        """Draw x_s given x_t, the state before and the estimates before."""
        sde, t, s = step.sde, step.t, step.s
        here = Estimate(half_log_snr(sde, t), step.predict(x_t).x_0)
        past = memory.estimates if memory is not None else ()
        if memory is not None and self.correct:
            x_t = _moved(sde, memory.x, memory.t, t, past, here)
        kept = (here, *past)[: self.order]
        x_s = here.value if s == 0 else _moved(sde, x_t, t, s, kept, None)
        return x_s, Memory(x_t, t, kept)

    def moved(self, memory: Memory, step: Step, before: Prediction, after: Prediction) -> Memory:
        """The memory as if the trajectory had come to another point at t.

        The state of the last step, too, is moved: with the estimates that much changed, it leads
        to the new point, and what is corrected there is the same as before.
        """
        sde, t, by = step.sde, step.t, after.x_0 - before.x_0
        h = half_log_snr(sde, t) - memory.estimates[0].at
        back, decay = sde.sigma(memory.t).item() / sde.sigma(t).item(), -expm1(-h)
        shift = combined(after.x_t - before.x_t, back, (-back * sde.alpha(t).item() * decay, by))
        return Memory(memory.x + shift, memory.t, moved(memory.estimates, by))


def _moved(
    sde: SDE,
    x_t: Batch,
    t: Times,
    s: Times,
    known: tuple[Estimate, ...],
    ahead: Estimate | None,
) -> Batch:
    """From t to s with estimates at t and before, latest first, and, to correct, the one at s.

    With h = lambda_s - lambda_t and r_k = (lambda_k - lambda_t) / h, the flow's own x_s =
    sigma_s / sigma_t x_t + alpha_s h integral over [0, 1] of e^(-h (1 - r)) x_0(r) dr becomes

        sigma_s / sigma_t x_t + alpha_s (1 - e^-h) (x_0(t) + sum_k rho_k (x_0(k) - x_0(t)) / r_k)

    with rho_k such that polynomials up to their number are integrated exactly. A single difference
    gets 1/2, as in the paper. An estimate at lambda = -inf is no place of a polynomial: it counts
    where a step starts from it alone.
    """
    last, before = known[0], [each for each in known[1:] if each.at > -inf]
    others = before + ([ahead] if ahead is not None else [])
    h = half_log_snr(sde, s) - last.at
    alpha, decay = sde.alpha(s).item(), -expm1(-h)
    terms = [(alpha * decay, last.value)]
    if others:
        r = [(each.at - last.at) / h for each in before] + [1.0] * (ahead is not None)
        for weight, each, place in zip(_weights(r, h), others, r, strict=True):
            terms.append((alpha * decay * weight / place, each.value - last.value))
    return combined(x_t, sde.sigma(s).item() / sde.sigma(t).item(), *terms)


def _weights(r: list[float], h: float) -> list[float]:
    """The rho of the differences at r."""
    if len(r) == 1:
        return [0.5]
    decay = -expm1(-h)
    phi, factorial, moments = decay / h, 1.0, []  # phi_1(-h)
    for n in range(1, len(r) + 1):
        factorial *= n
        phi = (1 / factorial - phi) / h  # phi_(n+1)(-h)
        moments.append(factorial * phi * h / decay)
    return quadrature(r, moments)
