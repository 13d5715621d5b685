"""The probability flow in the angle, and its divergence.

Along the rotation x~ = cos(phi) x_0 + sin(phi) eps, the marginals of every process are moved by

    dx~ / dphi = v(x~, phi),                   the conditional mean of cos(phi) eps - sin(phi) x_0,
    d log p~ / dphi = -div v                   along a solution,
    log p_t(x_t) = log p~(x_t / r_t) - D log r_t.

No beta, drift or diffusion appears: in t the same flow is f x - g^2 score / 2 (Song et al. 2021,
Eq. 13), which has a kink at every integer step where this field has none.

The divergence is a sum of probe^T J probe over probes, each one vector-Jacobian product through
the evaluation that gave v: the unit vectors give it exactly, random signs give Hutchinson's
unbiased estimate (Hutchinson 1989), with a variance free of the Jacobian's diagonal. The signs
are drawn without replacement from a set whose mean is the exact trace, so that many of them
estimate it better than as many independent ones, and all of them give it exactly.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from scoreflow.sde.base import SDE, broadcast
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import Denoiser
from scoreflow.sde.types import Batch, Times


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


def sign_set_size(dims: int) -> int:
    """K, how many sign vectors `sign_probes` has to draw from: the power of 2 from D on."""
    return 1 << max(dims - 1, 0).bit_length()


def sign_probes(noise: Noise, shape: tuple[int, ...], count: int) -> Tensor:
    """Random signs for each sample, P of them drawn without replacement: (B, P, *shape) float64.

    Rows of the Sylvester-Hadamard matrix H of order K, cut to D columns, each column times a
    random sign. Since H^T H = K I, the mean of probe^T J probe over all K rows is trace J, and
    over P of them its variance is that of independent draws times 1 - (P - 1) / (K - 1).

    Args:
        noise: addresses the signs: the same for any two models, whatever P.
        shape: of an event, D elements.
        count: P in 1..K.

    Raises:
        ValueError: more probes than the set has.
    """
    dims = torch.Size(shape).numel()
    size = sign_set_size(dims)
    if not 1 <= count <= size:
        raise ValueError(f"probes must lie in 1..{size} for {dims} dimensions, got {count}")
    rows = noise.uniform(Stream.PROBE, (size,), draw=1).argsort(1)[:, :count]
    shared = rows[:, :, None] & torch.arange(dims, device=rows.device)
    for shift in (16, 8, 4, 2, 1):  # the parity of the bits that row and column share
        shared = shared ^ (shared >> shift)
    signs = (1 - 2 * (shared & 1)) * noise.rademacher(Stream.PROBE, (dims,))[:, None]
    return signs.view(-1, count, *shape)
