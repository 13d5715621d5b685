"""Identity 6, of a trained network: its samplers draw one law.

Where the density is unknown, two sets of samples are compared with each other, by the maximum mean
discrepancy (Gretton et al. 2012), the distance of their mean embeddings,

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y),

k a sum of Gaussian kernels of three widths between the distances of nearest neighbours and of any
two samples, each in units of its own spread, so that the small ones count. It is a metric: that of
two empirical laws exceeds that of the true ones by no more than what chance does to equal laws,
whose quantile is found by dealing the pooled samples at random. And the laws of a sampler and of
the flow that it approximates differ by its steps: by what halving their number changes, where that
falls as 1/steps, and twice that is allowed. The tolerance is the sum.

So a row that fails says that the network's estimates at different times belong to no one path:
an exact score has one law however it is drawn, as the rows on the exact denoiser show; a learned
one has only as far as it is one. Training on, or a larger network, is the remedy; more samples
make the test sharper.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scoreflow.certificate.identity import CHANCE, Identity, finite_end, sampled
from scoreflow.figures.plot import Plot, Series
from scoreflow.generation.generate import draw_samples
from scoreflow.generation.plan import SamplingPlan
from scoreflow.models.score_model import ScoreModel
from scoreflow.samplers import (
    Ancestral,
    AnnealedLangevin,
    PredictorCorrector,
    ProbabilityFlow,
    Sampler,
)
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise

DEALS = round(1 / CHANCE)
WIDTHS = (0.25, 0.5, 0.75)
"""Of the kernels, as places between nearest neighbours (0) and any two samples (1), by ratio."""
SNR = 0.1
TOLERANCE = 1e-3
"""Of the flow's solver: its errors are far below what so few samples can show."""


Kernel = Callable[[Tensor], Tensor]
"""Samples (n, D) -> k of all pairs, (n, n)."""


@dataclass(frozen=True)
class Amount:
    """How much is drawn: of samples, at a time, and steps of ancestral and predictor-corrector."""

    count: int
    batch_size: int
    steps: int


def laws(model: ScoreModel, event: tuple[int, ...], amount: Amount) -> list[Identity]:
    """Ancestral, predictor-corrector and flow from one network, not clipped, in pairs."""
    device = next(model.network.parameters()).device
    sde = sampled(model.sde, model.posed)
    fine = chain_times(sde, model.t_min, amount.steps)
    coarse = halved(fine)
    flow = ProbabilityFlow(model.t_min, TOLERANCE)
    # h of a correction goes as 1/steps, so that its error is halved with theirs
    corrected, rougher = (
        PredictorCorrector(Ancestral("beta"), AnnealedLangevin(SNR * math.sqrt(more)))
        for more in (1, 2)
    )
    ways: list[tuple[str, Sampler, Tensor]] = [
        ("ancestral", Ancestral("beta"), fine),
        ("ancestral, half the steps", Ancestral("beta"), coarse),
        ("pc", corrected, fine),
        ("pc, half the steps", rougher, coarse),
        ("ode", flow, flow.times(sde.num_steps)),
    ]
    drawn = []
    for seed, (name, sampler, times) in enumerate(ways, start=1000):
        noise = Noise.of(seed, 0, amount.count, device)
        how = SamplingPlan(sampler, times, model.for_solver() if name == "ode" else model)
        drawn.append(draw_samples(how, sde, noise, event, amount.batch_size, name))
    ancestral, ancestral_half, pc, pc_half, ode = drawn
    kernel = kernel_of(_pool(*drawn))
    of_ancestral = 2 * change(ancestral, ancestral_half, kernel)
    of_pc = 2 * change(pc, pc_half, kernel)
    pairs = (
        ("ancestral = pc", ancestral, pc, of_ancestral + of_pc),
        ("ancestral = ode", ancestral, ode, of_ancestral),
        ("pc = ode", pc, ode, of_pc),
    )
    return [
        same_law(f"{name} from the trained network", x, y, kernel, steps)
        for name, x, y, steps in pairs
    ]


def chain_times(sde: SDE, t_min: float, count: int) -> Tensor:
    """At most count + 1 times from N to 0 in equal strides of log-SNR, the last from t_min.

    Integers where t_min is 1, which is all that such a network was trained at.
    """
    ends = torch.tensor([finite_end(sde), t_min], dtype=torch.float64)
    low, high = sde.log_snr(ends).tolist()
    log_snr = torch.linspace(low, high, count, dtype=torch.float64)
    t = sde.time_of_log_snr(log_snr)
    t[0], t[-1] = sde.num_steps, t_min
    if t_min >= 1:
        t = t.round().unique().flip(0)
    return torch.cat([t, t.new_zeros(1)])


def halved(times: Tensor) -> Tensor:
    """Every other time, from the first, and the last two."""
    return torch.cat([times[:-2:2], times[-2:]])


def same_law(name: str, x: Tensor, y: Tensor, kernel: Kernel, steps: float = 0.0) -> Identity:
    """That two sets of samples, (n, ...) and (m, ...), have one law.

    Args:
        name: of the identity.
        x: samples.
        y: samples.
        kernel: made without regard to which sample is of which set.
        steps: by how much their laws may differ.
    """
    pool = _pool(x, y)
    generator = torch.Generator().manual_seed(0)
    deals = torch.stack([torch.randperm(len(pool), generator=generator) for _ in range(DEALS)])
    own = torch.arange(len(pool))[None]
    first = (torch.cat([own, deals]) < len(x)).double()  # which of the pool are in the first set
    found, *null = _discrepancy(first.to(pool.device), kernel(pool)).sqrt().tolist()
    null.sort()
    by_chance = null[math.ceil((1 - CHANCE) * (len(null) + 1)) - 1]
    shown = [*range(0, len(null), 100), len(null) - 1]
    share = [k / len(null) for k in shown]
    lines = (
        Series("dealt at random", share, [null[k] for k in shown]),
        Series("found", [0.0, 1.0], [found, found]),
        Series("allowed", [0.0, 1.0], [by_chance + steps, by_chance + steps]),
    )
    plot = Plot(f"{name}: MMD", "share of random deals below", "MMD", lines, log_y=False)
    return Identity(
        f"{name}, {len(x)} and {len(y)} samples",
        found,
        by_chance + steps,
        f"MMD; {by_chance:.3f} exceeded by chance {CHANCE:.0e} of times, and {steps:.3f} by their "
        "steps: twice what halving these changes. A failure is the network's, not the samplers'",
        (plot,),
    )


def change(x: Tensor, y: Tensor, kernel: Kernel) -> float:
    """MMD of two laws, without what chance adds to that of samples: from the unbiased square."""
    pool, n = _pool(x, y), len(x)
    k, m = kernel(pool).fill_diagonal_(0), len(y)
    within, apart = k[:n, :n].sum() / (n * (n - 1)), k[n:, n:].sum() / (m * (m - 1))
    return math.sqrt(max(0.0, float(within + apart - 2 * k[:n, n:].mean())))


def kernel_of(pool: Tensor) -> Kernel:
    """The kernel for samples like these, (n, D)."""
    distance = torch.cdist(pool, pool)
    far = distance[distance > 0].median()
    near = distance.fill_diagonal_(math.inf).min(1).values.median()
    distance.fill_diagonal_(0)
    widths = [near ** (1 - place) * far**place for place in WIDTHS]
    spreads = [_spread(_gaussian(distance, width)) for width in widths]

    def kernel(x: Tensor) -> Tensor:
        apart = torch.cdist(x, x)
        terms = [_gaussian(apart, w) / spread for w, spread in zip(widths, spreads, strict=True)]
        return torch.stack(terms).sum(0)

    return kernel


def _gaussian(distance: Tensor, width: Tensor) -> Tensor:
    return (-0.5 * (distance / width).square()).exp()


def _spread(k: Tensor) -> Tensor:
    """RMS of a kernel between different samples, about its means: what chance makes of it."""
    rest = k - k.mean(0) - k.mean(1)[:, None] + k.mean()
    return rest.fill_diagonal_(0).square().mean().sqrt()


def _pool(*samples: Tensor) -> Tensor:
    return torch.cat([x.double().flatten(1) for x in samples])


def _discrepancy(first: Tensor, kernel: Tensor) -> Tensor:
    """MMD^2 of each row's split of the pool, (R, n + m) zeros and ones: (R,)."""
    other = 1 - first
    n, m = first.sum(1), other.sum(1)
    to_first = first @ kernel
    to_other = kernel.sum(0) - to_first
    within = (to_first * first).sum(1) / n**2
    between = (to_first * other).sum(1) / (n * m)
    apart = (to_other * other).sum(1) / m**2
    return (within + apart - 2 * between).clamp(min=0)
