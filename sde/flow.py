"""The probability flow in the angle, and its divergence.

Along the rotation x~ = cos(phi) x_0 + sin(phi) eps, the marginals of every process are moved by

    dx~ / dphi = v(x~, phi),                   the conditional mean of cos(phi) eps - sin(phi) x_0,
    d log p~ / dphi = -div v                   along a solution,
    log p_t(x_t) = log p~(x_t / r_t) - D log r_t.

No beta, drift or diffusion appears: in t the same flow is f x - g^2 score / 2 (Song et al. 2021,
Eq. 13), which has a kink at every integer step where this field has none.

The divergence is a sum of probe^T J probe over probes, each one vector-Jacobian product through
the evaluation that gave v: the unit vectors give it exactly, random signs give Hutchinson's
unbiased estimate (Hutchinson 1989), with a variance free of the Jacobian's diagonal.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from sde.base import SDE, broadcast
from sde.prediction import Denoiser
from sde.types import Batch, Times


def velocity(sde: SDE, denoiser: Denoiser, angle: Times, x: Batch) -> Batch:
    """The field v at angles in radians, for x on the unit scale (x = x_t / r_t)."""
    t = sde.time(angle)
    return denoiser(broadcast(sde.scale(t), x) * x, t).v


def velocity_and_divergence(
    sde: SDE, denoiser: Denoiser, angle: Times, x: Batch, probes: Iterable[Tensor]
) -> tuple[Batch, Tensor]:
    """The field and probe^T J probe for each probe, from one evaluation of the denoiser.

    Args:
        sde: the process.
        denoiser: evaluated once, with gradients enabled.
        angle: radians, () or (B,).
        x: (B, ...) on the unit scale.
        probes: P probes, each shaped like x.

    Returns:
        v, shaped like x, and the P products, (B, P): sum them for unit vectors, average them for
        random signs.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        v = velocity(sde, denoiser, angle, x)
        products = [
            (torch.autograd.grad(v, x, probe, retain_graph=True)[0] * probe).flatten(1).sum(1)
            for probe in probes
        ]
    return v.detach(), torch.stack(products, dim=1)


def unit_probes(x: Batch) -> Iterator[Batch]:
    """The D unit vectors, each for the whole batch."""
    for d in range(x[0].numel()):
        probe = torch.zeros_like(x)
        probe.flatten(1)[:, d] = 1
        yield probe
