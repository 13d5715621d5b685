"""What is left unknown of x_0 by a denoiser, element by element: the spread of a coder's laws.

A reverse step with the variance p = q + c^2 u is the better the nearer u is to the mean square
error of that very element (`samplers.reverse_variance`). An `ErrorLaw` tells u from what encoder
and decoder both have, x_t and the estimate: elements are sorted into buckets, and u of a bucket is
the mean square error there of training images. Buckets are

    step        one: the optimal variance as the ledger has it
    pixel       one a position
    estimate    by the estimate of x_0: what is taken for background is so, mostly

(By the deviation that a network with prediction = residual knows of each pixel, s(x_t), MNIST
cost 1.161 bits/dim in 20 steps where it cost 1.098 by the estimate, and 1.100 by both: no bucket
asks for it.)

Errors are measured in one pass at M times even in log-SNR, which are then the times that a chain
may visit. Level costs are fitted in the same pass: of x_0 alone, given x_t, what N(estimate, u)
gives to the bin of its level, with u chosen to make that likeliest.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from scoreflow.sde.analytic import log_normal_mass
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import Denoiser

Kind = Literal["step", "pixel", "estimate"]
KINDS: tuple[Kind, ...] = get_args(Kind)

FIT = 5 << 24
"""First noise step of the pass; those of the ledger and of the error table lie below."""
SIDE = 12
"""Buckets of the estimate to either side of 0."""
PSEUDO = 16.0
"""Elements of the law of the whole step that each bucket's own are mixed with."""
STRANGE = 2.0**-24
"""Probability of a level, at the least: none is impossible."""
DEVIATIONS = tuple(2.0 ** (0.5 * k) for k in range(-24, 3))
"""Of the law of a level, tried on training images."""
LEAST = 2.0**-40
"""Mean square error, at the least: what float32 tells of numbers near 1."""
FINE = 32
"""A mean square error is kept as a whole number of so many parts of an octave."""
REACH = 0.25, 16.0
"""Bins of noise, at the least and at the most, at which a chain goes over to levels."""


def buckets(kind: Kind, event: tuple[int, ...]) -> int:
    """How many buckets a kind has for data of a shape."""
    match kind:
        case "step":
            return 1
        case "pixel":
            return math.prod(event)
        case "estimate":
            return 2 * SIDE


def bucket_of(kind: Kind, x_0: Tensor) -> Tensor:
    """The bucket of each element, int64 shaped like the estimate.

    By the estimate they are even in the logarithm of the distance from the nearer end, from 1/256
    to 1.

    Args:
        kind: of buckets.
        x_0: the estimate, in [-1, 1], (B, ...).
    """
    match kind:
        case "step":
            return torch.zeros_like(x_0, dtype=torch.int64)
        case "pixel":
            places = torch.arange(x_0[0].numel(), device=x_0.device)
            return places.view(1, *x_0.shape[1:]).expand(x_0.shape)
        case "estimate":
            away = (1 - x_0.abs()).clamp(min=LEAST)
            place = ((1 + away.log2() / 8) * SIDE).floor().clamp(0, SIDE - 1).long()
            return torch.where(x_0 < 0, place, 2 * SIDE - 1 - place)


@dataclass(frozen=True)
class ErrorLaw:
    """Mean square errors of x_0 by time and bucket, as whole numbers, so that they have a hash.

    Attributes:
        kind: of buckets.
        times: M whole times, rising.
        squares: `FINE` log2 u, (M, buckets) int16.
        of_levels: the same of the u under which levels are likeliest.
    """

    kind: Kind
    times: tuple[int, ...]
    squares: Tensor
    of_levels: Tensor

    def of(self, t: int, x_0: Tensor, levels: bool = False) -> Tensor:
        """The mean square error of each element at a time of the table, float64 like x_0.

        Args:
            t: the time.
            x_0: the estimate there, in [-1, 1], (B, ...).
            levels: whether it is that of the levels' law.
        """
        table = (self.of_levels if levels else self.squares)[self.times.index(t)]
        return value_of(table.to(x_0.device))[bucket_of(self.kind, x_0)]

    def at(self, times: tuple[int, ...]) -> "ErrorLaw":
        """The same at some of its times."""
        rows = [self.times.index(t) for t in times]
        return ErrorLaw(self.kind, times, self.squares[rows], self.of_levels[rows])


def value_of(code: Tensor) -> Tensor:
    """The mean square error that is kept as a whole number, float64."""
    return torch.exp2(code.double() / FINE)


def _code_of(value: Tensor) -> Tensor:
    return (value.clamp(min=LEAST).log2() * FINE).round().to(torch.int16)


def level_nats(mean: Tensor, std: Tensor, levels: Tensor, num_levels: int) -> Tensor:
    """-log of the probability of levels, shaped like them.

    A normal's shares of the bins, the outermost open to infinity (`losses.decoder`), as a coder of
    24 bits has them: each is 2^-24 at the least, which the others make room for.

    Args:
        mean: float64, finite.
        std: positive, shaped like it or ().
        levels: 0..L-1.
        num_levels: L.
    """
    k = levels.to(mean.dtype)
    low = torch.where(k == 0, -math.inf, 2 * k / num_levels - 1)
    high = torch.where(k == num_levels - 1, math.inf, 2 * (k + 1) / num_levels - 1)
    own = log_normal_mass((low - mean) / std, (high - mean) / std).exp()
    return -((1 - num_levels * STRANGE) * own + STRANGE).log()


@dataclass(frozen=True)
class Tally:
    """Sums over images at every time, by buckets of one kind.

    Attributes:
        kind: of buckets.
        counts: elements, (M, buckets).
        squares: sums of the squared errors of x_0, the same.
        nats: sums of the levels' nats under each of `DEVIATIONS`, (M, F, buckets); inf at times
            where none were asked for.
    """

    kind: Kind
    counts: Tensor
    squares: Tensor
    nats: Tensor

    @classmethod
    def empty(cls, kind: Kind, times: int, event: tuple[int, ...]) -> "Tally":
        """Of no image."""
        n = buckets(kind, event)
        zeros = torch.zeros(2, times, n, dtype=torch.float64)
        nats = torch.full((times, len(DEVIATIONS), n), math.inf, dtype=torch.float64)
        return cls(kind, zeros[0], zeros[1], nats)

    def __add__(self, other: "Tally") -> "Tally":
        """Of the images of both."""
        sums = (self.counts + other.counts, self.squares + other.squares, self.nats + other.nats)
        return Tally(self.kind, *sums)

    def add(self, k: int, x_0: Tensor, squares: Tensor) -> Tensor:
        """Count errors at the k-th time; returns the buckets, flat."""
        at = bucket_of(self.kind, x_0).flatten().cpu()
        self.counts[k] += torch.bincount(at, minlength=self.counts.shape[1])
        self.squares[k].index_add_(0, at, squares.flatten().cpu())
        return at

    def law(self, times: tuple[int, ...]) -> ErrorLaw:
        """The law that these images give; a bucket of few elements is like the whole step."""
        whole = self.squares.sum(1, keepdim=True) / self.counts.sum(1, keepdim=True)
        mean = (self.squares + PSEUDO * whole) / (self.counts + PSEUDO)
        shared = self.nats.sum(2, keepdim=True) / self.counts.sum(1)[:, None, None]
        best = (self.nats + PSEUDO * shared).argmin(1)
        of_levels = mean.new_tensor(DEVIATIONS)[best] ** 2
        return ErrorLaw(self.kind, times, _code_of(mean), _code_of(of_levels))

    def costs(self, law: ErrorLaw, sde: SDE) -> Tensor:
        """Nats a dimension that these images cost by a step under a law: (M + 1, M + 1).

        Row and column 0 are the data, row j + 1 and column j + 1 the j-th time; inf where the
        column's is not the earlier one. Under p = q + c^2 u a step's KL to s > 0 is
        1/2 (log(p / q) + (q + c^2 error^2) / p - 1), with c^2 / q = snr_s - snr_t.
        """
        count = len(law.times)
        costs = torch.full((count + 1, count + 1), math.inf, dtype=torch.float64)
        snr = sde.log_snr(torch.tensor(law.times, dtype=torch.float64)).exp()
        shares = self.counts / self.counts.sum(1, keepdim=True)
        error = self.squares / self.counts.clamp(min=1)
        kept = value_of(law.squares)
        for j in range(1, count):
            gained = (snr[:j] - snr[j])[:, None]
            p, truth = 1 + gained * kept[j], 1 + gained * error[j]
            costs[j + 1, 1 : j + 1] = (0.5 * (p.log() + truth / p - 1) * shares[j]).sum(1)
        of_row = value_of(law.of_levels).sqrt().log2().mul(2).round().long() - _first_deviation()
        chosen = self.nats.gather(1, of_row[:, None])[:, 0].sum(1)
        costs[1:, 0] = chosen / self.counts.sum(1)
        return costs


def _first_deviation() -> int:
    return round(2 * math.log2(DEVIATIONS[0]))


Measured = dict[Kind, Tally]
"""Of the same images, by every kind of bucket."""


@torch.no_grad()
def measure(
    denoiser: Denoiser,
    sde: SDE,
    times: tuple[int, ...],
    x_0: Tensor,
    levels: Tensor,
    num_levels: int,
    kinds: tuple[Kind, ...],
    noise: Noise,
    on_call: Callable[[], None] = lambda: None,
) -> Measured:
    """Errors of a batch of training images, by every kind of bucket.

    Args:
        denoiser: evaluated once at each time.
        sde: the process.
        times: rising, whole, 1..N.
        x_0: the points, (B, ...) float64.
        levels: what they are points of, shaped like them.
        num_levels: L.
        kinds: those asked for.
        noise: of the images; its steps from `FIT` on are used.
        on_call: called after each evaluation.
    """
    event = tuple(x_0.shape[1:])
    found = {kind: Tally.empty(kind, len(times), event) for kind in kinds}
    for k, whole in enumerate(times):
        t = torch.tensor(float(whole), dtype=torch.float64)
        x_t = sde.perturb(x_0, t, noise.at(FIT + k).normal(Stream.TRAIN_EPS, event))
        estimate = denoiser(x_t, t).x_0.clamp(-1, 1)
        on_call()
        squares = (estimate - x_0).square()
        at = {kind: each.add(k, estimate, squares) for kind, each in found.items()}
        if _in_reach(sde, t, num_levels):
            _count_levels(found, at, k, estimate, levels, num_levels)
    return found


def _in_reach(sde: SDE, t: Tensor, num_levels: int) -> bool:
    bins = float((-0.5 * sde.log_snr(t)).exp()) * num_levels / 2
    return REACH[0] <= bins <= REACH[1]


def _count_levels(
    found: Measured,
    at: dict[Kind, Tensor],
    k: int,
    estimate: Tensor,
    levels: Tensor,
    num_levels: int,
) -> None:
    """Add what the levels cost under every deviation."""
    for each in found.values():
        each.nats[k] = 0
    for row, deviation in enumerate(DEVIATIONS):
        std = torch.tensor(deviation, dtype=torch.float64)
        nats = level_nats(estimate, std, levels, num_levels).flatten().cpu()
        for kind, each in found.items():
            each.nats[k, row].index_add_(0, at[kind], nats)
