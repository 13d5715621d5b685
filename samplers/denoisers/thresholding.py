"""Static and dynamic thresholding: Denoisers that limit x_0 to the range of the data."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scoreflow.samplers.denoisers.wrapper import Wrapper
from scoreflow.sde.base import broadcast
from scoreflow.sde.prediction import Denoiser, Prediction
from scoreflow.sde.types import Batch, Times


@dataclass(frozen=True)
class Clipped(Wrapper):
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


@dataclass(frozen=True)
class Thresholded(Wrapper):
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
