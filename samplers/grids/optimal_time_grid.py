"""The time grid of K steps with the least variational bound, by dynamic programming.

Learning to efficiently sample from diffusion probabilistic models (Watson et al. 2021). A grid's
bound is a sum over its steps, and with the optimal variance (`samplers.reverse_variance`) a step
depends on the denoiser by one number, e_t = E|eps error|^2 / D:

    L(t -> s) / D = 1/2 log(1 + (snr_s / snr_t - 1) e_t)             s > 0
    L(t -> 0) / D = 1/2 (1 + log(2 pi e_t / snr_t))                  the density's

in nats. (Where no signal is left, e_t = snr_t = 0, and e_t / snr_t is E|x_0 error|^2 / D.) So the
best grid of K steps from N to s goes on from the best of K - 1 steps to some t.
The least bound need not look best: of few steps it spends many at small t, which no
eye sees.
"""

import math

import torch
from torch import Tensor

from scoreflow.samplers.reverse_variance import EpsError, x_0_error
from scoreflow.sde.base import SDE
from scoreflow.sde.types import Times


def step_costs(sde: SDE, eps_error: EpsError) -> Tensor:
    """L(t -> s) / D at [t, s], in nats: (N + 1, N + 1), inf where s is not below t.

    Args:
        sde: the process.
        eps_error: of the denoiser; called at 1..N.
    """
    t = torch.arange(1, sde.num_steps + 1, dtype=torch.float64)
    log_snr, error = sde.log_snr(t), eps_error(t)
    ratio = torch.expm1(log_snr - log_snr[:, None])  # snr_s / snr_t - 1, a row a t
    costs = torch.full((len(t) + 1, len(t) + 1), math.inf, dtype=torch.float64)
    gained = ratio.tril(-1) * error[:, None]
    of_density = 1 + (2 * math.pi * error).log() - log_snr
    if not log_snr[-1].isfinite():  # 0 times infinity
        known = x_0_error(sde, t[-1], eps_error)
        gained[-1], of_density[-1] = log_snr.exp() * known, 1 + (2 * math.pi * known).log()
    costs[1:, 1:] = torch.where(ratio > 0, 0.5 * torch.log1p(gained), math.inf)
    costs[1:, 0] = 0.5 * of_density
    return costs


def least_cost(costs: Tensor, count: int) -> Times:
    """The grid of `count` steps from N to 0, at whole times, of least total cost: O(count N^2).

    Args:
        costs: (N + 1, N + 1), as from `step_costs`.
        count: K, in 1..N.

    Returns:
        (K + 1,) float64, decreasing.

    Raises:
        ValueError: there are no so many steps.
    """
    num_steps = len(costs) - 1
    if not 1 <= count <= num_steps:
        raise ValueError(f"the number of sampling steps must lie in 1..{num_steps}, got {count}")
    if count == num_steps:
        return torch.arange(num_steps, -1, -1, dtype=torch.float64)  # there is no other
    best, whence = costs[num_steps], []  # of so many steps, to every time
    for _ in range(count - 1):
        best, before = (best[:, None] + costs).min(dim=0)
        whence.append(before)
    times = [0]
    for before in reversed(whence):
        times.append(int(before[times[-1]]))
    return torch.tensor([num_steps, *reversed(times)], dtype=torch.float64)


def grid_cost(costs: Tensor, times: Times) -> Tensor:
    """The total cost of the steps of a grid of whole times: nats per dimension, ()."""
    whole = times.long()
    return costs[whole[:-1], whole[1:]].sum()
