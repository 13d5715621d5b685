"""Samples of q sent as an index into shared candidates from p: Poisson functional representation.

Sender and receiver draw the same z_1, z_2, ... from p. The sender alone has the points tau_1 <
tau_2 < ... of a Poisson process beside them, and sends the index of the least

    tau_i / w(z_i)        w = q / p

whose z is a sample of q exactly (Li & El Gamal 2018). With D = KL(q || p) in bits,
E log2(index) <= D + log2(e) / e + 1, and a Zipf law codes the index in at most
D + log2(D + 1) + 4 bits on average. That is why parts of few bits are dear, and why an image's are
not sent element by element. The search ends where tau_i / B exceeds the least so far, with B >= w:
after B candidates on average, whatever the algorithm.

Of d normals each, with q = N(m_q, v_q) narrower than p = N(m_p, v_p),

    log w(n) = sum 1/2 log rho + n^2 / 2 - (sqrt(rho) n - e)^2 / 2         z = m_p + sqrt(v_p) n
    rho = v_p / v_q >= 1        e = (m_q - m_p) / sqrt(v_q)

is at most sum 1/2 log rho + e^2 / (2 (rho - 1)). Where q was made by a model that expects
e^2 = rho - 1 this is half a nat an element above D: no bound for hundreds of elements that have a
hundredth of a nat each. So B is the least of that and of the point which log w exceeds under q
with probability `BEYOND`, by its mean D and its variance sum (1 - 1 / rho)^2 / 2 + (e / rho)^2;
what exceeds it is never chosen. Where the bound is the least the sample is exact, and else it is
one of q without that share.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scoreflow.sde.noise import Noise, Stream

BEYOND = 0.01
"""Probability under q of what is never chosen, where w has no bound that a search can reach."""
DEVIATIONS = 2.3263478740408408
"""Of a normal, which it exceeds with that probability."""
MOST = 2**22
"""Candidates that are looked at before the best of them is taken."""
AT_ONCE = 2**21
"""Elements of candidates that are drawn at once, at the most."""
FIRST = 256
"""Candidates of the first look."""

Candidates = Callable[[int, int], Tensor]
"""First and last + 1 -> standard normals of these candidates, (m, d)."""


@dataclass(frozen=True)
class Pair:
    """The laws q and p of n images' elements.

    Attributes:
        ratio: rho = v_p / v_q >= 1, (n, d) float64.
        shift: e = (m_q - m_p) / sqrt(v_q), (n, d).
    """

    ratio: Tensor
    shift: Tensor

    @classmethod
    def of(cls, mean: Tensor, std: Tensor, other: Tensor, other_std: float) -> "Pair":
        """Of p = N(mean, std^2) and q = N(other, other_std^2), flat: (n, d)."""
        ratio = (std / other_std) ** 2
        return cls(ratio.clamp(min=1), (other - mean) / other_std)  # below it by rounding

    def rows(self, rows: Tensor, elements: Tensor | slice = slice(None)) -> "Pair":
        """Some of the images, and of their elements."""
        return Pair(self.ratio[rows][:, elements], self.shift[rows][:, elements])

    def divergence(self) -> Tensor:
        """KL(q || p) of each element, nats, (n, d)."""
        return 0.5 * (self.ratio.log() + (1 + self.shift**2) / self.ratio - 1)

    def most_log_weight(self) -> Tensor:
        """Log B of each image, (n,): see the module."""
        variance = 0.5 * (1 - 1 / self.ratio) ** 2 + (self.shift / self.ratio) ** 2
        likely = self.divergence().sum(1) + DEVIATIONS * variance.sum(1).sqrt()
        # where v_p = v_q the ratio has no bound unless the means are one
        above = torch.where(self.shift == 0, 0.0, self.shift**2 / (2 * (self.ratio - 1)))
        bound = (0.5 * self.ratio.log() + above).sum(1)
        return torch.minimum(likely, bound) + 1e-9  # of rounding


@dataclass(frozen=True)
class Chosen:
    """The candidates that are sent.

    Attributes:
        index: from 0, (n,) int64.
        seen: how many were looked at.
        cut: images whose search ended at `MOST`, at the best until then.
    """

    index: Tensor
    seen: int
    cut: int


def choose(pair: Pair, candidates: Candidates, gaps: Candidates, most: int = MOST) -> Chosen:
    """A sample of q for each image, as the index of a candidate from p.

    All images have the same candidates: each one's sample has its own law, and those of two are
    not independent.

    Args:
        pair: the laws.
        candidates: standard normals n, (m, d), which stand for m_p + sqrt(v_p) n.
        gaps: tau_i - tau_(i-1), exponential of mean 1, (m,).
        most: candidates at the most.
    """
    count, dims = pair.ratio.shape
    least, index = torch.full((count,), math.inf, dtype=torch.float64), torch.zeros(count).long()
    limit, search = pair.most_log_weight(), _Weights.of(pair)
    time, start, open_ = 0.0, 0, torch.arange(count)
    size = FIRST
    while len(open_) and start < most:
        stop = min(start + size, most)
        arrivals = time + gaps(start, stop).cumsum(0)
        log_w = search.at(candidates(start, stop), open_)
        cost = arrivals.log()[:, None] - log_w.masked_fill_(log_w > limit[open_], -math.inf)
        found = cost.min(0)
        better = found.values < least[open_]
        index[open_[better]] = start + found.indices[better]
        least[open_[better]] = found.values[better]
        time, start = float(arrivals[-1]), stop
        open_ = open_[math.log(time) - limit[open_] < least[open_]]
        size = min(2 * size, max(FIRST, AT_ONCE // max(dims, count)))
    return Chosen(index, start, len(open_))


@dataclass(frozen=True)
class _Weights:
    """log w(n) = constant + linear n + square n^2."""

    constant: Tensor
    linear: Tensor
    square: Tensor

    @classmethod
    def of(cls, pair: Pair) -> "_Weights":
        constant = (0.5 * (pair.ratio.log() - pair.shift**2)).sum(1)
        return cls(constant, pair.ratio.sqrt() * pair.shift, 0.5 * (1 - pair.ratio))

    def at(self, normals: Tensor, rows: Tensor) -> Tensor:
        """Of m candidates (m, d) and some of the images: (m, images)."""
        linear = torch.addmm(self.constant[rows], normals, self.linear[rows].T)
        return linear.addmm_(normals**2, self.square[rows].T)


# ---- shared candidates --------------------------------------------------------------------------


@dataclass(frozen=True)
class Shared:
    """The candidates of a layer, addressed: any of them can be drawn alone.

    Attributes:
        seed: of the file.
        layer: which sample of an image's states it is for, in [0, 2**24).
    """

    seed: int
    layer: int

    def candidates(self, first: int, dims: int) -> Candidates:
        """Of the elements first..first + dims - 1."""

        def drawn(start: int, stop: int) -> Tensor:
            noise = Noise.of(self.seed, start, stop).at(first)
            return noise.normal(Stream.PREDICTOR, (dims,), self.layer)

        return drawn

    def gaps(self, first: int) -> Candidates:
        """The sender's gaps beside them."""

        def drawn(start: int, stop: int) -> Tensor:
            noise = Noise.of(self.seed, start, stop).at(first)
            return -torch.log1p(-noise.uniform(Stream.MEASUREMENT, (), self.layer))

        return drawn

    def at(self, index: Tensor, first: int, dims: int) -> Tensor:
        """The normals of candidates of any index (n,), the same bits as among others: (n, d)."""
        noise = Noise(self.seed, index, first)
        return noise.normal(Stream.PREDICTOR, (dims,), self.layer)
