"""An identity: two ways to the same thing, how far apart they came, and how far they may."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoreflow.figures.plot import Plot
from scoreflow.sde.base import SDE, ends_without_signal
from scoreflow.sde.noise import Noise, Stream

UNIT_ROUNDOFF = {torch.bfloat16: 2.0**-8, torch.float32: 2.0**-24, torch.float64: 2.0**-53}

FALSE_ALARM = 1e-3
"""How often a certificate of true identities may fail by chance, all its random rows together."""
RANDOM_ROWS = 10
"""Rows that are tests on random draws: six exact laws, three trained ones, and the scores'."""
CHANCE = FALSE_ALARM / RANDOM_ROWS
"""How often each of them may."""

LEAST_LOG_SNR = -10.0
"""About DDPM's at N: where what needs a log-SNR begins, on a path whose own at N is -inf."""
STEEPNESS = 0.5
"""How well an order must be known for a certificate to say that it is that one, not its half."""


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
            geometrically as steps are halved, so about as much as the last one moved; twice that,
            and where that is more than `STEEPNESS`, this alone: there is no order to be seen.
    """

    slope: float
    uncertainty: float


def order(steps: Sequence[float], differences: Sequence[float]) -> Order:
    """The order at which differences fall, from at least three step sizes, largest first."""
    logs = [
        (math.log(h), math.log(max(d, 1e-300))) for h, d in zip(steps, differences, strict=True)
    ]
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(logs)]
    return Order(slopes[-1], min(2 * abs(slopes[-1] - slopes[-2]), STEEPNESS))


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
        f"distance of the slope from {power}; twice what halving the step moved it, at most "
        f"{STEEPNESS}",
        plots,
    )


class Fixed(Noise):
    """Noise whose normals are all one number: 0 for a step's mean, 1 to see its spread."""

    value: float = 0.0

    @classmethod
    def at_value(cls, value: float, size: int, device: torch.device | str = "cpu") -> "Fixed":
        """Noise for a batch of a size."""
        noise = cls(0, torch.arange(size, device=device))
        object.__setattr__(noise, "value", value)
        return noise

    def normal(
        self,
        stream: Stream,
        shape: tuple[int, ...] = (),
        draw: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """The number, (B, *shape)."""
        size = (len(self.index), *shape)
        return torch.full(size, self.value, dtype=dtype, device=self.index.device)


def finite_end(sde: SDE) -> float:
    """The last time of finite log-SNR: N, or where it is `LEAST_LOG_SNR` if N has no signal."""
    if not ends_without_signal(sde):
        return float(sde.num_steps)
    return float(sde.time_of_log_snr(torch.tensor(LEAST_LOG_SNR, dtype=torch.float64)))


def sampled(sde: SDE, posed: SDE) -> SDE:
    """The process that a network is sampled on: all of it, where N has a signal.

    Where it has none, an estimate of noise says nothing of the data there, and the process of such
    a network ends before: where it is well posed (`ScoreModel.posed`).
    """
    return sde if finite_end(sde) == sde.num_steps else posed


def worst(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The (residual, tolerance) pair that is nearest to failing, or fails by most."""

    def share(pair: tuple[float, float]) -> float:
        residual, tolerance = pair
        if residual == 0:
            return 0.0
        return residual / tolerance if math.isfinite(residual) and tolerance > 0 else math.inf

    return max(pairs, key=share)
