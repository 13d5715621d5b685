"""Exponential Adams-Bashforth: DEIS (Zhang & Chen 2023, "rho-AB"), of orders 1 to 4."""

from dataclasses import dataclass

from scoreflow.samplers.multistep.exponential_integrator import (
    Estimate,
    combined,
    moved,
    quadrature,
    ratio,
)
from scoreflow.samplers.sampler import Multistep, Step
from scoreflow.sde.prediction import Prediction
from scoreflow.sde.types import Batch

Memory = tuple[Estimate, ...]


@dataclass(frozen=True)
class DEIS(Multistep):
    """x_s / alpha_s = x_t / alpha_t + integral of eps drho, eps a polynomial in rho.

    rho = sigma / alpha; order 1 is DDIM. The first steps have fewer estimates and are of
    lower order; the step to s = 0, rho = 0, is like any other.

    Attributes:
        order: how many estimates the polynomial goes through, 1..4.
    """

    order: int = 3

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3, 4):
            raise ValueError(f"order must lie in 1..4, got {self.order}")

    @property
    def flow_order(self) -> int:
        """Order of convergence to the probability flow: of a step with a full memory.

        The first, of lower order, limit it where they are long: see `exponential_integrator`.
        """
        return self.order

    def advance(self, x_t: Batch, step: Step, memory: Memory | None) -> tuple[Batch, Memory]:
        """Draw x_s given x_t and the estimates before, latest first."""
        if step.without_signal:  # rho is infinite: no place for a node
            return step.from_noise(x_t), ()
        sde, t, s = step.sde, step.t, step.s
        kept = (Estimate(ratio(sde, t), step.predict(x_t).eps), *(memory or ()))[: self.order]
        weights = adams_bashforth([each.at for each in kept], ratio(sde, s))
        alpha = sde.alpha(s).item()
        terms = [(alpha * w, each.value) for w, each in zip(weights, kept, strict=True)]
        return combined(x_t, alpha / sde.alpha(t).item(), *terms), kept

    def moved(self, memory: Memory, step: Step, before: Prediction, after: Prediction) -> Memory:
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
