"""Denoisers around denoisers: what changes an estimate is composed, not flagged."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
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
        prediction = self.denoiser(x_t, t)
        clipped = prediction.x_0.clamp(self.low, self.high)
        return replace(prediction, kind="x_0", value=clipped)


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
class Recorded:
    """Keeps what is estimated on the way, for pictures of it; the estimates are unchanged.

    Attributes:
        denoiser: the Denoiser to listen to.
        rows: of the batch, whose estimates are kept.
        seen: (t, x_0 of the rows) of each call, in order, on the CPU in float32. A sampler that
            asks twice about a time is heard twice.
    """

    denoiser: Denoiser
    rows: slice | Tensor = field(default_factory=lambda: slice(None))
    seen: list[tuple[float, Tensor]] = field(default_factory=list)

    def __call__(self, x_t: Batch, t: Times) -> Prediction:
        """The prediction, noted down.

        Raises:
            ValueError: t is not one time for the batch. The adaptive flow has a clock, and a place
                in the batch, of its own for each sample.
        """
        if t.ndim:
            raise ValueError(
                f"a recorder needs one time for the whole batch, got {tuple(t.shape)}: the "
                "adaptive flow asks about each sample at its own"
            )
        prediction = self.denoiser(x_t, t)
        kept = prediction.x_0[self.rows].detach().to("cpu", torch.float32, copy=True)
        self.seen.append((float(t), kept))
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
