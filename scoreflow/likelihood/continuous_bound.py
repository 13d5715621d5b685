"""The continuous-time variational bound, and the I-MMSE estimate of the likelihood.

Both come from one integral over the network's errors, with snr = alpha^2 / sigma^2,

    J = 1/2 integral of E|x_0 error|^2 dsnr         from snr(N) to snr(t_min), E over eps,

in nats. The bound (VDM, Kingma et al. 2021; Song et al. 2021, "Maximum likelihood
training") is that of a chain whose steps have become infinitely short,

    -log p(x_0) <= L_T + J + L_0,       L_0 = E -log N(x_0; x_0 estimate, I / snr)  at t_min,

or for an integer with its decoder as L_0 (`losses.decoder`). The pointwise I-MMSE relation
(Kong et al. 2023, "Information-theoretic diffusion") is an equality for the best denoiser: with a
Gaussian reference N_G and G the x_0 error of that one's best denoiser,

    -log p(x_0) = -log N_G(x_0) - 1/2 integral of (E|G|^2 - E|x_0 error|^2) dsnr

from 0 to infinity. Here the integral ends at snr(N) and snr(t_min): beyond them the network is
taken to err as the reference does. That, and a network that is not the best, make it an estimate
and no bound.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoreflow.likelihood.gaussian_reference import Reference, errors_at
from scoreflow.losses.times import importance_times
from scoreflow.losses.variational import prior_term
from scoreflow.sde.base import SDE, ends_without_signal
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import Denoiser


@dataclass(frozen=True)
class Sweep:
    """The errors at real times from t_min to N.

    Attributes:
        x_0: the data, (n, ...).
        t_min: where it starts, in steps, () on the CPU.
        integral: J, nats, (n,).
        first: the estimate of x_0 at t_min, shaped like x_0.
        first_square: |x_0 - first|^2, (n,): unbiased, with the reference's part in closed form.
    """

    x_0: Tensor
    t_min: Tensor
    integral: Tensor
    first: Tensor
    first_square: Tensor


def sweep(
    denoiser: Denoiser,
    sde: SDE,
    x_0: Tensor,
    noise: Noise,
    t_min: float,
    count: int,
    reference: Reference,
) -> Sweep:
    """J, from `count` times a sample, one at random in each equal stretch of a clock.

    As in `denoising_errors`, only the difference to the reference's errors is sampled. The clock
    is the log-SNR or, where no signal is left at N, log(1 + snr): see `_signal_times`.

    Args:
        denoiser: evaluated at t_min and at `count` real times in [t_min, N].
        sde: the process.
        x_0: (n, ...) float64, real-valued.
        noise: addresses times and noise, from its own step on.
        t_min: least time, in steps.
        count: of the stretches.
        reference: the control variate.
    """
    ends = torch.tensor([t_min, float(sde.num_steps)], dtype=torch.float64)
    top, bottom = sde.log_snr(ends)
    at_start = x_0.new_full((len(x_0),), t_min)
    first = errors_at(denoiser, sde, x_0, at_start, noise, reference)
    integral = reference.integral(x_0, bottom.exp(), top.exp())
    to_nothing = ends_without_signal(sde)
    span = _of_signal(top) - _of_signal(bottom) if to_nothing else top - bottom
    more = float(to_nothing)  # dsnr = snr dlog snr = (1 + snr) dlog(1 + snr)
    for k in range(count):
        here = noise.at(noise.step + 1 + k)
        u = (k + here.uniform(Stream.TRAIN_TIME)) / count
        t = _signal_times(u, sde, t_min) if to_nothing else importance_times(u, sde, t_min)[0]
        found = errors_at(denoiser, sde, x_0, t, here, reference)
        weight = sde.log_snr(t).exp() + more
        integral = integral + 0.5 * span / count * (weight * (found.square - found.of_reference))
    one = x_0.new_full((1,), top.exp().item())
    known = reference.expected_sums(x_0, one, torch.ones_like(one), [1])[:, 0]
    square = first.square - first.of_reference + known
    return Sweep(x_0, ends[0], integral, first.estimate, square)


def _signal_times(u: Tensor, sde: SDE, t_min: float) -> Tensor:
    """Times even in log(1 + snr) = -2 log sin(phi) between t_min and N, from u in [0, 1): (n,).

    The clock of a process with no signal at N, where the log-SNR is -inf. Well above snr = 1 it is
    the log-SNR; below, it ends at 0, and |x_0 error|^2 dsnr = |v error|^2 dlog(1 + snr), with a v
    error that is finite at both ends.
    """
    ends = torch.tensor([t_min, float(sde.num_steps)], dtype=torch.float64)
    top, bottom = _of_signal(sde.log_snr(ends))
    log_snr = (top + (bottom - top) * u).expm1().log()
    return sde.time_of_log_snr(log_snr).clamp(t_min, sde.num_steps)


def _of_signal(log_snr: Tensor) -> Tensor:
    """Log(1 + snr)."""
    return torch.logaddexp(log_snr, torch.zeros_like(log_snr))


def continuous_bound(found: Sweep, sde: SDE) -> dict[str, Tensor]:
    """The bound on -log p(x_0) of a density by its parts L_T, J and L_0: nats, (n,) each."""
    snr, dims = sde.log_snr(found.t_min).exp(), found.x_0[0].numel()
    density = 0.5 * (dims * (2 * math.pi / snr).log() + snr * found.first_square)
    return {"L_0": density, "J": found.integral, "L_T": prior_term(sde, found.x_0)}


def pointwise_immse(found: Sweep, sde: SDE, reference: Reference) -> Tensor:
    """The estimate of -log p(x_0) by the I-MMSE relation, truncated: nats, (n,)."""
    end = torch.full_like(found.t_min, sde.num_steps)
    low, high = sde.log_snr(end).exp(), sde.log_snr(found.t_min).exp()
    gained = reference.integral(found.x_0, low, high) - found.integral
    return reference.negative_log_density(found.x_0) - gained


def pointwise_immse_of_levels(found: Sweep, sde: SDE, reference: Reference) -> Tensor:
    """The same of -log P(x_0) where x_0 stands for an integer, its bin's centre: nats, (n,).

    A discrete x_0 has -log P = 1/2 integral of E|x_0 error|^2 dsnr, from 0 to infinity. Above
    snr(t_min) the levels are taken to be distinguished without error.
    """
    low = sde.log_snr(torch.full_like(found.t_min, sde.num_steps)).exp()
    return reference.integral(found.x_0, torch.zeros_like(low), low) + found.integral
