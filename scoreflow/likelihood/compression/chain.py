"""A chain of K steps between an image's levels and noise: the laws that its coder codes by.

    0 = t_0 < t_1 < ... < t_K = N           whole times
    z_0     a point of the bins of the levels x, uniform
    z_k     given z_(k-1)   N(slope_k z_(k-1), std_k^2)         no network: `Chain.forward`
    z_(k-1) given z_k       N(mean(z_k), p_k)       k >= 2       `Chain.reverse`
    x       given z_1       what N(estimate, u) gives to the levels' bins: `Chain.datum`
    z_K                     N(0, r^2): `Chain.prior_std`

The reverse mean is the posterior's at the network's x_0 within [-1, 1], and p_k = q_k + c_k^2 u
the posterior's own variance and what its mean moves with the x_0 that is not known, of each
element (`error_law`). The place of z_0 within its bin is as likely anywhere, before and after: it
is drawn and given back at the same price. So the bits that an image needs are at the least

    E [log q(z_1 .. z_K | z_0) - log p(z_1 .. z_K) P(x | z_1)],         over z_0 and the noise

the discrete bound of this chain (`losses.variational`) with a decoder in the place of a density:
KLs between normals, and the nats of the levels. A network that was trained on points spread over
the bins makes a poor decoder at t = 1, where sigma is far smaller than a bin: z_1 then tells the
place within it as well, which nobody asked for (`losses.decoder`). At the t_1 that costs least
sigma is about a bin, and it does not.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scoreflow.data.levels import dequantize
from scoreflow.likelihood.compression.error_law import (
    ErrorLaw,
    Kind,
    Measured,
    level_nats,
)
from scoreflow.losses.variational import prior_term
from scoreflow.samplers.grids.optimal_time_grid import grid_cost, least_cost
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import Denoiser

DRAWS = 6 << 24
"""First noise step of the bound's draws; those of the fit lie below."""


@dataclass(frozen=True)
class Normal:
    """Independent normals.

    Attributes:
        mean: (B, ...) float64.
        std: positive, shaped like it.
    """

    mean: Tensor
    std: Tensor


@dataclass(frozen=True)
class Chain:
    """See above. Its laws are functions of their arguments alone, the same on both sides.

    Attributes:
        denoiser: the network; evaluated once for each of `reverse` and `datum`.
        sde: the process, with signal at N.
        law: the errors, which know every time but 0.
        times: 0 = t_0 < ... < t_K = N.
        event: the shape of an image, (C, H, W).
        num_levels: L.
    """

    denoiser: Denoiser = field(repr=False)
    sde: SDE
    law: ErrorLaw = field(repr=False)
    times: tuple[int, ...]
    event: tuple[int, ...]
    num_levels: int

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.times, self.times[1:], strict=False))
        ends = self.times[:1] + self.times[-1:]
        if len(self.times) < 2 or not rising or ends != (0, self.sde.num_steps):
            raise ValueError(
                f"a chain's times must rise from 0 to N = {self.sde.num_steps}, got {self.times}"
            )

    @property
    def num_steps(self) -> int:
        """K."""
        return len(self.times) - 1

    @property
    def prior_std(self) -> float:
        """Of z_K."""
        return float(self.sde.prior_std())

    def forward(self, k: int) -> tuple[float, float]:
        """z_k given z_(k-1), k = 1..K: the slope and the standard deviation of its normal."""
        slope, variance = self.sde.transition(self._time(k - 1), self._time(k))
        return float(slope), float(variance.sqrt())

    def estimate(self, k: int, z: Tensor) -> Tensor:
        """The network's x_0 within [-1, 1], given z_k, k = 1..K: float64, shaped like z."""
        return self.denoiser(z, self._time(k)).x_0.clamp(-1, 1)

    def reverse(self, k: int, z: Tensor) -> Normal:
        """z_(k-1) given z_k, k = 2..K.

        Args:
            k: the step.
            z: z_k, (B, ...) float64.
        """
        if not 2 <= k <= self.num_steps:
            raise ValueError(f"a reverse step to a z must lie in 2..{self.num_steps}, got {k}")
        x_0 = self.estimate(k, z)
        of_z, of_x_0, variance = self.posterior(k)
        error = self.law.of(self.times[k], x_0)
        return Normal(of_z * z + of_x_0 * x_0, (variance + of_x_0**2 * error).sqrt())

    def datum(self, z: Tensor) -> Normal:
        """The normal of x_0 given z_1 whose shares of the bins are the levels' probabilities.

        `error_law.level_nats` has these.
        """
        x_0 = self.estimate(1, z)
        error = self.law.of(self.times[1], x_0, levels=True)
        return Normal(x_0, error.sqrt())

    def posterior(self, k: int) -> tuple[float, float, float]:
        """q(z_(k-1) | z_k, z_0): the weights of z_k and of z_0 in its mean, and its variance."""
        found = self.sde.posterior_weights(self._time(k - 1), self._time(k))
        of_z, of_x_0, variance = (float(each) for each in found)
        return of_z, of_x_0, variance

    def _time(self, k: int) -> Tensor:
        return torch.tensor(float(self.times[k]), dtype=torch.float64)


@torch.no_grad()
def bound(
    chain: Chain, levels: Tensor, noise: Noise, on_call: Callable[[], None] = lambda: None
) -> Tensor:
    """Nats that images cost at the least, term by term: unbiased, (B, K + 1) float64.

    Column k is the step from t_(k+1) to t_k, column 0 that of the levels, and the last one L_T.
    Each step has a z of its own, drawn from q(z_k | z_0): as the ledger has it, and as no coder.

    Args:
        chain: K steps.
        levels: (B, ...) in 0..L-1.
        noise: of the images: the places within the bins, and eps by step.
        on_call: called after each evaluation of the network, K times.
    """
    u = noise.uniform(Stream.DEQUANTIZE, chain.event)
    x_0 = dequantize(levels, u, chain.num_levels).double()
    terms = []
    for k in range(1, chain.num_steps + 1):
        eps = noise.at(DRAWS + k).normal(Stream.TRAIN_EPS, chain.event)
        z = chain.sde.perturb(x_0, torch.tensor(float(chain.times[k]), dtype=torch.float64), eps)
        if k == 1:
            datum = chain.datum(z)
            nats = level_nats(datum.mean, datum.std, levels, chain.num_levels)
        else:
            nats = _divergence(chain, k, z, x_0)
        terms.append(nats.flatten(1).sum(1))
        on_call()
    return torch.stack([*terms, prior_term(chain.sde, x_0)], 1)


def _divergence(chain: Chain, k: int, z: Tensor, x_0: Tensor) -> Tensor:
    """KL of q(z_(k-1) | z_k, z_0) from the reverse law, of each element."""
    of_z, of_x_0, variance = chain.posterior(k)
    guess = chain.reverse(k, z)
    p, away = guess.std**2, of_z * z + of_x_0 * x_0 - guess.mean
    return 0.5 * ((p / variance).log() + (variance + away**2) / p - 1)


# ---- which chain --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """A law and times for it.

    Attributes:
        law: of all images, at t_1 .. t_K.
        times: 0 = t_0 < ... < t_K.
        costs: nats a dimension on the other half of the training images, by kind.
    """

    law: ErrorLaw
    times: tuple[int, ...]
    costs: dict[Kind, float]


@dataclass(frozen=True)
class Priced:
    """What errors by one kind of buckets say, whatever K: M times, and all steps between them.

    Attributes:
        law: of all images, at M times.
        fitted: nats a dimension of a step on the first half, under the first half's own law,
            (M + 1, M + 1) as from `Tally.costs`.
        unseen: the same on the second half, still under the law of the first.
        whole: of all images, under `law`.
    """

    law: ErrorLaw
    fitted: Tensor
    unseen: Tensor
    whole: Tensor


Prices = dict[Kind, Priced]
"""By every kind of bucket, of the same images."""


def priced(halves: tuple[Measured, Measured], times: tuple[int, ...], sde: SDE) -> Prices:
    """All that `choose` needs of measured errors.

    Args:
        halves: errors of two parts of the training images.
        times: those of the errors, the last one N.
        sde: the process.
    """
    first, second = halves
    found: Prices = {}
    for kind, tally in first.items():
        own, both = tally.law(times), tally + second[kind]
        law = both.law(times)
        steps = (tally.costs(own, sde), second[kind].costs(own, sde), both.costs(law, sde))
        found[kind] = Priced(law, *steps)
    return found


def choose(prices: Prices, steps: int) -> Choice:
    """The kind of variance that costs least where it was not fitted, and its least-cost times.

    Args:
        prices: of the kinds there are.
        steps: K, in 1..M.

    Raises:
        ValueError: no time has as much noise as a bin is wide, or there are no so many.
    """
    most = len(next(iter(prices.values())).law.times)
    if not 1 <= steps <= most:
        raise ValueError(f"a chain of these times has 1..{most} steps, got {steps}")
    costs = {
        kind: float(grid_cost(each.unseen, least_cost(each.fitted, steps)))
        for kind, each in prices.items()
    }
    if not all(map(math.isfinite, costs.values())):
        raise ValueError(
            f"no chain of {steps} steps ends at a time with a bin's noise: take fewer"
        )
    best = prices[min(costs, key=lambda each: costs[each])]
    places = least_cost(best.whole, steps).long().tolist()
    chosen = tuple(best.law.times[j - 1] for j in reversed(places) if j)
    return Choice(best.law.at(chosen), (0, *chosen), costs)
