"""Identity 3: the chain is the SDE at integer times, its bound the continuous one.

DDPM's chain under a VP-SDE, SMLD's under a VE-SDE (Song et al. 2021, section 3), and on Karras'
noise scales under EDM's process; under the rectified path the chain of its marginals, whose last
step keeps nothing of the signal. The chain's numbers are computed in 40-digit decimals by its
paper's formulas, from the betas, the ends of the noise scales, or the fractions i / N; the
process's come from its float64 clock. A clock is a sum of rounded terms, so log alpha, or log
sigma, is known to so many unit roundoffs, and with it every quantity below, times its own
condition number where one small variance is the difference of two large ones.
"""

import math
from dataclasses import dataclass, replace
from decimal import Context, Decimal, localcontext
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from scoreflow.certificate.identity import UNIT_ROUNDOFF, Identity, falls_as, finite_end
from scoreflow.figures.plot import Plot, Series
from scoreflow.losses import variational
from scoreflow.sde.analytic import gaussian
from scoreflow.sde.base import SDE, Rescaled
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import Denoiser
from scoreflow.sde.processes.edm import EDMSDE
from scoreflow.sde.processes.rectified import RectifiedSDE
from scoreflow.sde.processes.subvp import SubVPSDE
from scoreflow.sde.processes.ve import VESDE
from scoreflow.sde.processes.vp import VPSDE

ROUNDINGS = 16.0
SPREAD = 0.6


@dataclass(frozen=True)
class _Chain:
    """x_i = a_i x_{i-1} + sqrt(w_i) z for i = 1..N, in decimals.

    Attributes:
        name: of it, with its owner's.
        factor: a_1..a_N.
        added: w_1..w_N.
        signal: alpha_0..alpha_N.
        variance: sigma_0^2..sigma_N^2.
        known: relative precision of the process's own alpha and sigma^2.
    """

    name: str
    factor: list[Decimal]
    added: list[Decimal]
    signal: list[Decimal]
    variance: list[Decimal]
    known: float


def chain(sde: SDE, device: torch.device | str = "cpu") -> list[Identity]:
    """A process against its chain; a sub-VP, which has none, through the VP of its betas."""
    if isinstance(sde, Rescaled):
        rows = chain(sde.base, device)
        return [replace(row, name=f"{row.name}; in the units of its own images") for row in rows]
    if isinstance(sde, SubVPSDE):
        rows = chain(VPSDE(sde.betas), device)
        return [replace(row, name=f"{row.name}; the VP of this sub-VP's betas") for row in rows]
    with localcontext(Context(prec=40)):
        one = _chain_of(sde)
        moments = [_transitions(one, sde, device), _posterior(one, sde, device)]
    if sde.num_steps == 1:  # no step between two times of the process, of which a bound is made
        return moments
    return [*moments, _terms(one, sde, device), _bound(sde, device)]


def _chain_of(sde: SDE) -> _Chain:
    if isinstance(sde, VESDE):
        return _smld(sde)
    if isinstance(sde, EDMSDE):
        return _edm(sde)
    return _straight(sde) if isinstance(sde, RectifiedSDE) else _ddpm(sde)


def _ddpm(sde: SDE) -> _Chain:
    """a_i^2 = 1 - beta_i, w_i = beta_i; alpha-bar_i = prod_j (1 - beta_j)."""
    assert isinstance(sde, VPSDE), f"a chain of {type(sde).__name__} is not known"
    betas = [Decimal(beta) for beta in sde.betas.tolist()]
    bars = list(accumulate((1 - beta for beta in betas), lambda a, b: a * b, initial=Decimal(1)))
    end = max(1.0, abs(float(bars[-1].ln()) / 2))
    return _Chain(
        "DDPM's chain",
        [(1 - beta).sqrt() for beta in betas],
        betas,
        [bar.sqrt() for bar in bars],
        [1 - bar for bar in bars],
        UNIT_ROUNDOFF[torch.float64] * sde.num_steps * end,  # a sum of N rounded terms
    )


def _smld(sde: VESDE) -> _Chain:
    """sigma_i = sigma_min (sigma_max / sigma_min)^((i - 1) / (N - 1)), w_i by difference."""
    low, high = (2 * Decimal(sigma).ln() for sigma in (sde.sigma_min, sde.sigma_max))
    count = sde.num_steps
    variance = [(low + (high - low) * i / (count - 1)).exp() for i in range(count)]
    logs = max(1.0, abs(float(low)), abs(float(high)), float(high - low))
    # its ends, its slope and their sum are rounded
    return _noise_alone("SMLD's chain", variance, 4 * UNIT_ROUNDOFF[torch.float64] * logs)


def _edm(sde: EDMSDE) -> _Chain:
    """SMLD on other scales: sigma_i^(1 / rho) linear in i (Karras et al. 2022, Eq. 5)."""
    rho, count = Decimal(sde.rho), sde.num_steps
    low, high = (Decimal(sigma) ** (1 / rho) for sigma in (sde.sigma_min, sde.sigma_max))
    variance = [(low + (high - low) * i / (count - 1)) ** (2 * rho) for i in range(count)]
    # the root's two ends, slope and sum are rounded, and raised to the power 2 rho
    known = 4 * UNIT_ROUNDOFF[torch.float64] * max(1.0, 2 * sde.rho)
    return _noise_alone("SMLD's chain on Karras' scales", variance, known)


def _noise_alone(name: str, variance: list[Decimal], known: float) -> _Chain:
    """The signal stays; from sigma_1^2..sigma_N^2."""
    variance, count = [Decimal(0), *variance], len(variance)
    return _Chain(
        name,
        [Decimal(1)] * count,
        [after - before for before, after in pairwise(variance)],
        [Decimal(1)] * (count + 1),
        variance,
        known,
    )


def _straight(sde: RectifiedSDE) -> _Chain:
    """x_i = (1 - i/N) x_0 + i/N eps: a_i by division, w_i by difference; a_N = 0 and w_N = 1."""
    tau = [Decimal(i) / sde.num_steps for i in range(sde.num_steps + 1)]
    factor = [(1 - after) / (1 - before) for before, after in pairwise(tau)]
    kept = zip(factor, pairwise(tau), strict=True)
    return _Chain(
        "the rectified path's chain",
        factor,
        [after**2 - (a * before) ** 2 for a, (before, after) in kept],
        [1 - each for each in tau],
        [each**2 for each in tau],
        4 * UNIT_ROUNDOFF[torch.float64],  # i / N is rounded, squared, and multiplied twice
    )


def _tensor(values: list[Decimal], like: Tensor) -> Tensor:
    return like.new_tensor([float(value) for value in values])


def _integers(first: int, sde: SDE, device: torch.device | str) -> Tensor:
    return torch.arange(first, sde.num_steps + 1, dtype=torch.float64, device=device)


def _transitions(one: _Chain, sde: SDE, device: torch.device | str) -> Identity:
    """N(a_i x, w_i I), and the marginal N(alpha_i x_0, sigma_i^2 I)."""
    i = _integers(1, sde, device)
    a, w = sde.transition(i - 1, i)
    factor, added = _tensor(one.factor, i), _tensor(one.added, i)
    alpha, variance = _tensor(one.signal[1:], i), _tensor(one.variance[1:], i)
    errors = {
        "transition factor": _relative(a, factor),
        "transition variance": (w - added).abs() / variance,
        "marginal factor": _relative(sde.alpha(i), alpha),
        "marginal variance": (sde.variance(i) - variance).abs() / variance,
    }
    name = f"transitions and marginals of {one.name} = of the SDE"
    return _worst_of(name, errors, i, one.known)


def _relative(found: Tensor, expected: Tensor) -> Tensor:
    """Of factors, which are 0 where no signal is left and must be that then."""
    return torch.where(found == expected, 0.0, (found - expected).abs() / expected)


def _posterior(one: _Chain, sde: SDE, device: torch.device | str) -> Identity:
    """DDPM's Eq. 7; SMLD's is the same with its own letters."""
    i = _integers(1, sde, device)
    full, none = torch.ones_like(i)[:, None], torch.zeros_like(i)[:, None]
    of_x_t, std = sde.posterior(full, none, i, i - 1)
    of_x_0, _ = sde.posterior(none, full, i, i - 1)
    rows = zip(one.factor, one.added, one.signal, *_before_and_after(one.variance), strict=False)
    terms = [(before * w, a * before, alpha * w, now) for a, w, alpha, before, now in rows]
    variance, x_t, x_0 = (_tensor([row[k] / row[3] for row in terms], i) for k in range(3))
    added = _tensor(one.added, i)
    cancels = added / sde.variance(i)  # w is a difference
    errors = {
        "factor of x_t": (of_x_t[:, 0] - x_t).abs(),
        "factor of x_0": (of_x_0[:, 0] - x_0).abs() / x_0 * cancels,
        "variance": (std**2 - variance).abs() / added * cancels,
    }
    whose = "DDPM Eq. 7" if one.name == "DDPM's chain" else one.name.replace(" chain", "")
    name = f"posterior of the SDE = {whose}"
    return _worst_of(name, errors, i, one.known)


def _before_and_after(values: list[Decimal]) -> tuple[list[Decimal], list[Decimal]]:
    return values[:-1], values[1:]


def _worst_of(name: str, errors: dict[str, Tensor], i: Tensor, known: float) -> Identity:
    series = tuple(Series(key, i.tolist(), (e / known).tolist()) for key, e in errors.items())
    return Identity(
        name + ", every i",
        max(float(e.max()) for e in errors.values()) / known,
        ROUNDINGS,
        "in roundings of log alpha and log sigma; operations that round",
        (Plot(f"{name}: error in roundings", "step i", "error, roundings", series),),
    )


def _terms(one: _Chain, sde: SDE, device: torch.device | str) -> Identity:
    """Each L_t against torch's KL between normals whose moments come by Bayes' rule."""
    i = _integers(2, sde, device)
    s, size = i - 1, sde.num_steps + 1
    noise = Noise.of(0, 2, size, device)
    x_0 = SPREAD * noise.normal(Stream.DATA, (1,))
    x_t = sde.perturb(x_0, i, noise.normal(Stream.TRAIN_EPS, (1,)))
    prediction = _exact(sde, device)(x_t, i)
    a, w = _tensor(one.factor[1:], i)[:, None], _tensor(one.added[1:], i)[:, None]
    var_s, alpha_s = sde.variance(s)[:, None], sde.alpha(s)[:, None]
    variance = 1 / (1 / var_s + a**2 / w)

    def mean(x_0: Tensor) -> Tensor:
        return variance * (alpha_s * x_0 / var_s + a * x_t / w)

    truth, guess = mean(x_0), mean(prediction.x_0)
    kl = kl_divergence(Normal(truth, variance.sqrt()), Normal(guess, w.sqrt()))
    found = variational.term(prediction, sde, x_0, i, s, "beta")
    cancels = sde.variance(i) / w[:, 0]
    # two means of the data's size are rounded before their small difference is taken
    rounded = UNIT_ROUNDOFF[torch.float64] * (truth.abs() + guess.abs()) * (truth - guess).abs()
    scale = one.known * cancels * (1 + kl[:, 0]) + (rounded / w)[:, 0]
    error = (found - kl[:, 0]).abs() / scale
    return _worst_of("terms of the discrete bound = closed-form KLs", {"L_t": error}, i, 1.0)


def _bound(sde: SDE, device: torch.device | str) -> Identity:
    """The bound of ever finer chains on one path, for Gaussian data and the exact denoiser.

    Its diffusion part is a Riemann sum of 1/2 E|x_0 error|^2 dSNR, whose integral here is
    1/2 log((1/v + SNR_max) / (1/v + SNR_min)), v the variance of the data.
    """
    ends = torch.tensor([1.0, finite_end(sde)], dtype=torch.float64)
    top, bottom = (float(snr) for snr in sde.log_snr(ends).exp())
    limit = 0.5 * math.log((1 / SPREAD**2 + top) / (1 / SPREAD**2 + bottom))
    counts, gaps = [64, 128, 256, 512, 1024], []
    for count in counts:
        # equal strides in log-SNR: every step of the same share
        log_snr = torch.linspace(math.log(top), math.log(bottom), count + 1, dtype=torch.float64)
        times = sde.time_of_log_snr(log_snr).to(device)
        gaps.append(_diffusion_part(sde, times[1:], times[:-1]) - limit)
    line = Series("bound - limit, nats", counts, gaps)
    title = "The discrete bound tends to the continuous one"
    plot = Plot(title, "steps", "bound - limit, nats", (line,), log_x=True)
    return falls_as(
        "discrete bound - continuous bound = O(1/N)", 1, [1 / n for n in counts], gaps, (plot,)
    )


def _diffusion_part(sde: SDE, t: Tensor, s: Tensor) -> float:
    """Sum of E L_t over the steps, exact by Gauss-Hermite nodes: the terms are quadratic."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    total, exact = 0.0, _exact(sde, t.device)
    for z_0, w_0 in zip(nodes, weights / weights.sum(), strict=True):
        for z, w in zip(nodes, weights / weights.sum(), strict=True):
            x_0 = t.new_full((len(t), 1), SPREAD * z_0)
            x_t = sde.perturb(x_0, t, torch.full_like(x_0, z))
            terms = variational.term(exact(x_t, t), sde, x_0, t, s, "posterior")
            total += w_0 * w * float(terms.sum())
    return total


def _exact(sde: SDE, device: torch.device | str) -> Denoiser:
    mean = torch.zeros(1, dtype=torch.float64, device=device)
    return gaussian(mean, mean.new_full((1, 1), SPREAD**2)).denoiser(sde)
