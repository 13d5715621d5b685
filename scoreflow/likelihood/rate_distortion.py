"""Rate-distortion curve of the bound as a progressive code (Ho et al. 2020, section 4.3).

The sender transmits x_N, then x_{N-1} given it, and so on: whoever knows x_t has received

    L_T + the sum of L_j over the steps j = N .. t + 1

and reconstructs x_0 by the estimate at x_t. The source is the dequantized image: once sigma_t is
small against a bin, bits are spent on where in its bin a point lies.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scoreflow.likelihood.flow_likelihood import to_bits_per_dim
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import Denoiser


@dataclass(frozen=True)
class Unit:
    """How nats become what is reported.

    Attributes:
        dims: D.
        num_levels: L, or None for real-valued data, which are reported in nats.
    """

    dims: int
    num_levels: int | None

    @property
    def name(self) -> str:
        """Of the unit."""
        return "nats" if self.num_levels is None else "bits/dim"

    def of(self, nats: Tensor) -> Tensor:
        """A divergence, or minus the log of a probability."""
        return nats if self.num_levels is None else nats / (self.dims * math.log(2))

    def of_density(self, nats: Tensor) -> Tensor:
        """Minus the log density of a point on [-1, 1] that dequantizes an integer."""
        if self.num_levels is None:
            return nats
        return to_bits_per_dim(-nats, self.dims, self.num_levels)

    def distortion(self, square: np.ndarray) -> np.ndarray:
        """Root mean square error on the scale 0..255 of a picture; of vectors, in their unit.

        Args:
            square: |x_0 error|^2, mean over images.
        """
        levels = self.num_levels
        scale = 1.0 if levels is None else levels / 2 * 255 / (levels - 1)
        return scale * np.sqrt(square / self.dims)


@dataclass(frozen=True)
class Rate:
    """The rate-distortion curve: what is known of x_0 once x_t is.

    Attributes:
        unit: of rate and terms.
        times: t, ascending from 1 to N.
        rate: received by whoever knows x_t.
        distortion: of the x_0 estimate at x_t, see `Unit.distortion`.
        middles: t in the middle of each stretch of times, ascending, without t = 1.
        terms: of each variance, L_t of one step at `middles`.
    """

    unit: Unit
    times: list[int]
    rate: list[float]
    distortion: list[float]
    middles: list[float]
    terms: dict[str, list[float]]


def rate_distortion(
    unit: Unit,
    stretches: list[range],
    squares: Tensor,
    prior: Tensor,
    terms: dict[str, Tensor],
    coded: str,
) -> Rate:
    """The curve at the ends of the stretches of times.

    Args:
        unit: of the rate.
        stretches: 1, then those of 2..N (`discrete_bound.DenoisingErrors`).
        squares: |x_0 error|^2, (n, 1 + K); between the stretches' middles its logarithm is
            interpolated.
        prior: L_T in nats, (n,).
        terms: of each variance, L_0 and the stretches' sums of L_t in nats, (n, 1 + K).
        coded: the variance of the code.
    """
    middles = [(part.start + part[-1]) / 2 for part in stretches]
    times = [part[-1] for part in stretches]
    mean_square = squares.mean(0).numpy()
    at_times = np.exp(np.interp(times, middles, np.log(mean_square)))
    steps = unit.of(terms[coded][:, 1:].mean(0))
    received = unit.of(prior.mean()) + torch.cat([steps, steps.new_zeros(1)]).flip(0).cumsum(0)
    lengths = torch.tensor([len(part) for part in stretches[1:]])
    return Rate(
        unit,
        times,
        received.flip(0).tolist(),
        unit.distortion(at_times).tolist(),
        middles[1:],
        {name: (unit.of(each[:, 1:].mean(0)) / lengths).tolist() for name, each in terms.items()},
    )


@torch.no_grad()
def reconstructions(
    denoiser: Denoiser, sde: SDE, x_0: Tensor, noise: Noise, times: list[int]
) -> Tensor:
    """The x_0 estimates at x_t, each from the same eps: (n, len(times), ...), shaped like x_0."""
    eps = noise.normal(Stream.TRAIN_EPS, tuple(x_0.shape[1:]))
    estimates = []
    for time in times:
        t = torch.full((len(x_0),), float(time), dtype=torch.float64, device=x_0.device)
        estimates.append(denoiser(sde.perturb(x_0, t, eps), t).x_0)
    return torch.stack(estimates, 1)
