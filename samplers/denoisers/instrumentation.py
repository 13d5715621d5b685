"""Denoisers that leave predictions unchanged: they count calls, record or cache predictions."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scoreflow.samplers.denoisers.wrapper import Wrapper, further_evaluations
from scoreflow.sde.prediction import Denoiser, Prediction
from scoreflow.sde.types import Batch, Times


class Counted(Wrapper):
    """Counts network evaluations where they happen, so that a reported number is no estimate.

    Args:
        denoiser: the Denoiser to count.
        after_call: called after each evaluation.

    Attributes:
        calls: number of calls of the denoiser.
        rows: network evaluations, summed over samples: a call of a denoiser that is made of two
            networks counts twice, as does a row that is interpolated between two integer times.
    """

    def __init__(self, denoiser: Denoiser, after_call: Callable[[], None] = lambda: None) -> None:
        self.denoiser = denoiser
        self.after_call = after_call
        self.calls = 0
        self.rows = 0

    def __call__(self, x_t: Tensor, t: Tensor) -> Prediction:
        """The prediction, counted."""
        self.calls += 1
        rows = len(x_t)
        if (further := further_evaluations(self.denoiser)) is not None:
            rows += int(further(t).expand(len(x_t)).sum())
        self.rows += rows * self.evaluations
        prediction = self.denoiser(x_t, t)
        self.after_call()
        return prediction


@dataclass(frozen=True)
class Recorded(Wrapper):
    """Records the estimates of x_0 along a trajectory, for pictures of it.

    Attributes:
        denoiser: the Denoiser to record.
        rows: of the batch, whose estimates are recorded.
        records: (t, x_0 of the rows) of each call, in order, on the CPU in float32. A sampler that
            evaluates twice at one time has two records of it.
    """

    denoiser: Denoiser
    rows: slice | Tensor = field(default_factory=lambda: slice(None))
    records: list[tuple[float, Tensor]] = field(default_factory=list)

    def __call__(self, x_t: Batch, t: Times) -> Prediction:
        """The prediction, recorded.

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
        self.records.append((float(t), kept))
        return prediction


class Cached(Wrapper):
    """Caches the prediction at one (x_t, t), given or computed there; elsewhere it computes anew.

    Args:
        denoiser: the Denoiser to cache.
        x_t: the point; recognised by identity, as is the time.
        t: its time.
        prediction: the prediction there, if it is known already.
    """

    def __init__(
        self, denoiser: Denoiser, x_t: Batch, t: Times, prediction: Prediction | None = None
    ) -> None:
        self.denoiser, self.x_t, self.t, self.prediction = denoiser, x_t, t, prediction

    def __call__(self, x_t: Batch, t: Times) -> Prediction:
        """The prediction; at the point, the same object in each call."""
        if x_t is not self.x_t or t is not self.t:
            return self.denoiser(x_t, t)
        self.prediction = self.prediction or self.denoiser(x_t, t)
        return self.prediction


class FirstKept(Wrapper):
    """Keeps the prediction of its first call.

    Args:
        denoiser: the Denoiser whose prediction is kept.

    Attributes:
        prediction: of the first call; None before it.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self.prediction: Prediction | None = None

    def __call__(self, x_t: Batch, t: Times) -> Prediction:
        """The prediction."""
        prediction = self.denoiser(x_t, t)
        self.prediction = self.prediction or prediction
        return prediction
