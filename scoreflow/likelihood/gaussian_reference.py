"""Denoising error of a Gaussian in closed form: the control variate of the sampled bounds."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from scoreflow.data.stored.images import BLOCK, Images
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import Denoiser


@dataclass(frozen=True)
class Reference:
    """N(mean, axes diag(variances) axes^T) and what its own best denoiser gets wrong.

    With d the datum's offset in the axes and snr = alpha^2 / sigma^2, that denoiser's x_0 error is
    (d - variance sqrt(snr) eps) / (1 + variance snr), axis by axis.

    Attributes:
        mean: (D,) float64.
        axes: (D, D), orthonormal columns.
        variances: (D,), along the axes.
        until: the snr above which it makes no error, as if it knew the datum: a discrete datum is
            known there, which no Gaussian can imitate.
    """

    mean: Tensor
    axes: Tensor
    variances: Tensor
    until: float = math.inf

    @classmethod
    def fit(
        cls, data: Images, added: float, place: Callable[[Tensor], Tensor] = torch.Tensor.double
    ) -> "Reference":
        """Mean and covariance of points, plus `added` to every element's variance.

        Args:
            data: (n, ...), taken in blocks.
            added: to the variances.
            place: the points (b, ...) float64 of a block of data.
        """

        def blocks() -> Iterator[Tensor]:
            for start in range(0, len(data), BLOCK):
                yield place(data[start : start + BLOCK]).flatten(1)

        mean = torch.stack([x.mean(0) * (len(x) / len(data)) for x in blocks()]).sum(0)
        parts = ((x - mean).T @ (x - mean) for x in blocks())
        covariance = reduce(torch.Tensor.add_, parts) / len(data)
        variances, axes = torch.linalg.eigh(covariance)
        return cls(mean, axes, variances.clamp(min=0) + added)

    def offset(self, x_0: Tensor) -> Tensor:
        """From the mean, in the axes: (n, D)."""
        return (x_0.flatten(1) - self.mean) @ self.axes

    def square(self, x_0: Tensor, snr: Tensor, eps: Tensor) -> Tensor:
        """|x_0 error|^2 at alpha x_0 + sigma eps, (n,), at snr (n,)."""
        noise, snr = eps.flatten(1) @ self.axes, snr[:, None]
        error = (self.offset(x_0) - self.variances * snr.sqrt() * noise) / (
            1 + self.variances * snr
        )
        return error.square().sum(1) * (snr[:, 0] < self.until)

    def expected_sums(
        self, x_0: Tensor, snr: Tensor, weight: Tensor, lengths: list[int]
    ) -> Tensor:
        """Sums of weight E|x_0 error|^2 over stretches of times, E over eps: (n, stretches).

        Args:
            x_0: (n, ...).
            snr: of every time, (T,).
            weight: of every time, (T,).
            lengths: how many times each stretch has, T in all.
        """
        weight = weight * (snr < self.until)
        gain = weight[:, None] / (1 + snr[:, None] * self.variances) ** 2  # (T, D)
        of_noise = (gain * self.variances**2 * snr[:, None]).sum(1)
        of_datum = torch.stack([part.sum(0) for part in gain.split(lengths)])
        constant = torch.stack([part.sum() for part in of_noise.split(lengths)])
        return self.offset(x_0).square() @ of_datum.T + constant

    def integral(self, x_0: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """1/2 the integral of E|x_0 error|^2 dsnr from low to high: nats, (n,)."""
        high = high.clamp(max=self.until)
        at_low, at_high = 1 + self.variances * low, 1 + self.variances * high
        of_datum = (high - low) / (at_low * at_high)
        of_noise = (at_high / at_low).log() + 1 / at_high - 1 / at_low
        return 0.5 * (self.offset(x_0).square() @ of_datum + of_noise.sum())

    def negative_log_density(self, x_0: Tensor) -> Tensor:
        """-log N(x_0; mean, covariance): nats, (n,)."""
        constant = (2 * math.pi * self.variances).log().sum()
        return 0.5 * (self.offset(x_0).square() @ (1 / self.variances) + constant)


@dataclass(frozen=True)
class Errors:
    """Of a denoiser and of the reference at one x_t per sample.

    Attributes:
        estimate: of x_0, (n, ...).
        square: |x_0 - estimate|^2, (n,).
        of_reference: the same of the reference's estimate, (n,).
    """

    estimate: Tensor
    square: Tensor
    of_reference: Tensor


@torch.no_grad()
def errors_at(
    denoiser: Denoiser, sde: SDE, x_0: Tensor, t: Tensor, noise: Noise, reference: Reference
) -> Errors:
    """Denoising errors at times t (n,), one draw of x_t each."""
    eps = noise.normal(Stream.TRAIN_EPS, tuple(x_0.shape[1:]))
    estimate = denoiser(sde.perturb(x_0, t, eps), t).x_0
    square = (x_0 - estimate).square().flatten(1).sum(1)
    return Errors(estimate, square, reference.square(x_0, sde.log_snr(t).exp(), eps))
