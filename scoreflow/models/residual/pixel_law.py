"""The exact denoiser of independent pixels with the training images' histograms.

Most of what a network must learn about images of levels it could read off a histogram: that the
background is exactly black, that a level is a bin of width 2/L and not a point, that this pixel is
never set. With prediction = residual the network is told, and learns the rest,

    x_0 = m + s F,        m = E[x_0 | x_t],   s = std(x_0 | x_t)   of this pixel alone,

so that an answer of 0 is the best one that knows no other pixel, with -log p the entropy of the
histograms. Karras et al. 2022 ("EDM", Eq. 7 and appendix B.6) do the same with a normal law in the
place of the histogram, where m is c_skip x_t and s is c_out; at low noise s tells what the noise
leaves unknown within a bin, and 0 where nothing is.

A pixel has level k with probability p_k, uniform on the bin [-1 + 2 k / L, -1 + 2 (k + 1) / L].
With y = (alpha x_0 - x_t) / sigma, which is minus the noise, the posterior is a standard normal
times the steps of p; the moments of a normal over a bin are differences of primitives G at its
edges, so that sums over bins are sums over edges, of G(edge) times the step there. Float64, for a
level that is rare has a share of 1e-9 beside the others.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from scoreflow.data.stored.images import Images
from scoreflow.sde.base import broadcast

INPUTS = 4
"""A network's input is x_t, m, the noise and its spread: so many channels for one."""
MOST_NUMBERS = 1 << 20
"""Probabilities up to which each pixel has its own; else those of a channel share them."""
MOST_LEVELS = 4096
"""More are as good as real numbers, and would take hours."""
IMAGES = 1 << 16
"""Training images that are counted, from the first on."""
PSEUDO_COUNTS = 64.0
"""Images of the channel's law that a pixel's own counts are mixed with: its prior."""
FLOOR = 1e-4
"""Share of the uniform law in each: no level is impossible."""
BEYOND = 4.0
"""Noises outside all data up to which a pixel is taken as it is; further it tells nothing more."""
CUT = 12.0
"""Noises from x_t beyond which nothing is: exp(-72) of a density. Far exponentials are slow."""
LEAST_SIGNAL = 1e-4
"""alpha / sigma, at the least, where the process ends without signal."""
AT_ONCE = {"cpu": 1 << 19, "cuda": 1 << 25}
"""Edges of pixels at a time: what a core's cache holds, or a small part of a GPU's memory."""


@dataclass(frozen=True)
class Known:
    """What a pixel tells of itself; each shaped like x_t, in its dtype.

    Attributes:
        datum: m = E[x_0 | x_t].
        noise: E[eps | x_t] = (x_t - alpha m) / sigma.
        spread: the standard deviation of eps given x_t, alpha s / sigma, in [0, 1] or a little
            more where x_t lies between two peaks.
    """

    datum: Tensor
    noise: Tensor
    spread: Tensor

    def velocity(self, residual: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The velocity v = (alpha eps - sigma x_0) / r of x_0 = m + s F.

        Args:
            residual: F, shaped like x_t.
            alpha: signal scale, broadcast against x_t.
            sigma: noise scale, the same.
        """
        signal = torch.maximum(alpha, LEAST_SIGNAL * sigma)
        r = (alpha**2 + sigma**2).sqrt()
        mean = (alpha * self.noise - sigma * self.datum) / r
        return mean - self.spread * residual * ((alpha + sigma**2 / signal) / r)


class PixelLaw(nn.Module):
    """Histograms of levels, and what they make of noisy images.

    Args:
        shape: (C, H, W) of an image.
        num_levels: L, up to 4096.
    """

    probabilities: Tensor

    def __init__(self, shape: tuple[int, ...], num_levels: int) -> None:
        super().__init__()
        if not 2 <= num_levels <= MOST_LEVELS:
            raise ValueError(f"num_levels must be in 2..{MOST_LEVELS}, got {num_levels}")
        channels = shape[0]
        own = math.prod(shape) * num_levels <= MOST_NUMBERS
        kept = (*shape, num_levels) if own else (channels, 1, 1, num_levels)
        uniform = torch.full(kept, 1 / num_levels)
        self.shape, self.num_levels = tuple(shape), num_levels
        self.register_buffer("probabilities", uniform)

    @torch.no_grad()
    def fit(self, images: Images) -> None:
        """Count the levels of training images, (n, C, H, W), n >= 1."""
        levels, (channels, *_) = self.num_levels, self.shape
        own = self.probabilities.shape[1:3] == self.shape[1:]
        pixels = math.prod(self.shape)
        bins = (
            torch.arange(pixels)
            if own
            else torch.arange(channels).repeat_interleave(pixels // channels)
        )
        size = (pixels if own else channels) * levels
        counts, number = torch.zeros(size, dtype=torch.int64), min(len(images), IMAGES)
        for start in range(0, number, 1024):
            rows = torch.as_tensor(images[start : min(start + 1024, number)]).cpu().flatten(1)
            counts += torch.bincount((bins * levels + rows.long()).flatten(), minlength=size)
        each = counts.double().view(*self.probabilities.shape[:3], levels)
        shared = each.sum((1, 2), keepdim=True)
        shared = shared / shared.sum(3, keepdim=True)
        each = each + PSEUDO_COUNTS * shared
        law = (1 - FLOOR) * each / each.sum(3, keepdim=True) + FLOOR / levels
        self.probabilities.copy_(law)

    def forward(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Known:
        """What each pixel tells of itself, differentiable in x_t, once.

        Args:
            x_t: (B, C, H, W), on a device with float64.
            alpha: signal scale, () or (B,).
            sigma: noise scale, positive, () or (B,).
        """
        noise_scale = broadcast(sigma, x_t).double()
        signal = broadcast(alpha, x_t).double()
        signal = torch.maximum(signal, LEAST_SIGNAL * noise_scale)
        x = x_t.double()
        high = signal + BEYOND * noise_scale
        inside = torch.maximum(torch.minimum(x, high), -high)
        rows = torch.broadcast_to(signal, x[:, :1, :1, :1].shape).flatten()
        scales = torch.broadcast_to(noise_scale, x[:, :1, :1, :1].shape).flatten()
        minus_noise, spread = _Posterior.apply(  # type: ignore[no-untyped-call]
            inside.flatten(1), rows, scales, self._steps(x.device), self._pixels_a_step
        )
        minus_noise, spread = minus_noise.view(x.shape), spread.view(x.shape)
        noise = (x - inside) / noise_scale - minus_noise
        datum = (inside + noise_scale * minus_noise) / signal
        return Known(*(each.to(x_t.dtype) for each in (datum, noise, spread)))

    @property
    def _pixels_a_step(self) -> int:
        """Pixels that share one law."""
        return math.prod(self.shape) // self.probabilities[..., 0].numel()

    def _steps(self, device: torch.device) -> Tensor:
        """p_(k-1) - p_k at edge k, (laws, L + 1) float64; they sum to 0."""
        law = self.probabilities.to(device).double().flatten(0, 2)
        none = law.new_zeros(len(law), 1)
        return torch.cat((none, law), 1) - torch.cat((law, none), 1)


class _Posterior(torch.autograd.Function):
    """Mean and standard deviation of y given x, each a function of its own pixel alone.

    A tilted law's cumulants are each other's derivatives: with y in noises, dE/dx =
    (V - 1) / sigma and dV/dx = K / sigma for the third cumulant K.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, alpha: Tensor, sigma: Tensor, steps: Tensor, shared: int
    ) -> tuple[Tensor, Tensor]:
        """Two of (B, P), from x (B, P), alpha and sigma (B,) and steps (P / shared, L + 1)."""
        mean, spread, third = (torch.empty_like(x) for _ in range(3))
        for rows, pixels, laws in _blocks(x, steps, shared):
            given = x[rows, pixels], alpha[rows], sigma[rows], steps[laws]
            found = _cumulants(*given, third=ctx.needs_input_grad[0])  # type: ignore[attr-defined]
            for kept, new in zip((mean, spread, third), found, strict=False):
                kept[rows, pixels] = new
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            scale = sigma[:, None]
            ctx.save_for_backward((spread**2 - 1) / scale, third / (2 * spread * scale))
        return mean, spread

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, of_mean: Tensor, of_spread: Tensor
    ) -> tuple[Tensor, None, None, None, None]:
        """Each pixel's own slopes."""
        mean_slope, spread_slope = ctx.saved_tensors  # type: ignore[attr-defined]
        return of_mean * mean_slope + of_spread * spread_slope, None, None, None, None


def _blocks(x: Tensor, steps: Tensor, shared: int) -> Iterator[tuple[slice, slice, slice]]:
    """Rows, pixels and their laws, few enough at a time."""
    most = max(1, AT_ONCE[x.device.type] // steps.shape[1])
    pixels = x.shape[1]
    each = min(most, pixels if shared == 1 else shared)
    height = max(1, most // each)
    for start in range(0, pixels, shared if shared > 1 else each):
        end = min(start + (shared if shared > 1 else each), pixels)
        for low in range(start, end, each):
            columns = slice(low, min(low + each, end))
            laws = columns if shared == 1 else slice(low // shared, low // shared + 1)
            for row in range(0, len(x), height):
                yield slice(row, row + height), columns, laws


def _cumulants(
    x: Tensor, alpha: Tensor, sigma: Tensor, steps: Tensor, third: bool
) -> tuple[Tensor, ...]:
    """Mean, standard deviation and, if asked for, third cumulant of y, (b, p) each.

    Args:
        x: (b, p) float64.
        alpha: (b,).
        sigma: (b,).
        steps: of the law at its edges, (p, L + 1) or (1, L + 1).
        third: whether the third cumulant is asked for.
    """
    edges = torch.linspace(-1, 1, steps.shape[1], dtype=x.dtype, device=x.device)
    y = (alpha[:, None] * edges)[:, None] - x[:, :, None]
    y = y.div_(sigma[:, None, None]).clamp_(-CUT, CUT)
    density = y.square().mul_(-0.5).exp_().mul_((2 * math.pi) ** -0.5)
    m_0 = (y * 0.5**0.5).erf_().mul_(0.5).mul_(steps).sum(2)  # the steps' sum, 0, needs no 1/2
    terms = density.mul_(steps)
    m_1 = -terms.sum(2)
    terms = terms.mul_(y)
    m_2 = m_0 - terms.sum(2)
    mean, square = m_1 / m_0, m_2 / m_0
    spread = (square - mean**2).clamp(min=1e-12).sqrt()
    if not third:
        return mean, spread
    m_3 = 2 * m_1 - terms.mul_(y).sum(2)
    return mean, spread, m_3 / m_0 - 3 * mean * square + 2 * mean**3
