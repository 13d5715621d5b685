"""An identity: two ways to the same thing, how far apart they came, and how far they may."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoreflow.plot import Plot
from sde.noise import Noise, Stream

UNIT_ROUNDOFF = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}


@dataclass(frozen=True)
class Identity:
    """A line of the certificate.

    Attributes:
        name: the two things that are one.
        residual: how far apart they are.
        tolerance: how far apart they may be.
        basis: the residual's unit, and what the tolerance is derived from.
        plots: what makes it visible.
        picture: a caption and a PNG that do.
    """

    name: str
    residual: float
    tolerance: float
    basis: str
    plots: tuple[Plot, ...] = ()
    picture: tuple[str, bytes] | None = None

    @property
    def passed(self) -> bool:
        """Whether the residual is a number within the tolerance."""
        return math.isfinite(self.residual) and self.residual <= self.tolerance


@dataclass(frozen=True)
class Order:
    """How a difference falls with a step size.

    Attributes:
        slope: of log(difference) against log(step) between the two smallest steps.
        uncertainty: what separates it from the slope at step 0: local slopes approach that one
            geometrically as steps are halved, so about as much as the last one moved; twice that.
    """

    slope: float
    uncertainty: float


def order(steps: Sequence[float], differences: Sequence[float]) -> Order:
    """The order at which differences fall, from at least three step sizes, largest first."""
    logs = [
        (math.log(h), math.log(max(d, 1e-300))) for h, d in zip(steps, differences, strict=True)
    ]
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(logs)]
    return Order(slopes[-1], 2 * abs(slopes[-1] - slopes[-2]))


def falls_as(
    name: str,
    power: int,
    steps: Sequence[float],
    differences: Sequence[float],
    plots: tuple[Plot, ...] = (),
) -> Identity:
    """The identity that a difference is O(step^power)."""
    found = order(steps, differences)
    return Identity(
        f"{name}: slope {found.slope:.3f}",
        abs(found.slope - power),
        found.uncertainty,
        f"distance of the slope from {power}; twice what halving the step moved it",
        plots,
    )


class Fixed(Noise):
    """Noise whose normals are all one number: 0 for a step's mean, 1 to see its spread."""

    value: float = 0.0

    @classmethod
    def at_value(cls, value: float, size: int) -> "Fixed":
        """Noise for a batch of a size."""
        noise = cls(0, torch.arange(size))
        object.__setattr__(noise, "value", value)
        return noise

    def normal(self, stream: Stream, shape: tuple[int, ...] = (), draw: int = 0) -> Tensor:
        """The number, (B, *shape)."""
        return torch.full((len(self.index), *shape), self.value, dtype=torch.float64)


def worst(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The (residual, tolerance) pair that is nearest to failing, or fails by most."""
    return max(pairs, key=lambda pair: pair[0] / pair[1] if pair[0] == pair[0] else math.inf)
