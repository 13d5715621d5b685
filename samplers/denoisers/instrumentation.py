"""Denoisers that change no estimate: they count, keep, or answer a second time what they said."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scoreflow.sde.prediction import Denoiser, Prediction
from scoreflow.sde.types import Batch, Times


class Counted:
    """Counts evaluations where they happen, so that a reported number is never an estimate.

    Args:
        denoiser: the Denoiser to count.
        after_call: called after each evaluation.

    Attributes:
        calls: how often the denoiser was called.
        rows: on how many samples a network was evaluated, summed over calls: a denoiser that is
            made of two networks counts twice.
    """

    def __init__(self, denoiser: Denoiser, after_call: Callable[[], None] = lambda: None) -> None:
        self.denoiser = denoiser
        self.after_call = after_call
        self.calls = 0
        self.rows = 0

    @property
    def evaluations(self) -> int:
        """Evaluations of a network a call."""
        return evaluations(self.denoiser)

    def __call__(self, x_t: Tensor, t: Tensor) -> Prediction:
        """The prediction, counted."""
        self.calls += 1
        self.rows += len(x_t) * evaluations(self.denoiser)
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

    @property
    def evaluations(self) -> int:
        """Evaluations of a network a call."""
        return evaluations(self.denoiser)

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


class AskedOnce:
    """A Denoiser that is asked but once about one point and time; about others, as often as asked.

    Args:
        denoiser: the Denoiser to ask.
        x_t: the point.
        t: its time.
        prediction: what is known there already.
    """

    def __init__(
        self, denoiser: Denoiser, x_t: Batch, t: Times, prediction: Prediction | None = None
    ) -> None:
        self.denoiser, self.x_t, self.t, self.prediction = denoiser, x_t, t, prediction

    @property
    def evaluations(self) -> int:
        """Evaluations of a network a call."""
        return evaluations(self.denoiser)

    def __call__(self, x_t: Batch, t: Times) -> Prediction:
        """The prediction; the same object each time at the point."""
        if x_t is not self.x_t or t is not self.t:
            return self.denoiser(x_t, t)
        self.prediction = self.prediction or self.denoiser(x_t, t)
        return self.prediction


def evaluations(denoiser: Denoiser) -> int:
    """How many evaluations of a network one call of a denoiser is; 1 unless it says otherwise."""
    return getattr(denoiser, "evaluations", 1)
