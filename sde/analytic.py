"""Distributions whose noisy marginals are known: the ground truth for everything else.

For each of these, the density of alpha x_0 + sigma eps is a closed form, and with it the score and
E[x_0 | x_t], hence an exact Denoiser at every time of every SDE, of no signal (alpha = 0) too. A
sampler or likelihood that is run on one has a right answer.

    GaussianMixture   any dimension, full covariances; one component is the Gaussian case, in
                      which every deterministic sampler is an affine map
    LevelGrid         independent pixels on a grid of levels, uniformly dequantized: what image
                      data looks like to a likelihood, with an entropy to compare bits/dim against
"""

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from scoreflow.sde.base import SDE, broadcast
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import Denoiser, Prediction, predict
from scoreflow.sde.types import Batch, PerSample, Times


class Distribution(ABC):
    """A density of x_0 in closed form, also after alpha x_0 + sigma eps.

    alpha and sigma are float64, () or (B,); x is (B, D) float64.
    """

    @abstractmethod
    def log_prob(self, x: Tensor, alpha: Times, sigma: Times) -> PerSample:
        """Log density of alpha x_0 + sigma eps at x, in nats, (B,)."""

    def score(self, x: Tensor, alpha: Times, sigma: Times) -> Tensor:
        """Gradient of `log_prob` in x, (B, D)."""
        return self.score_and_mean(x, alpha, sigma)[0]

    @abstractmethod
    def score_and_mean(self, x: Tensor, alpha: Times, sigma: Times) -> tuple[Tensor, Tensor]:
        """The score, and E[x_0 | alpha x_0 + sigma eps = x], both (B, D).

        Either follows from the other but where alpha or sigma is 0.
        """

    @abstractmethod
    def sample(self, noise: Noise) -> Tensor:
        """One x_0 for every sample index of the noise, (B, D)."""

    def denoiser(self, sde: SDE) -> Denoiser:
        """The exact Denoiser on a process. Events of any shape; computed in float64."""

        def denoise(x_t: Batch, t: Times) -> Prediction:
            alpha, sigma, r = sde.alpha(t), sde.sigma(t), sde.scale(t)
            score, x_0 = self.score_and_mean(x_t.double().flatten(1), alpha, sigma)
            v = -broadcast(alpha * sigma / r, score) * score - broadcast(sigma / r, x_0) * x_0
            return predict(sde, x_t, t, "v", v.view_as(x_t))

        return denoise


class GaussianMixture(Distribution):
    """p(x_0) = sum_k weight_k N(mean_k, covariance_k).

    Args:
        weights: (K,) positive, summing to 1.
        means: (K, D).
        covariances: (K, D, D), symmetric and positive semi-definite.
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        weights, means, covariances = weights.double(), means.double(), covariances.double()
        _check_distribution("weights", weights)
        if covariances.shape != (*means.shape, means.shape[1]):
            raise ValueError(
                f"means {tuple(means.shape)} need covariances of shape "
                f"{(*means.shape, means.shape[1])}, got {tuple(covariances.shape)}"
            )
        variances, axes = torch.linalg.eigh(covariances)  # (K, D), (K, D, D) columns
        rounding = 1e-12 * variances.abs().amax(1, keepdim=True)
        if not torch.allclose(covariances, covariances.mT) or bool((variances < -rounding).any()):
            raise ValueError(
                "covariances must be symmetric and positive semi-definite, got "
                f"{covariances.tolist()} with eigenvalues {variances.tolist()}"
            )
        self.weights, self.means, self.covariances = weights, means, covariances
        # eigenvalues of a singular covariance come out as tiny negatives
        self._variances, self._axes = variances.clamp(min=0), axes

    def log_prob(self, x: Tensor, alpha: Times, sigma: Times) -> PerSample:
        """Log density of alpha x_0 + sigma eps at x, in nats, (B,)."""
        return self._components(x, alpha, sigma)[0].logsumexp(dim=1)

    def score_and_mean(self, x: Tensor, alpha: Times, sigma: Times) -> tuple[Tensor, Tensor]:
        """Means over the components: minus precision times offset, and Wiener's filter."""
        joint, offset, variance = self._components(x, alpha, sigma)
        pull, shares = offset / variance, joint.softmax(dim=1)[..., None]
        alpha = alpha.to(x.device).view(-1, 1, 1)
        inside = torch.einsum("kde,bke->bkd", self._axes, alpha * self._variances * pull)
        score = -(shares * torch.einsum("kde,bke->bkd", self._axes, pull)).sum(1)
        return score, (shares * (self.means + inside)).sum(1)

    def log_posterior(self, x: Tensor, alpha: Times, sigma: Times) -> Tensor:
        """Log p(k | alpha x_0 + sigma eps = x): the exact classifier of components, (B, K)."""
        return self._components(x, alpha, sigma)[0].log_softmax(dim=1)

    def component(self, k: int) -> "GaussianMixture":
        """The law of x_0 given its component."""
        return gaussian(self.means[k], self.covariances[k])

    def sample(self, noise: Noise) -> Tensor:
        """One x_0 for every sample index of the noise, (B, D)."""
        edges = self.weights.cumsum(0)[:-1].contiguous()
        k = torch.searchsorted(edges, noise.uniform(Stream.DATA), right=True)
        z = noise.normal(Stream.DATA, self.means.shape[1:], draw=1)
        spread = self._variances.sqrt()[k] * z
        return self.means[k] + torch.einsum("bde,be->bd", self._axes[k], spread)

    def _components(self, x: Tensor, alpha: Times, sigma: Times) -> tuple[Tensor, Tensor, Tensor]:
        """Log joint density (B, K); offset (B, K, D) and variance, in the eigenbasis."""
        # a shared time is a 0-d CPU tensor wherever x lies; with more axes it would not mix
        alpha, sigma = (each.to(x.device).view(-1, 1, 1) for each in (alpha, sigma))
        offset = torch.einsum("kde,bkd->bke", self._axes, x[:, None] - alpha * self.means)
        variance = alpha**2 * self._variances + sigma**2
        log_normal = -0.5 * (offset**2 / variance + variance.log() + math.log(2 * math.pi))
        return self.weights.log() + log_normal.sum(2), offset, variance


def gaussian(mean: Tensor, covariance: Tensor) -> GaussianMixture:
    """N(mean (D,), covariance (D, D)) as a mixture of one component."""
    return GaussianMixture(mean.new_ones(1), mean[None], covariance[None])


class LevelGrid(Distribution):
    """D independent pixels, at level k with probability p_k, uniformly dequantized on [-1, 1].

    Level k of L fills the bin [-1 + 2k/L, -1 + 2(k+1)/L] with density p_k L/2, so that bits/dim of
    the integers under the exact model equal the entropy of p.

    Args:
        probabilities: (L,) positive, summing to 1.
        dim: D, the number of pixels.
    """

    def __init__(self, probabilities: Tensor, dim: int) -> None:
        _check_distribution("probabilities", probabilities.double())
        self.probabilities = probabilities.double()
        self.dim = dim
        edges = torch.linspace(-1, 1, len(probabilities) + 1, dtype=torch.float64)
        self._low, self._high = edges[:-1], edges[1:]

    @property
    def bits_per_dim(self) -> float:
        """Entropy of a level, in bits."""
        return float(-(self.probabilities * self.probabilities.log2()).sum())

    def log_prob(self, x: Tensor, alpha: Times, sigma: Times) -> PerSample:
        """Log density of alpha x_0 + sigma eps at x, in nats, (B,)."""
        return self._bins(x, alpha, sigma)[0].logsumexp(dim=2).sum(1)

    def score_and_mean(self, x: Tensor, alpha: Times, sigma: Times) -> tuple[Tensor, Tensor]:
        """Means over the bins, by their shares in the density at x."""
        joint, slope, mean = self._bins(x, alpha, sigma)
        shares = joint.softmax(dim=2)
        return (shares * slope).sum(2), (shares * mean).sum(2)

    def levels(self, noise: Noise) -> Tensor:
        """One image of integer levels for every sample index of the noise, (B, D) int64."""
        edges = self.probabilities.cumsum(0)[:-1].contiguous()
        u = noise.uniform(Stream.DATA, (self.dim,)).contiguous()
        return torch.searchsorted(edges, u, right=True)

    def sample(self, noise: Noise) -> Tensor:
        """One dequantized image for every sample index of the noise, (B, D)."""
        u = noise.uniform(Stream.DATA, (self.dim,), draw=1)
        return self._low[0] + (self.levels(noise) + u) * (self._high[0] - self._low[0])

    def _bins(self, x: Tensor, alpha: Times, sigma: Times) -> tuple[Tensor, Tensor, Tensor]:
        """Of each bin the log joint density at x, its slope in x and E[x_0 | x], (B, D, L)."""
        alpha, sigma = (each.to(x.device).view(-1, 1, 1) for each in (alpha, sigma))
        centre, half = (self._low + self._high) / 2, (self._high - self._low) / 2
        z, h = (x[..., None] - alpha * centre) / sigma, alpha * half / sigma
        narrow = h * (1 + z.abs()) < 1
        wide = _wide_bins(x[..., None], alpha, sigma, self._low, self._high, narrow)
        log_m, tilt = _narrow_bins(torch.where(narrow, z, 0.0), torch.where(narrow, h, 0.0))
        thin = _log_normal(z) + log_m - sigma.log(), (h * tilt - z) / sigma, centre + half * tilt
        density, slope, mean = map(torch.where, (narrow,) * 3, thin, wide)
        return self.probabilities.log() + density, slope, mean


def _wide_bins(
    x: Tensor, alpha: Tensor, sigma: Tensor, low: Tensor, high: Tensor, narrow: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Log density at x, its slope and E[x_0 | x] of alpha U(low, high) + sigma eps.

    By the normal distribution function, whose difference loses its digits where a bin is
    `narrow`: of these it returns anything finite.
    """
    above = torch.where(narrow, 1.0, (x - alpha * low) / sigma)
    below = torch.where(narrow, -1.0, (x - alpha * high) / sigma)
    alpha = torch.where(alpha > 0, alpha, 1.0)  # where it is 0 all are narrow
    log_mass = log_normal_mass(below, above)
    slope = (_log_normal(above) - log_mass).exp() - (_log_normal(below) - log_mass).exp()
    slope = slope / sigma
    return log_mass - (alpha * (high - low)).log(), slope, (x + sigma**2 * slope) / alpha


def _narrow_bins(z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Of exp(z h y - (h y)^2 / 2) for y in [-1, 1]: log of its mean, and the mean of y under it.

    By 8 points of Gauss and Legendre: 1e-15 where h (1 + |z|) < 1.
    """
    mean, moment = torch.zeros_like(z), torch.zeros_like(z)
    for node, weight in zip(*np.polynomial.legendre.leggauss(8), strict=True):
        density = 0.5 * float(weight) * (h * float(node) * (z - 0.5 * h * float(node))).exp()
        mean, moment = mean + density, moment + float(node) * density
    return mean.log(), moment / mean


def _check_distribution(name: str, p: Tensor) -> None:
    if not bool((p > 0).all() & torch.isclose(p.sum(), p.new_ones(()))):
        raise ValueError(f"{name} must be positive and sum to 1, got {p.tolist()}")


def _log_normal(z: Tensor) -> Tensor:
    """Log density of the standard normal."""
    return -0.5 * (z**2 + math.log(2 * math.pi))


def log_normal_mass(low: Tensor, high: Tensor) -> Tensor:
    """log(Phi(high) - Phi(low)), mirrored into the left tail, where it keeps its digits."""
    mirrored = low > 0
    low, high = torch.where(mirrored, -high, low), torch.where(mirrored, -low, high)
    log_low: Tensor = torch.special.log_ndtr(low)
    log_high: Tensor = torch.special.log_ndtr(high)
    return log_high + torch.log(-torch.expm1(log_low - log_high))
