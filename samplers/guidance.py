"""Denoisers around denoisers: what changes an estimate is composed, not flagged."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from sde.base import SDE, broadcast
from sde.prediction import Denoiser, Prediction, predict
from sde.types import Batch, Times


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

    def __call__(self, x_t: Batch, t: Times) -> Prediction:
        """The prediction, with x_0 inside the range and the other views to match."""
        p = self.denoiser(x_t, t)
        clipped = p.x_0.clamp(self.low, self.high)
        return Prediction(p.x_t, p.alpha, p.sigma, "x_0", clipped, p.fraction)


class Counted:
    """Counts evaluations where they happen, so that a reported number is never an estimate.

    Args:
        denoiser: the Denoiser to count.
        after_call: called after each evaluation.

    Attributes:
        calls: how often the denoiser was called.
        rows: how many samples it was called on, summed over calls.
    """

    def __init__(self, denoiser: Denoiser, after_call: Callable[[], None] = lambda: None) -> None:
        self.denoiser = denoiser
        self.after_call = after_call
        self.calls = 0
        self.rows = 0

    def __call__(self, x_t: Tensor, t: Tensor) -> Prediction:
        """The prediction, counted."""
        self.calls += 1
        self.rows += len(x_t)
        prediction = self.denoiser(x_t, t)
        self.after_call()
        return prediction


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

    def __call__(self, x_t: Batch, t: Times) -> Prediction:
        """The prediction for x_t at time t of process `on`."""
        own = self.of.time(self.on.angle(t))
        scale = self.of.scale(own) / self.on.scale(t)
        v = self.denoiser(broadcast(scale, x_t) * x_t, own).v
        return predict(self.on, x_t, t, "v", v)
