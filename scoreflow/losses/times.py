"""Sampling of training times, and the density by which a loss is importance-weighted."""

import torch
from torch import Tensor

from scoreflow.sde.base import SDE


def least_time(times: str, t_min: float) -> float:
    """The least time that is drawn, in steps.

    Args:
        times: "integer", whose least is 1, "real" or "importance".
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


def low_discrepancy(first: Tensor, size: int) -> Tensor:
    """Size points (u + i / size) mod 1: each uniform, together evenly spread (VDM, Kingma et al.

    2021, appendix I).

    Args:
        first: u, (), uniform on [0, 1).
        size: of the batch.
    """
    ranks = torch.arange(size, dtype=first.dtype, device=first.device)
    return (first + ranks / size) % 1
