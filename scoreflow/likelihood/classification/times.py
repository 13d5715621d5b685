"""Times at which a bound tells classes apart: a law over log(1 + snr), by Gaussian classes.

The classes' bounds differ by 1/2 the integral of |x_0 error|^2 dsnr, one against the other. At
most times they do not: no class is known in pure noise, and none matters where x_0 is seen. For
Gaussian classes of one covariance, variances v along its axes, and means that lie Delta apart, the
best denoisers of two classes are g Delta apart at snr s, g = 1 / (1 + v s), and the posterior's
variance is v g; so the difference of their squared errors is, in mean square,

    |g Delta|^4 + 4 sum (g Delta)^2 v g,

whose root, times s, is drawn from (importance sampling), with a share of the uniform law beside
it. Whatever the law, the estimate is unbiased: it decides how much it scatters and nothing else.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scoreflow.sde.base import SDE

CELLS = 256
"""Of the law, which is constant in each."""
EVEN = 0.25
"""Share of the uniform law."""
MOST_IMAGES = 4096
"""Training images that the Gaussians are of, chosen by `some`."""
MOST_DIMS = 2048
"""Above so many dimensions pixels are taken for independent, as no D x D matrix is made."""


def some(count: int, most: int) -> Tensor:
    """Numbers of at most so many of `count` data, all as likely, ascending: (n,) int64.

    The same ones each time. Not the first, which may be of one class, nor each tenth, as may be.
    """
    if count <= most:
        return torch.arange(count)
    chosen = np.random.default_rng(0).choice(count, most, replace=False)
    return torch.from_numpy(np.sort(chosen))


@dataclass(frozen=True)
class TimeLaw:
    """A density of the clock c = log(1 + snr) between its values at N and at t_min.

    Of all processes the clock is finite at both ends, and dsnr = (1 + snr) dc.

    Attributes:
        sde: the process.
        t_min: least time, in steps.
        edges: of the cells, ascending, (G + 1,) float64.
        shares: of the cells, (G,), each above 0, summing to 1.
    """

    sde: SDE
    t_min: float
    edges: Tensor
    shares: Tensor

    def at(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Times of uniform numbers, and what |x_0 error|^2 counts there.

        Args:
            u: (B,) on [0, 1).

        Returns:
            Times in [t_min, N], (B,); and weights w, so that the mean of w |x_0 error|^2 over
            uniform u is J, nats, (B,).
        """
        upper = self.shares.cumsum(0).to(u.device)
        cell = torch.searchsorted(upper, u, right=True).clamp(max=len(self.shares) - 1)
        edges, shares = self.edges.to(u.device), self.shares.to(u.device)
        width, share = (edges[1:] - edges[:-1])[cell], shares[cell]
        inside = ((u - (upper[cell] - share)) / share).clamp(0, 1)
        clock = edges[cell] + width * inside
        log_snr = clock.expm1().log()
        t = self.sde.time_of_log_snr(log_snr).clamp(self.t_min, self.sde.num_steps)
        return t, 0.5 * clock.exp() * width / share


def even_law(sde: SDE, t_min: float) -> TimeLaw:
    """The uniform law of the clock."""
    ends = torch.tensor([t_min, float(sde.num_steps)], dtype=torch.float64)
    top, bottom = torch.logaddexp(sde.log_snr(ends), torch.zeros_like(ends)).tolist()
    edges = torch.linspace(bottom, top, CELLS + 1, dtype=torch.float64)
    return TimeLaw(sde, t_min, edges, torch.full((CELLS,), 1 / CELLS, dtype=torch.float64))


def law_of_classes(sde: SDE, t_min: float, x_0: Tensor, labels: Tensor) -> TimeLaw:
    """The law for classes that are taken for Gaussians of one covariance.

    Args:
        sde: the process.
        t_min: least time, in steps.
        x_0: training points, (n, ...) float64.
        labels: the class of each, (n,); two classes or more.
    """
    between, within = _spreads(x_0.flatten(1), labels)
    law = even_law(sde, t_min)
    snr = (0.5 * (law.edges[1:] + law.edges[:-1])).expm1()[:, None]
    gain = 1 / (1 + within * snr)
    apart = (gain**2 * between).sum(1)
    crossed = (gain**3 * between * within).sum(1)
    shape = (1 + snr[:, 0]) * (apart**2 + 4 * crossed).sqrt()
    total = shape.sum()
    if not bool(total > 0):  # classes of one mean: nothing says where they part
        return law
    shares = EVEN / CELLS + (1 - EVEN) * shape / total
    return TimeLaw(sde, t_min, law.edges, shares / shares.sum())


def _spreads(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared distance of two classes' means, and variance within, by axis: (D,) each."""
    x, labels = x.cpu(), labels.cpu()
    _, index, counts = labels.unique(return_inverse=True, return_counts=True)
    means = x.new_zeros(len(counts), x.shape[1]).index_add_(0, index, x) / counts[:, None]
    inside, centred = x - means[index], means - means.mean(0)
    pairs = 2 / max(1, len(counts) - 1)  # E |m_k - m_l|^2 of two that are not the same
    if x.shape[1] > MOST_DIMS:
        return pairs * centred.square().sum(0), inside.square().mean(0)
    within, axes = torch.linalg.eigh(inside.T @ inside / len(x))
    return pairs * (centred @ axes).square().sum(0), within.clamp(min=0)
