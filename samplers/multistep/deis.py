"""Exponential Adams-Bashforth: DEIS (Zhang & Chen 2023, "rho-AB"), of orders 1 to 4."""

from dataclasses import dataclass

from scoreflow.samplers.multistep.exponential_integrator import (
    Estimate,
    combined,
    moved,
    quadrature,
    ratio,
)
from scoreflow.samplers.sampler import Multistep
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise
from scoreflow.sde.prediction import Denoiser, Prediction
from scoreflow.sde.types import Batch, Times

Memory = tuple[Estimate, ...]


@dataclass(frozen=True)
class DEIS(Multistep):
    """x_s / alpha_s = x_t / alpha_t + integral of eps drho, eps a polynomial in rho.

    rho = sigma / alpha; order 1 is DDIM. The first steps remember less and are of lower order; the
    step to s = 0, rho = 0, is like any other.

    Attributes:
        order: how many estimates the polynomial goes through, 1..4.
    """

    order: int = 3

    @property
    def stated_order(self) -> int:
        """Order of convergence that the paper states."""
        return self.order

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3, 4):
            raise ValueError(f"order must lie in 1..4, got {self.order}")

    def advance(
        self,
        denoiser: Denoiser,
        sde: SDE,
        x_t: Batch,
        t: Times,
        s: Times,
        noise: Noise,
        memory: Memory | None,
    ) -> tuple[Batch, Memory]:
        """Draw x_s given x_t and the estimates before, latest first."""
        kept = (Estimate(ratio(sde, t), denoiser(x_t, t).eps), *(memory or ()))[: self.order]
        weights = adams_bashforth([each.at for each in kept], ratio(sde, s))
        alpha = sde.alpha(s).item()
        terms = [(alpha * w, each.value) for w, each in zip(weights, kept, strict=True)]
        return combined(x_t, alpha / sde.alpha(t).item(), *terms), kept

    def moved(
        self, sde: SDE, memory: Memory, t: Times, before: Prediction, after: Prediction
    ) -> Memory:
        """The estimates as if the trajectory had come to another point at t."""
        return moved(memory, after.eps - before.eps)


def adams_bashforth(nodes: list[float], end: float) -> list[float]:
    """Weights of values at nodes whose polynomial's integral from nodes[0] to end they give.

    By the moments: the weights integrate 1, y, y^2, ... exactly, y counted from nodes[0] in units
    of the step.
    """
    stride = end - nodes[0]
    places = [(node - nodes[0]) / stride for node in nodes]
    weights = quadrature(places, [1 / (n + 1) for n in range(len(nodes))])
    return [stride * weight for weight in weights]
