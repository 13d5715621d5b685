"""Training objectives as pure functions; times and noise come in as arguments."""

import torch
from torch import Tensor

from sde.base import SDE
from sde.prediction import Denoiser


def simple(denoiser: Denoiser, sde: SDE, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """L_simple (DDPM, Ho et al. 2020, Eq. 14): |eps - eps(x_t, t)|^2, averaged over the elements.

    Args:
        denoiser: the model in training.
        sde: the process.
        x_0: clean data, (B, ...).
        t: times in steps, (B,) float64.
        eps: standard normal, shaped like x_0.

    Returns:
        One value a sample, (B,), dimensionless; 1 for a model that answers 0.
    """
    return (denoiser(sde.perturb(x_0, t, eps), t).eps - eps).square().flatten(1).mean(1)


def integer_times(u: Tensor, num_steps: int) -> Tensor:
    """Times 1..N with equal probability, from u uniform on [0, 1)."""
    return 1 + (u * num_steps).floor().clamp(max=num_steps - 1)


def real_times(u: Tensor, num_steps: int, t_min: float) -> Tensor:
    """Times uniform on [t_min, N), from u uniform on [0, 1)."""
    return torch.lerp(u.new_full((), t_min), u.new_full((), float(num_steps)), u)
