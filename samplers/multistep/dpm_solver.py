"""DPM-Solver++, multistep, deterministic and stochastic (Lu et al. 2022, "DPM-Solver++")."""

from dataclasses import dataclass
from math import exp, expm1, sqrt

from scoreflow.samplers.multistep.exponential_integrator import (
    Estimate,
    combined,
    half_log_snr,
    moved,
)
from scoreflow.samplers.sampler import Multistep, Step
from scoreflow.sde.prediction import Prediction
from scoreflow.sde.types import Batch

Memory = tuple[Estimate, ...]


@dataclass(frozen=True)
class DPMSolver(Multistep):
    """x_s / sigma_s = x_t / sigma_t + integral of e^lambda x_0 dlambda, x_0 a polynomial in it.

    With h = lambda_s - lambda_t, r the step before over h, and D = x_0 + (x_0 - x_0 before) / 2r:

        order 1    x_s = sigma_s / sigma_t x_t + alpha_s (1 - e^-h) x_0                 (DDIM)
        order 2    x_s = sigma_s / sigma_t x_t + alpha_s (1 - e^-h) D                   (2M)
        order 3    the quadratic through the last three estimates, integrated exactly   (3M)
        SDE        x_s = sigma_s / sigma_t e^-h x_t + alpha_s (1 - e^-2h) D
                         + sigma_s sqrt(1 - e^-2h) z                           (SDE-2M)

    The first steps, with fewer estimates, are of lower order, and so is the step to s = 0, where h
    is infinite: it returns x_0.

    Attributes:
        order: 1, 2 or 3.
        stochastic: of the reverse-time SDE instead of its flow; order 1 or 2.
    """

    order: int = 2
    stochastic: bool = False

    def __post_init__(self) -> None:
        if self.order not in ((1, 2) if self.stochastic else (1, 2, 3)):
            most = 2 if self.stochastic else 3
            raise ValueError(f"order must lie in 1..{most}, got {self.order}")

    @property
    def flow_order(self) -> int | None:
        """Order of convergence to the probability flow; None for the SDE.

        That of a step with a full memory: see `exponential_integrator`.
        """
        return None if self.stochastic else self.order

    def advance(self, x_t: Batch, step: Step, memory: Memory | None) -> tuple[Batch, Memory]:
        """Draw x_s given x_t and the estimates before, latest first."""
        sde, t, s = step.sde, step.t, step.s
        x_0, at = step.predict(x_t).x_0, half_log_snr(sde, t)
        kept = (Estimate(at, x_0), *(memory or ()))[: self.order]
        if s == 0:
            return x_0, kept
        h = half_log_snr(sde, s) - at
        sigma, alpha = sde.sigma(s).item(), sde.alpha(s).item()
        shrink = sigma / sde.sigma(t).item()
        if self.stochastic:
            decay = -expm1(-2 * h)
            noise = sigma * sqrt(decay), step.normal(x_t)
            terms = (alpha * decay, _extrapolated(kept, h)), noise
            return combined(x_t, shrink * exp(-h), *terms), kept
        decay = -expm1(-h)
        if len(kept) < 3:
            return combined(x_t, shrink, (alpha * decay, _extrapolated(kept, h))), kept
        first, second = _derivatives(kept)
        slope = alpha * (1 - decay / h) * h
        curve = alpha * (0.5 - (h - decay) / h**2) * h**2
        x_s = combined(x_t, shrink, (alpha * decay, x_0), (slope, first), (curve, 2 * second))
        return x_s, kept

    def moved(self, memory: Memory, step: Step, before: Prediction, after: Prediction) -> Memory:
        """The estimates as if the trajectory had come to another point at t."""
        return moved(memory, after.x_0 - before.x_0)


def _extrapolated(kept: Memory, h: float) -> Batch:
    """D: the estimate half a step ahead, or the last one where there is no other."""
    if len(kept) == 1:
        return kept[0].value
    last, before = kept
    ahead = 0.5 * h / (last.at - before.at)
    return combined(last.value, 1 + ahead, (-ahead, before.value))


def _derivatives(kept: Memory) -> tuple[Batch, Batch]:
    """Derivative at the last estimate, and half the second, of the quadratic through three."""
    a, b, c = kept
    late, early = _difference(a, b), _difference(b, c)
    second = (late - early) / (a.at - c.at)
    return late + (a.at - b.at) * second, second


def _difference(a: Estimate, b: Estimate) -> Batch:
    return (a.value - b.value) / (a.at - b.at)
