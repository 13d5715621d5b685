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
from torch.autograd.function import FunctionCtx, once_differentiable

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


NARROW, FAR = 0.5, 30.0
"""Sizes up to which 6 nodes, and from which on 6 terms, are exact to 1e-14."""
SHARELESS = 600.0
"""exp(-600) of anything is nothing; below exp(-708) a CPU's products take many times longer."""
NODES, WEIGHTS = (torch.from_numpy(each) / 2 for each in np.polynomial.legendre.leggauss(6))
NODES = NODES + 0.5
"""Of Gauss and Legendre's quadrature on [0, 1]."""
ROOT_TAU = math.sqrt(2 * math.pi)


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
        shared, joint, _, _ = self._bins(x, alpha, sigma)
        return (shared + joint.logsumexp(dim=2)).sum(1)

    def score_and_mean(self, x: Tensor, alpha: Times, sigma: Times) -> tuple[Tensor, Tensor]:
        """Means over the bins, by their shares in the density at x.

        Pixels are independent, so one pass gives the derivatives that any number of probes need.
        """
        if not (torch.is_grad_enabled() and x.requires_grad):
            return self._score_and_mean(x, alpha, sigma)
        own = x.detach().requires_grad_()
        found = self._score_and_mean(own, alpha, sigma)
        slopes = (torch.autograd.grad(each.sum(), own, retain_graph=True)[0] for each in found)
        score, mean = map(_Pixelwise.apply, (x, x), (each.detach() for each in found), slopes)
        return score, mean

    def _score_and_mean(self, x: Tensor, alpha: Times, sigma: Times) -> tuple[Tensor, Tensor]:
        _, joint, slope, mean = self._bins(x, alpha, sigma)
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

    def _bins(
        self, x: Tensor, alpha: Times, sigma: Times
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The log density at x in two parts, and its slope and E[x_0 | x] within each bin.

        In units of sigma, `outside` is how far x lies from all data, (B, D, 1); its square would
        take the digits of the bins' shares, so it is kept apart. From the datum nearest to x it is
        `past` further to a bin's near edge, and less than 0 if it lies in that bin.

        Returns:
            What the bins share, (B, D), and of each, (B, D, L): the rest of the log joint density,
            its slope, and the mean of x_0.
        """
        alpha, sigma = (each.to(x.device).view(-1, 1, 1) for each in (alpha, sigma))
        x, bin_width = x[..., None], self._high[0] - self._low[0]
        beyond = x.abs() > alpha
        inner = torch.where(beyond, torch.copysign(alpha, x), x)
        outside = torch.where(beyond, x.abs() - alpha, 0.0) / sigma
        to_low, to_high = (inner - alpha * self._low) / sigma, (alpha * self._high - inner) / sigma
        from_low = torch.where(beyond, x < 0, to_low < to_high)  # the nearer edge
        past = -torch.where(from_low, to_low, to_high)
        rest, pull, depth = _bin_seen(outside, past, alpha * bin_width / sigma)
        edge = torch.where(from_low, self._low, self._high)
        inwards = torch.where(from_low, 1.0, -1.0)
        shared = (_log_normal(outside) - sigma.log())[..., 0]
        joint = self.probabilities.log() + rest
        return shared, joint, inwards * pull / sigma, edge + inwards * depth * bin_width


class _Pixelwise(torch.autograd.Function):
    """A function of each pixel alone, of known value and slope."""

    @staticmethod
    def forward(ctx: FunctionCtx, _x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        """The value."""
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Its own slope."""
        (slope,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient * slope, None, None


Bin = tuple[Tensor, Tensor, Tensor]
"""Of the normal exp(-y^2 / 2) within [gap, gap + width]: the log of its mean, with or without
exp(-gap^2 / 2), E[y], and E[(y - gap) / width]."""


def _bin_seen(outside: Tensor, past: Tensor, width: Tensor) -> Bin:
    """A `Bin` with gap = outside + past, its log less that of exp(-outside^2 / 2)."""
    gap, width = torch.broadcast_tensors(outside + past, width)
    tail = past * (outside + 0.5 * past)
    narrow, around = width * (gap.abs() + width) < NARROW, past < 0
    live = around | (tail < SHARELESS)
    cases = (narrow & live, live & ~narrow & ~around, around & ~narrow, ~live)
    # each computed, and so differentiated, where it holds alone
    of_case = [case.flatten().nonzero()[:, 0] for case in cases]
    order = torch.cat(of_case)
    sizes = [len(each) for each in of_case]
    gaps = gap.flatten().gather(0, order).split(sizes)
    widths = width.flatten().gather(0, order).split(sizes)
    bins = (_thin_bin, _bin_apart, _bin_around, _lost_bin)
    found = [bin_of(*each) for bin_of, *each in zip(bins, gaps, widths, strict=True)]
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=gap.device))
    log_mean, pull, depth = (
        torch.cat(parts).gather(0, place).view_as(gap) for parts in zip(*found, strict=True)
    )
    return log_mean - torch.where(around & ~narrow, 0.0, tail), pull, depth


def _lost_bin(gap: Tensor, _width: Tensor) -> Bin:
    """So far off that it has no share."""
    return torch.full_like(gap, -math.inf), gap, torch.zeros_like(gap)


def _thin_bin(gap: Tensor, width: Tensor) -> Bin:
    """Where width (|gap| + width) < `NARROW`: all that so few nodes need to see."""
    y = width[..., None] * NODES
    density = WEIGHTS * (-y * (gap[..., None] + 0.5 * y)).exp()
    mean = density.sum(-1)
    depth = (density * NODES).sum(-1) / mean
    return mean.log(), gap + width * depth, depth


def _bin_apart(gap: Tensor, width: Tensor) -> Bin:
    """Beside the normal's mean, gap >= 0: by the tails that lie beyond its two edges."""
    (near, far), log_width = _tail_depth(torch.stack([gap, gap + width])), width.log()
    hazard = gap + near
    beyond = hazard / (gap + width + far) * (-width * (gap + 0.5 * width)).exp()  # of the masses
    reach = (near - beyond * (width + far)) / (1 - beyond)
    return torch.log1p(-beyond) - hazard.log() - log_width, gap + reach, reach / width


def _bin_around(gap: Tensor, width: Tensor) -> Bin:
    """Around the normal's mean; its log with exp(-gap^2 / 2)."""
    edges = torch.stack([gap, -gap - width])
    below, above = (-0.5 * edges**2).exp()
    outside = torch.special.ndtr(edges).sum(0)
    pull = (below - above) / (ROOT_TAU * (1 - outside))
    log_mean = torch.log1p(-outside) - (width / ROOT_TAU).log()
    return log_mean, pull, (pull - gap) / width


def _tail_depth(gap: Tensor) -> Tensor:
    """E[y - gap] of the standard normal beyond gap >= 0: phi / (1 - Phi) - gap.

    By erfcx up to `FAR`, from where the difference loses digits and few terms of Laplace's
    continued fraction have them all.
    """
    close, away = gap.clamp(max=FAR), gap.clamp(min=FAR)
    fraction = away
    for k in range(6, 1, -1):
        fraction = away + k / fraction
    hazard = math.sqrt(2 / math.pi) / torch.special.erfcx(close / math.sqrt(2))
    return torch.where(gap < FAR, hazard - close, 1 / fraction)


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
