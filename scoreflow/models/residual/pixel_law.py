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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from scoreflow.data.stored.images import Images
from scoreflow.errors import RequestError
from scoreflow.sde.base import broadcast

INPUTS = 4
"""A network's input is x_t, m, the noise and its spread: so many channels for one."""
MOST_NUMBERS = 1 << 20
"""Probabilities up to which each pixel has its own; else those of a channel share them."""
MOST_LEVELS = 4096
"""More are as good as real numbers, and would take hours."""
IMAGES = 1 << 16
"""Training images that are counted, at the most."""
NUMBERS_AT_ONCE = 1 << 22
"""Of images that are counted."""
PSEUDO_COUNTS = 64.0
"""Images of the channel's law that a pixel's own counts are mixed with: its prior."""
FLOOR = 1e-4
"""Share of the uniform law in each: no level is impossible."""
BEYOND = 4.0
"""Noises outside all data up to which a pixel is taken as it is; further it tells nothing more."""
CUT = 12.0
"""Noises from x_t beyond which nothing is: exp(-72) of a density. Far exponentials are slow."""
FINE = 0.03
"""alpha / sigma times a bin's width, below which a bin is a point but for its variance."""
LEAST_VARIANCE = 1e-12
"""Of y: where rounding leaves less, the rest is not told in units of 0."""
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
        shape: (C, H, W) of an image, or (D,) of a vector of levels.
        num_levels: L, up to 4096.
    """

    probabilities: Tensor

    def __init__(self, shape: tuple[int, ...], num_levels: int) -> None:
        super().__init__()
        if not 1 <= num_levels <= MOST_LEVELS:
            raise ValueError(f"num_levels must be in 1..{MOST_LEVELS}, got {num_levels}")
        own = math.prod(shape) * num_levels <= MOST_NUMBERS
        kept = (*(shape if own else (shape[0], *(1 for _ in shape[1:]))), num_levels)
        uniform = torch.full(kept, 1 / num_levels)
        self.shape, self.num_levels = tuple(shape), num_levels
        self.register_buffer("probabilities", uniform)

    @torch.no_grad()
    def fit(self, images: Images, flip: bool = False) -> None:
        """Count the levels of training images.

        Args:
            images: (n, ...) in 0..L-1, n >= 1; of more than `IMAGES`, so many from all over them.
            flip: whether they are seen mirrored, left to right, as often as not.

        Raises:
            RequestError: they are of another shape, none, or have other levels.
        """
        self._refuse_shape("training images", tuple(images.shape))
        levels, laws = self.num_levels, self.probabilities[..., 0].numel()
        law_of_pixel = torch.arange(laws).repeat_interleave(self._pixels_a_law)
        counts = torch.zeros(laws * levels, dtype=torch.int64)
        some = torch.linspace(0, len(images) - 1, min(len(images), IMAGES)).round().long()
        for index in some.split(max(1, NUMBERS_AT_ONCE // math.prod(self.shape))):
            rows = torch.as_tensor(images[index]).cpu().flatten(1).long()
            if int(rows.min()) < 0 or int(rows.max()) >= levels:
                raise RequestError(
                    f"training images must have levels in 0..{levels - 1}, got "
                    f"{int(rows.min())}..{int(rows.max())}"
                )
            bins = (law_of_pixel * levels + rows).flatten()
            counts += torch.bincount(bins, minlength=len(counts))
        each = counts.double().view(self.probabilities.shape)
        if flip:
            each = (each + each.flip(-2)) / 2
        each = each.view(self.shape[0], -1, levels)
        shared = each.sum(1, keepdim=True)
        each = each + PSEUDO_COUNTS * shared / shared.sum(2, keepdim=True)
        law = (1 - FLOOR) * each / each.sum(2, keepdim=True) + FLOOR / levels
        self.probabilities.copy_(law.view(self.probabilities.shape))

    def _refuse_shape(self, what: str, shape: tuple[int, ...]) -> None:
        if shape[1:] != self.shape or shape[0] == 0:
            wanted = ", ".join(map(str, self.shape))
            raise RequestError(
                f"{what} must be (n, {wanted}), n >= 1, as the network's pixels are, got {shape}"
            )

    def forward(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Known:
        """What each pixel tells of itself, differentiable in x_t, once.

        Args:
            x_t: (B, ...), on a device with float64.
            alpha: signal scale, () or (B,).
            sigma: noise scale, positive, () or (B,).

        Raises:
            RequestError: x_t is of another shape.
        """
        if x_t.shape[1:] != self.shape:  # broadcast, it would be wrong without a word
            self._refuse_shape("x_t", (max(len(x_t), 1), *x_t.shape[1:]))
        noise_scale = broadcast(sigma, x_t).double()
        signal = broadcast(alpha, x_t).double()
        signal = torch.maximum(signal, LEAST_SIGNAL * noise_scale)
        x = x_t.double()
        high = signal + BEYOND * noise_scale
        inside = torch.maximum(torch.minimum(x, high), -high)
        of_rows = (each.reshape(-1).expand(len(x)) for each in (signal, noise_scale))
        law = self.probabilities.to(x.device).double().flatten(0, -2)
        minus_noise, spread = _Posterior.apply(  # type: ignore[no-untyped-call]
            inside.flatten(1), *of_rows, law, self._pixels_a_law
        )
        minus_noise, spread = minus_noise.view(x.shape), spread.view(x.shape)
        noise = (x - inside) / noise_scale - minus_noise
        datum = (inside + noise_scale * minus_noise) / signal
        return Known(*(each.to(x_t.dtype) for each in (datum, noise, spread)))

    @property
    def _pixels_a_law(self) -> int:
        """Pixels that share one law."""
        return math.prod(self.shape) // self.probabilities[..., 0].numel()


class _Posterior(torch.autograd.Function):
    """Mean and standard deviation of y given x, each a function of its own pixel alone.

    A tilted law's cumulants are each other's derivatives: with y in noises, dE/dx =
    (V - 1) / sigma and dV/dx = K / sigma for the third cumulant K.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, alpha: Tensor, sigma: Tensor, law: Tensor, shared: int
    ) -> tuple[Tensor, Tensor]:
        """Two of (B, P), from x (B, P), alpha and sigma (B,) and the laws (P / shared, L)."""
        third = ctx.needs_input_grad[0]  # type: ignore[attr-defined]
        if x.device.type == "cpu":
            found = x.new_empty(2 + third, *x.shape)
            for rows, cumulants in _ways(alpha / sigma, law.shape[1]):
                given = x[rows], alpha[rows], sigma[rows]
                found[:, rows] = _in_blocks(cumulants, *given, law, shared, third)
        else:  # which rows are which is not known without waiting for the device
            fine = alpha * (2 / law.shape[1]) < FINE * sigma
            both = _cumulants_of_edges, _cumulants_of_points
            edges, points = (
                _in_blocks(each, x, alpha, sigma, law, shared, third) for each in both
            )
            found = torch.where(fine[:, None], points, edges)
        mean, spread = found[0], found[1]
        if third:
            scale = sigma[:, None]
            ctx.save_for_backward((spread**2 - 1) / scale, found[2] / (2 * spread * scale))
        return mean, spread

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, of_mean: Tensor, of_spread: Tensor
    ) -> tuple[Tensor, None, None, None, None]:
        """Each pixel's own slopes."""
        mean_slope, spread_slope = ctx.saved_tensors  # type: ignore[attr-defined]
        return of_mean * mean_slope + of_spread * spread_slope, None, None, None, None


Cumulants = Callable[[Tensor, Tensor, Tensor, Tensor, bool], Tensor]
"""(x (b, p), alpha (b,), sigma (b,), laws (p, L) or (1, L), whether the third is asked for) ->
mean, standard deviation and third cumulant of y: (2 or 3, b, p)."""


def _in_blocks(
    cumulants: Cumulants,
    x: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    law: Tensor,
    shared: int,
    third: bool,
) -> Tensor:
    """The cumulants of all pixels, few enough at a time."""
    found = x.new_empty(2 + third, *x.shape)
    at_once = AT_ONCE["cpu" if x.device.type == "cpu" else "cuda"]
    for rows, pixels, laws in _blocks(x.shape, law.shape[1] + 1, shared, at_once):
        given = x[rows, pixels], alpha[rows], sigma[rows], law[laws]
        found[:, rows, pixels] = cumulants(*given, third)
    return found


def _blocks(
    shape: Sequence[int], edges: int, shared: int, at_once: int
) -> Iterator[tuple[slice, slice, slice]]:
    """Rows, pixels and their laws."""
    count, pixels = shape
    group = shared if shared > 1 else pixels
    width = min(max(1, at_once // edges), group)
    height = max(1, at_once // edges // width)
    for start in range(0, pixels, group):
        for low in range(start, start + group, width):
            columns = slice(low, min(low + width, start + group))
            laws = columns if shared == 1 else slice(low // shared, low // shared + 1)
            for row in range(0, count, height):
                yield slice(row, row + height), columns, laws


def _ways(ratios: Tensor, levels: int) -> Iterator[tuple[Tensor, Cumulants]]:
    """Rows, and how their cumulants are found, each by its own ratio alpha / sigma alone.

    The edges within `CUT` noises of x_t are so many to either side, rounded up to a power of two.
    """
    width = 2 / levels
    reach = torch.exp2((CUT / (width * ratios) + 1).log2().ceil())
    kind = torch.where(4 * reach < levels, reach, 0.0)
    kind = torch.where(ratios * width < FINE, -1.0, kind)
    for each in kind.unique().tolist():
        way: Cumulants = _cumulants_of_edges
        if each < 0:
            way = _cumulants_of_points
        elif each > 0:
            way = partial(_cumulants_of_window, reach=int(each))
        yield (kind == each).nonzero()[:, 0], way


def _cumulants_of_edges(
    x: Tensor, alpha: Tensor, sigma: Tensor, law: Tensor, third: bool
) -> Tensor:
    """By the primitives of a normal's moments at all edges."""
    none = law.new_zeros(len(law), 1)
    steps = torch.cat((none, law), 1) - torch.cat((law, none), 1)  # p_(k-1) - p_k
    edges = torch.linspace(-1, 1, law.shape[1] + 1, dtype=x.dtype, device=x.device)
    y = (alpha[:, None] * edges)[:, None] - x[:, :, None]
    y = y.div_(sigma[:, None, None]).clamp_(-CUT, CUT)
    return _summed(y, steps, none[0], third)  # the steps add up to 0


def _cumulants_of_window(
    x: Tensor, alpha: Tensor, sigma: Tensor, law: Tensor, third: bool, reach: int
) -> Tensor:
    """The same at the edges within reach; further away a primitive is half the steps there."""
    width = 2 / law.shape[1]
    places = ((x / alpha[:, None] + 1) / width).floor_().nan_to_num_(0.0)  # of nan, nan follows
    first = places.long()[:, :, None] - reach
    near = _window(law, first, 2 * reach + 2)
    steps = near[:, :, :-1] - near[:, :, 1:]
    edges = -1 + width * (first + torch.arange(2 * reach + 2)).to(x.dtype)
    y = alpha[:, None, None] * edges - x[:, :, None]
    y = y.div_(sigma[:, None, None])
    return _summed(y, steps, 0.5 * (near[:, :, 0] + near[:, :, -1]), third)


def _summed(y: Tensor, steps: Tensor, outside: Tensor, third: bool) -> Tensor:
    """Cumulants from edges y (b, p, E), the steps there, and what steps elsewhere add to m_0."""
    density = y.square().mul_(-0.5).exp_().mul_((2 * math.pi) ** -0.5)
    m_0 = (y * 0.5**0.5).erf_().mul_(0.5).mul_(steps).sum(2).add_(outside)
    terms = density.mul_(steps)
    m_1 = -terms.sum(2)
    terms = terms.mul_(y)
    m_2 = m_0 - terms.sum(2)
    mean, square = m_1 / m_0, m_2 / m_0
    spread = (square - mean**2).clamp(min=LEAST_VARIANCE).sqrt()
    if not third:
        return torch.stack((mean, spread))
    m_3 = 2 * m_1 - terms.mul_(y).sum(2)
    return torch.stack((mean, spread, m_3 / m_0 - 3 * mean * square + 2 * mean**3))


def _window(law: Tensor, first: Tensor, count: int) -> Tensor:
    """Probabilities of the bins between so many edges and of both beside; 0 outside all data.

    Args:
        law: (p, L) or (1, L).
        first: the first edge, (b, p, 1), at most `count` before 0 or after L.
        count: of edges.

    Returns:
        (b, p, count + 1).
    """
    padded = F.pad(law, (2 * count, 2 * count)).expand(*first.shape[:2], -1)
    return padded.gather(2, first + torch.arange(2 * count - 1, 3 * count))


def _cumulants_of_points(
    x: Tensor, alpha: Tensor, sigma: Tensor, law: Tensor, third: bool
) -> Tensor:
    """By the bins' centres: where they are narrow, primitives at their edges are nearly equal.

    In units of the noise a bin has the variance v = h^2 / 3, of half its width h. The normal's
    mean over it is, to O(h^4), the value at its centre of a normal of precision a = 1 - v; what is
    left of the bin has the mean a z + v x_t / sigma, z = alpha x_0 / sigma. Its other cumulants
    are those of a uniform law under exp(-y u - u^2 / 2): the variance v - (0.4 + 0.6 y^2) v^2 and
    the third 1.2 y v^2.
    """
    levels = law.shape[1]
    centres = (2 * torch.arange(levels, dtype=x.dtype, device=x.device) + 1) / levels - 1
    ratio = (alpha / sigma)[:, None]
    within = (ratio / levels) ** 2 / 3  # v, (b, 1)
    precision, seen = 1 - within, x / sigma[:, None]
    z = (ratio * centres)[:, None]
    weights = (precision * seen)[:, :, None] * z
    weights = weights.sub_((0.5 * precision)[:, :, None] * z**2).exp_().mul_(law)
    whole = weights.sum(2)
    middle = (weights * z).sum(2) / whole
    away = z - middle[:, :, None]
    terms = weights.mul_(away).mul_(away)
    mean = precision * (middle - seen)
    between = precision**2 * terms.sum(2) / whole
    left = within - within**2 * (0.4 + 0.6 * (between + mean**2))
    spread = (between + left).sqrt()
    if not third:
        return torch.stack((mean, spread))
    skewed = precision**3 * terms.mul_(away).sum(2) / whole + 1.2 * within**2 * mean
    return torch.stack((mean, spread, skewed))
