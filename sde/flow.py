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

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from scoreflow.sde.base import SDE, Ended, broadcast
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import TELL_X_0, Denoiser
from scoreflow.sde.types import Batch, Times

ILL_POSED_LOG_SNR = -10.5
"""At N: below it an estimate of eps hardly makes a v.

The linear schedule ends at -10.1, which DDPM's networks are sampled from as they are; `log_linear`
at -10.6, the cosine schedule at -19.8. Of the digits after 400 steps 9, 27 and 38 % of the flow's
samples left [-1, 1] by more than 0.5, the last by up to 1300; begun at `WELL_POSED_LOG_SNR` 2, 7
and 4 % did.
"""
WELL_POSED_LOG_SNR = -5.0
"""From where on it does; a prior that stands there costs at most 0.005 bits a dimension of data in
[-1, 1] (see `prior_cost`). A process ends at the whole step before, which costs hardly more where
N is large, and more where a step is a good part of the path."""


def well_posed(sde: SDE, kind: str) -> SDE:
    """The process as far as its flow is well posed for estimates of a kind.

    v = (r eps - sigma x~) / alpha: an error of an estimate of eps, or of a score, is divided by
    alpha, and so is that of x_0. Where alpha at N is nearly 0, samples start with an error of any
    size, and its divergence counts in a likelihood. So the process ends at the greatest whole step
    whose log-SNR is at least `WELL_POSED_LOG_SNR`, with its prior there; that of estimates of x_0,
    v or u, and any other whose log-SNR at N is at least `ILL_POSED_LOG_SNR`, is the whole process.

    Args:
        sde: the process.
        kind: what is estimated: "x_0", "v", "u", or another.
    """
    end = torch.tensor(float(sde.num_steps), dtype=torch.float64)
    if kind in TELL_X_0 or float(sde.log_snr(end)) >= ILL_POSED_LOG_SNR:
        return sde
    start = sde.time_of_log_snr(end.new_tensor(WELL_POSED_LOG_SNR))
    return Ended(sde, max(1, math.floor(float(start))))


def prior_cost(sde: SDE) -> float:
    """Bound on what the prior at N costs a perfect model of data in [-1, 1], nats a dimension.

    The mean log-likelihood is less by KL(p_N | prior), at most the mean over x_0 of that of
    N(alpha x_0, sigma^2) from N(0, s^2), which is greatest at |x_0| = 1:
    1/2 ((alpha^2 + sigma^2) / s^2 - 1 - log(sigma^2 / s^2)).
    """
    end = torch.tensor(float(sde.num_steps), dtype=torch.float64)
    own = sde.variance(end) / sde.prior_std() ** 2
    signal = (sde.alpha(end) / sde.prior_std()) ** 2
    return 0.5 * float(signal + (own - 1) - own.log())


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
