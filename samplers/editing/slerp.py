"""Spherical interpolation between two latents (Shoemake 1985)."""

import torch
from torch import Tensor

from scoreflow.sde.types import Batch, PerSample


def slerp(a: Tensor, b: Tensor, share: PerSample) -> Batch:
    """sin((1 - share) w) / sin(w) a + sin(share w) / sin(w) b, w the angle between a and b.

    Of two vectors of one length, all that lies between has it too; and of two independent N(0, I)
    in many dimensions, which are nearly orthogonal, what lies between is nearly N(0, I), while a
    straight line passes nearer to 0 than any sample of the prior.

    Args:
        a: (1, ...) or (B, ...).
        b: shaped like a.
        share: (B,), 0 gives a and 1 gives b.

    Raises:
        ValueError: a and b are opposite, or one is 0: no arc joins them, or none alone.
    """
    flat_a, flat_b = a.flatten(1), b.flatten(1)
    unit_a = flat_a / flat_a.norm(dim=1, keepdim=True)
    unit_b = flat_b / flat_b.norm(dim=1, keepdim=True)
    # half the angle from its sine and cosine: an arc cosine loses half the digits of small angles
    sine, cosine = (unit_a - unit_b).norm(dim=1), (unit_a + unit_b).norm(dim=1)
    if not bool((cosine > 1e-6).all()):
        raise ValueError("spherical interpolation needs two vectors that are not opposite, nor 0")
    angle = 2 * torch.atan2(sine, cosine)
    near, far = _share(1 - share, angle), _share(share, angle)
    return near.view(-1, *[1] * (a.ndim - 1)) * a + far.view(-1, *[1] * (a.ndim - 1)) * b


def _share(share: Tensor, angle: Tensor) -> Tensor:
    """sin(share angle) / sin(angle), which is share at 0."""
    parallel = angle == 0
    safe = torch.where(parallel, 1.0, angle)
    return torch.where(parallel, share, (share * safe).sin() / safe.sin())
