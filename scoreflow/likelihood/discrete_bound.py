"""Denoising errors at sampled timesteps, from which the discrete ELBO follows.

Under a reverse variance p_t that is the same for every element, a term of the bound
(`losses.variational.term`) depends on the network through one number only, the squared error of
its x_0 estimate: with s = t - 1, q_t the posterior's variance and
c_t = alpha_s w / sigma_t^2 the posterior mean's slope in x_0,

    L_t = D/2 (log(p_t / q_t) + q_t / p_t - 1) + c_t^2 |x_0 error|^2 / (2 p_t)       t = 2..N
    L_0 = D/2 log(2 pi p_1) + |x_0 error|^2 / (2 p_1)                                t = 1

in nats. So the errors of one pass give the bound under any number of variances. That which makes
it least is

    p_t = q_t + c_t^2 E|x_0 error|^2 / D,

the optimal variance (`samplers.reverse_variance`) at the network's own mean square
error. Whatever p_t, it is a bound.

The sum over the times of a long chain is estimated by stratified sampling
(`losses.variational.strata_of`), and the error at each time by random eps. Most of the variance
of both is removed by a control variate: the error that the best
denoiser of a Gaussian makes at the same x_t is much like the network's, and its expectation is a
closed form. Only their difference is sampled, and the mean is unchanged.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scoreflow.likelihood.gaussian_reference import Reference, errors_at
from scoreflow.losses.variational import strata_of, time_within
from scoreflow.samplers.reverse_variance import Variance, reverse_variance
from scoreflow.samplers.reverse_variance import optimal_variance as optimal_reverse_variance
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise
from scoreflow.sde.prediction import Denoiser, predict


@dataclass(frozen=True)
class DenoisingErrors:
    """Errors at t = 1 and at one time of each of K stretches of 2..N.

    Attributes:
        x_0: the data, (n, ...).
        stretches: 1, then the K stretches; a time of a stretch stands for all of it.
        times: in steps, (n, 1 + K) float64.
        squares: |x_0 error|^2, (n, 1 + K).
        of_reference: the same of the reference at the same x_t.
        first: the estimate of x_0 at t = 1, shaped like x_0.
    """

    x_0: Tensor
    stretches: list[range]
    times: Tensor
    squares: Tensor
    of_reference: Tensor
    first: Tensor


def denoising_errors(
    denoiser: Denoiser, sde: SDE, x_0: Tensor, noise: Noise, strata: int, reference: Reference
) -> DenoisingErrors:
    """Sample the errors at t = 1 and at one time of each of `strata` equal stretches of 2..N.

    Args:
        denoiser: evaluated at integer times, strata + 1 times a sample.
        sde: the process.
        x_0: (n, ...) float64, real-valued.
        noise: addresses times and noise, from its own step on.
        strata: 1..N-1; with N - 1 every time is visited.
        reference: the control variate.
    """
    stretches = [range(1, 2), *strata_of(sde, strata)]
    times, errors = [], []
    for k, stretch in enumerate(stretches):
        here = noise.at(noise.step + k)
        times.append(time_within(stretch, here))
        errors.append(errors_at(denoiser, sde, x_0, times[-1], here, reference))
    return DenoisingErrors(
        x_0,
        stretches,
        torch.stack(times, 1),
        torch.stack([e.square for e in errors], 1),
        torch.stack([e.of_reference for e in errors], 1),
        errors[0].estimate,
    )


# ---- what follows from it -----------------------------------------------------------------------


def terms(found: DenoisingErrors, sde: SDE, variance: Tensor, reference: Reference) -> Tensor:
    """L_0 (the density's) and the sums of L_t over each stretch, unbiased: nats, (n, 1 + K).

    Args:
        found: the errors.
        sde: the process.
        variance: p_t of the steps t = 1..N, (N,), the same for every element.
        reference: that of the errors.
    """
    dims, t = found.x_0[0].numel(), _all_times(sde, found.times.device)
    posterior, slope = _posterior(sde, t)
    rest = (variance / posterior).log() + posterior / variance - 1
    rest[0] = (2 * math.pi * variance[0]).log()  # of a density instead of a KL
    weight = slope**2 / (2 * variance)
    lengths = [len(stretch) for stretch in found.stretches]
    known = reference.expected_sums(found.x_0, sde.log_snr(t).exp(), weight, lengths)
    known = known + 0.5 * dims * torch.stack([part.sum() for part in rest.split(lengths)])
    sampled = weight[found.times.long() - 1] * (found.squares - found.of_reference)
    each = torch.tensor(lengths, dtype=sampled.dtype)
    return known + sampled * each.to(sampled.device, non_blocking=True)


def fixed_variance(sde: SDE, name: Variance, device: torch.device | str = "cpu") -> Tensor:
    """p_t of the steps t = 1..N, "beta" or "posterior" (`samplers.reverse_variance`): (N,)."""
    t = _all_times(sde, device)
    nothing = torch.zeros(len(t), 1, dtype=torch.float64, device=device)
    prediction = predict(sde, nothing, t, "x_0", nothing)
    return reverse_variance(prediction, sde, t, t - 1, name)[:, 0]


def optimal_variance(times: Tensor, squares: Tensor, sde: SDE, dims: int) -> Tensor:
    """The p_t of the steps t = 1..N that make the bound least on average over samples: (N,).

    The mean square error of an element, u, is taken from each stretch in units of what the best
    denoiser of N(0, V) has, 1 / (1 / V + snr), and between stretches by linear interpolation in
    log-SNR. With V the error where the data are noisiest this is 1 for Gaussian data and tends to
    a constant at both ends of any data, so that few stretches do: in u's or snr u's own units
    everything happens in one stretch, the first or, where a schedule falls fast, the last.

    Args:
        times: of the errors, (n, 1 + K).
        squares: of these errors, (n, 1 + K). Of training data: fitted to its own test it is no
            bound.
        sde: the process.
        dims: D.
    """
    t, log_snr = _all_times(sde, times.device), sde.log_snr(times)
    rate = 1 / (squares[:, -1].mean() / dims).clamp(min=1e-300)  # 1 / V
    share = (squares / dims * (rate + log_snr.exp())).mean(0)
    at, knots = sde.log_snr(t), log_snr.mean(0)  # of noise alone -inf, which interp takes as it is
    found = np.interp(-at.cpu().numpy(), -knots.cpu().numpy(), share.cpu().numpy())
    share = torch.from_numpy(found).to(t.device)
    best = optimal_reverse_variance(sde, t, t - 1, share * at.exp() / (rate + at.exp()))
    posterior, slope = _posterior(sde, t)  # of x_0's own error where none of eps tells it
    return torch.where(sde.alpha(t) > 0, best, posterior + slope**2 * share / rate)


def _all_times(sde: SDE, device: torch.device | str) -> Tensor:
    return torch.arange(1, sde.num_steps + 1, dtype=torch.float64, device=device)


def _posterior(sde: SDE, t: Tensor) -> tuple[Tensor, Tensor]:
    """Of the steps t -> t - 1: the posterior's variance, and its mean's slope in x_0."""
    s = t - 1
    _, w = sde.transition(s, t)
    return sde.variance(s) * w / sde.variance(t), sde.alpha(s) * w / sde.variance(t)
