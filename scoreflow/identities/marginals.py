"""Identity 6: however it is drawn, the law is the same.

The energy distance (Szekely & Rizzo 2013) between two sets of samples,

    2 E|x - y| - E|x - x'| - E|y - y'|,

is zero for equal laws. What it comes to by chance is found by dealing the pooled samples into two
sets at random: the tolerance is the quantile of that which a true identity exceeds once in a
thousand certificates.
"""

import math

import torch
from torch import Tensor

from samplers import (
    Ancestral,
    AnnealedLangevin,
    PredictorCorrector,
    ProbabilityFlow,
    Sampler,
    sample,
    uniform_times,
)
from scoreflow import toy
from scoreflow.identities.identity import Identity
from scoreflow.plot import Plot, Series
from sde.base import SDE
from sde.noise import Noise

FALSE_ALARM = 1e-3
DEALS = 5000


def marginals(sde: SDE, t_min: float) -> list[Identity]:
    """Ancestral, predictor-corrector and flow, from the exact denoiser of a mixture."""
    n, mixture = 512, toy.distribution()
    exact = mixture.denoiser(sde)
    chain = uniform_times(sde.num_steps, min(sde.num_steps, 1000), integer=True)
    flow = ProbabilityFlow(t_min, 1e-4)
    ways: dict[str, tuple[Sampler, Tensor]] = {
        "ancestral": (Ancestral("beta"), chain),
        "predictor-corrector": (PredictorCorrector(Ancestral("beta"), AnnealedLangevin()), chain),
        "probability flow": (flow, flow.times(sde.num_steps)),
    }
    truth = mixture.sample(Noise.of(99, 0, n))
    drawn = {
        name: sample(sampler, exact, sde, times, Noise.of(seed, 0, n), (2,))
        for seed, (name, (sampler, times)) in enumerate(ways.items())
    }
    return [
        same_law(f"{name} from the exact denoiser = the mixture", x, truth, len(drawn))
        for name, x in drawn.items()
    ]


def same_law(name: str, x: Tensor, y: Tensor, tests: int) -> Identity:
    """That two sets of samples, (n, ...) and (m, ...), have one law; one of so many such tests."""
    pool = torch.cat([x.double().flatten(1), y.double().flatten(1)]).cpu()
    distance = torch.cdist(pool, pool)
    generator = torch.Generator().manual_seed(0)
    deals = torch.stack([torch.randperm(len(pool), generator=generator) for _ in range(DEALS)])
    own = torch.arange(len(pool))[None]
    first = (torch.cat([own, deals]) < len(x)).double()  # which of the pool are in the first set
    found, *null = _energy(first, distance).tolist()
    null.sort()
    rank = min(math.ceil((1 - FALSE_ALARM / tests) * (len(null) + 1)), len(null)) - 1
    share = [k / len(null) for k in range(0, len(null), 50)]
    line = Series("dealt at random", share, [null[k] for k in range(0, len(null), 50)])
    here = Series("found", [0.0, 1.0], [found, found])
    return Identity(
        f"{name}, {len(x)} and {len(y)} samples",
        found,
        null[rank],
        f"energy distance; its {1 - FALSE_ALARM / tests:.4f} quantile under equal laws",
        (
            Plot(
                f"{name}: energy distance",
                "share of random deals below",
                (line, here),
                log_y=False,
            ),
        ),
    )


def _energy(first: Tensor, distance: Tensor) -> Tensor:
    """Of each row's split of the pool, (R, n + m) zeros and ones: (R,)."""
    other = 1 - first
    n, m = first.sum(1), other.sum(1)
    to_first = first @ distance
    within = (to_first * first).sum(1) / n**2
    between = (to_first * other).sum(1) / (n * m)
    apart = ((other @ distance) * other).sum(1) / m**2
    return 2 * between - within - apart
