"""Empirical order of convergence of samplers, on an exact denoiser.

Each sampler runs from the prior to t = 1 in more and more steps, equal in log-SNR. A deterministic
one is compared with the adaptive solver of the probability flow, point by point from the same
noise, at a tolerance far below the error; a stochastic one with the distribution: the mean squared
distance to the nearest component's centre, which shows a wrong width. The order is the slope of
log error against log steps, by least squares over the steps named.
"""

import math
import time

import torch
from torch import Tensor

from scoreflow.samplers import ProbabilityFlow, Sampler, Step, grid, sample
from scoreflow.sde.analytic import GaussianMixture
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.types import Times
from scoreflow.storage.atomic_files import Json
from scoreflow.uncertainty import Statistic, jackknife, mean_and_error

STEPS = (64, 128, 256, 512)
POINTS = 128
WEAK_STEPS = (16, 32, 64, 128)
WEAK_POINTS = 16_384
TRUE_POINTS = 2**18
TOLERANCE = 1e-11
SEEN = 4.0
"""Standard errors that a weak error must have in order to count for a slope."""


def stated_order(sampler: Sampler) -> int | None:
    """The order that the method states of its flow (`flow_order`); None for a stochastic one."""
    return getattr(sampler, "flow_order", None)


def measured_order(name: str, sampler: Sampler, truth: GaussianMixture, sde: SDE) -> Json:
    """The row of a sampler that takes fixed steps.

    Returns:
        sampler, kind ("flow" or "law"), stated (None for a law), order and order_error (None where
        fewer than three errors are seen above chance), the steps and errors that were found, the
        errors' own errors, and the steps that the slope is over.
    """
    start, stated = time.monotonic(), stated_order(sampler)
    steps = WEAK_STEPS if stated is None else STEPS
    find = _weak_errors if stated is None else _flow_errors
    errors, scatter, order, order_error, over = find(sampler, truth, sde)
    return {
        "sampler": name,
        "kind": "law" if stated is None else "flow",
        "stated": stated,
        "order": order,
        "order_error": order_error,
        "over": over,
        "steps": list(steps),
        "errors": errors,
        "errors_error": scatter,
        "seconds": time.monotonic() - start,
    }


def slope(steps: Tensor, errors: Tensor) -> float:
    """Minus the least-squares slope of log error against log steps: the order."""
    x, y = steps.double().log(), errors.double().log()
    x = x - x.mean()
    return -float((x * y).sum() / x.square().sum())


def _flow_errors(
    sampler: Sampler, truth: GaussianMixture, sde: SDE
) -> tuple[list[float], list[float], float, float, list[int]]:
    """RMS distance to the flow's own answer over points; errors of all by leaving points out."""
    noise = Noise.of(0, 0, POINTS)
    x = sde.prior_std() * noise.normal(Stream.PRIOR, truth.means.shape[1:])
    first, last = torch.tensor([float(sde.num_steps), 1.0], dtype=torch.float64)
    step = Step(truth.denoiser(sde), sde, first, last, noise)
    exact = ProbabilityFlow(1.0, TOLERANCE).step(x, step)
    squares = torch.stack(
        [
            (_follow(sampler, truth, sde, count, x, noise) - exact).square().sum(1)
            for count in STEPS
        ],
        dim=1,
    )

    def rms(k: int) -> Statistic:
        return lambda one, _: math.sqrt(float(one[:, k].mean()))

    def order(one: Tensor, _: Tensor) -> float:
        return slope(torch.tensor(STEPS), one.mean(0).sqrt())

    errors = [rms(k)(squares, squares) for k in range(len(STEPS))]
    scatter = [jackknife(rms(k), squares, squares) for k in range(len(STEPS))]
    found = order(squares, squares), jackknife(order, squares, squares)
    return errors, scatter, *found, list(STEPS)


def _weak_errors(
    sampler: Sampler, truth: GaussianMixture, sde: SDE
) -> tuple[list[float], list[float], float | None, float | None, list[int]]:
    """Error of the mean squared distance to the nearest centre, and of that the standard error."""
    noise = Noise.of(0, 0, WEAK_POINTS)
    x = sde.prior_std() * noise.normal(Stream.PRIOR, truth.means.shape[1:])
    one = torch.ones((), dtype=torch.float64)
    alpha, sigma = sde.alpha(one), sde.sigma(one)

    def spread(points: Tensor) -> tuple[float, float]:
        apart = (points[:, None] - alpha * truth.means).square().sum(2).amin(1)
        return mean_and_error(apart)

    drawn = Noise.of(1, 0, TRUE_POINTS)
    real = truth.sample(drawn)
    expected, of_expected = spread(
        alpha * real + sigma * drawn.normal(Stream.PRIOR, real.shape[1:])
    )
    errors, scatter = [], []
    for count in WEAK_STEPS:
        value, error = spread(_follow(sampler, truth, sde, count, x, noise))
        errors.append(value - expected)
        scatter.append(math.hypot(error, of_expected))
    seen = [k for k, (e, s) in enumerate(zip(errors, scatter, strict=True)) if abs(e) > SEEN * s]
    same_side = len({errors[k] > 0 for k in seen}) == 1
    if len(seen) < 3 or not same_side:
        return errors, scatter, None, None, []
    over = [WEAK_STEPS[k] for k in seen]
    sizes = torch.tensor([abs(errors[k]) for k in seen], dtype=torch.float64)
    x_log = torch.tensor(over).double().log()
    weight = (x_log - x_log.mean()) / (x_log - x_log.mean()).square().sum()
    relative = torch.tensor([scatter[k] for k in seen], dtype=torch.float64) / sizes
    return (
        errors,
        scatter,
        slope(torch.tensor(over), sizes),
        float((weight * relative).norm()),
        over,
    )


def _follow(
    sampler: Sampler, truth: GaussianMixture, sde: SDE, count: int, x: Tensor, noise: Noise
) -> Tensor:
    """From x at t = N in `count` steps, the last of which, to t = 0, is left out."""
    times: Times = grid("log_snr", sde, count)
    event, denoiser = tuple(x.shape[1:]), truth.denoiser(sde)
    return sample(sampler, denoiser, sde, times, noise, event, final="none", start=x)


def table(rows: list[Json]) -> str:
    """The rows as a table for the terminal."""
    lines = ["order of convergence on the exact denoiser, by steps equal in log-SNR"]
    for row in rows:
        lines.append(f"{row['sampler']:18s} {text(row)}")
    return "\n".join(lines)


def text(row: Json) -> str:
    """A measured order in words."""
    stated = "" if row["stated"] is None else f", stated {row['stated']}"
    what = "follows the flow" if row["kind"] == "flow" else "draws from the law"
    if row["order"] is None:
        seen = f"its error at {row['steps'][0]} to {row['steps'][-1]} steps is too small to see"
        return f"{what}{stated}: not measured, for {seen} or changes sign"
    over = f"{row['over'][0]} to {row['over'][-1]} steps"
    return f"{what}{stated}: {row['order']:.2f} +- {row['order_error']:.2f} over {over}"
