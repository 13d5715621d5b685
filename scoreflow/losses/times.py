"""Sampling of training times, and the density by which a loss is importance-weighted.

Two laws are a part of the objective, and the loss is not divided by their density: log-normal
times, ln(sigma / alpha) ~ N(mean, std^2) between the ends of the process, which are EDM's noise
scales under every process and, on the rectified path, the logit-normal times of SD3; and uniform
times that are shifted, their sigma / alpha multiplied by a number. A shift by k moves the log-SNR
by -2 ln k, that of uniform times by less near ends that are not clean data and noise alone: on
images of more pixels, which say the same with more noise, it is made up for by one.
"""

import math

import torch
from torch import Tensor

from scoreflow.errors import RequestError
from scoreflow.sde.base import SDE, shifted

LEAST_MASS = 1e-3
"""Of a normal law that is cut to a process; with less of it there, the law is another one."""


def least_time(times: str, t_min: float) -> float:
    """The least time that is drawn, in steps.

    Args:
        times: "integer", whose least is 1, "real", "importance" or "log_normal".
        t_min: least real time, in steps.
    """
    return 1.0 if times == "integer" else t_min


def integer_times(u: Tensor, num_steps: int) -> Tensor:
    """Times 1..N with equal probability, from u uniform on [0, 1)."""
    return 1 + (u * num_steps).floor().clamp(max=num_steps - 1)


def real_times(u: Tensor, num_steps: int, t_min: float) -> Tensor:
    """Times uniform on [t_min, N), from u uniform on [0, 1)."""
    return torch.lerp(u.new_full((), t_min), u.new_full((), float(num_steps)), u)


def importance_times(u: Tensor, sde: SDE, t_min: float) -> tuple[Tensor, Tensor]:
    """Times that make the likelihood weighting constant: uniform in log-SNR (Song et al. 2021).

    Args:
        u: (B,) uniform on [0, 1).
        sde: the process.
        t_min: least time, in steps.

    Returns:
        Times in [t_min, N] and their density relative to uniform times, both (B,).
    """
    # on the CPU: 0-d tensors go along with any device and cost no wait
    top, bottom = sde.log_snr(torch.tensor([t_min, float(sde.num_steps)], dtype=torch.float64))
    log_snr = top + (bottom - top) * u
    t = sde.time_of_log_snr(log_snr).clamp(t_min, sde.num_steps)
    slope = sde.diffusion(t) ** 2 / sde.variance(t)
    return t, slope * (sde.num_steps - t_min) / (top - bottom)


def log_normal_times(u: Tensor, sde: SDE, t_min: float, mean: float, std: float) -> Tensor:
    """Times whose ln(sigma / alpha) is normal, cut to [t_min, N].

    With EDM's P_mean and P_std (Karras et al. 2022, Table 1); on the rectified path, whose sigma /
    alpha is tau / (1 - tau), the logit-normal law of SD3 (Esser et al. 2024, section 3.1).

    Args:
        u: (B,) uniform on [0, 1).
        sde: the process.
        t_min: least time, in steps.
        mean: of ln(sigma / alpha).
        std: of it, positive.

    Raises:
        RequestError: less than `LEAST_MASS` of the law lies between the ends.
    """
    low, high = _log_ratios(sde, t_min)
    below, until = (0.5 * math.erfc((mean - end) / (std * math.sqrt(2))) for end in (low, high))
    if not until - below >= LEAST_MASS:
        raise RequestError(
            f"training.times = log_normal: only {max(until - below, 0):.1g} of the law of "
            f"ln(sigma / alpha) with mean {mean:g} and std {std:g} lies within the process, from "
            f"{low:g} at t = {t_min:g} to {high:g} at N: set training.log_normal_mean between them"
        )
    log_ratio = mean + std * torch.special.ndtri(below + (until - below) * u)
    return sde.time_of_log_snr(-2 * log_ratio).clamp(t_min, sde.num_steps)


def shifted_times(u: Tensor, sde: SDE, t_min: float, shift: float) -> Tensor:
    """Uniform times on [t_min, N] with sigma / alpha multiplied by a number; both ends stay.

    As `scoreflow.sde.base.shifted` has it, and so as a sampling grid: every time that a sampler
    or a likelihood asks about is trained. On the rectified path with t_min near 0, tau becomes
    k tau / (1 + (k - 1) tau): the shift of SD3 (Esser et al. 2024) for resolution, with
    k = sqrt(m / n) for m pixels in place of n.

    Args:
        u: (B,) uniform on [0, 1).
        sde: the process.
        t_min: least time, in steps.
        shift: k, positive.
    """
    t = real_times(u, sde.num_steps, t_min)
    if t_min == sde.num_steps:
        return t
    return shifted(sde, t, t_min, float(sde.num_steps), shift)


def _log_ratios(sde: SDE, t_min: float) -> tuple[float, float]:
    """ln(sigma / alpha) at t_min and at N, where it may be inf."""
    ends = torch.tensor([t_min, float(sde.num_steps)], dtype=torch.float64)
    low, high = (-0.5 * sde.log_snr(ends)).tolist()
    return low, high


def low_discrepancy(first: Tensor, size: int) -> Tensor:
    """Size points (u + i / size) mod 1: each uniform, together evenly spread (VDM, Kingma et al.

    2021, appendix I).

    Args:
        first: u, (), uniform on [0, 1).
        size: of the batch.
    """
    ranks = torch.arange(size, dtype=first.dtype, device=first.device)
    return (first + ranks / size) % 1
