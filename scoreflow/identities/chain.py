"""Identity 3: the DDPM chain is the SDE at integer times, its bound the continuous one.

The chain's numbers are computed from the betas in 40-digit decimals, by DDPM's formulas; the
process's come from its float64 table. Each table entry is a sum of up to N rounded terms, so log
alpha is known to N u |log alpha_N|, and with it every quantity below, times its own condition
number where one small variance is the difference of two large ones.
"""

import math
from decimal import Decimal, localcontext

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from scoreflow import bound
from scoreflow.identities.identity import UNIT_ROUNDOFF, Identity, falls_as
from scoreflow.plot import Plot, Series
from sde.analytic import gaussian
from sde.base import SDE
from sde.noise import Noise, Stream
from sde.vp import VPSDE

ROUNDINGS = 16.0
SPREAD = 0.6


def chain(vp: VPSDE) -> list[Identity]:
    """A VP-SDE against its chain."""
    return [_transitions(vp), _posterior(vp), _terms(vp), _bound(vp)]


def _known(vp: VPSDE) -> float:
    """Relative precision of alpha, by the number of roundings in its sum."""
    end = vp.log_alpha(torch.tensor(float(vp.num_steps), dtype=torch.float64))
    return UNIT_ROUNDOFF[torch.float64] * vp.num_steps * max(1.0, abs(float(end)))


def _decimals(betas: Tensor) -> tuple[list[Decimal], list[Decimal]]:
    """(beta_i) and (alpha-bar_i), i = 1..N, alpha-bar_i = prod_j (1 - beta_j)."""
    values, product, products = [Decimal(b) for b in betas.tolist()], Decimal(1), []
    for beta in values:
        product *= 1 - beta
        products.append(product)
    return values, products


def _tensor(values: list[Decimal]) -> Tensor:
    return torch.tensor([float(value) for value in values], dtype=torch.float64)


def _transitions(vp: VPSDE) -> Identity:
    """N(sqrt(1 - beta_i) x, beta_i I), and the marginal N(sqrt(alpha-bar_i) x_0, ...)."""
    i = torch.arange(1, vp.num_steps + 1, dtype=torch.float64)
    a, w = vp.transition(i - 1, i)
    with localcontext() as context:
        context.prec = 40
        betas, products = _decimals(vp.betas)
        roots = _tensor([(1 - beta).sqrt() for beta in betas])
        alpha = _tensor([product.sqrt() for product in products])
        variance = _tensor([1 - product for product in products])
    beta = vp.betas
    errors = {
        "transition factor": (a - roots).abs() / roots,
        "transition variance": (w - beta).abs() / vp.variance(i),
        "marginal factor": (vp.alpha(i) - alpha).abs() / alpha,
        "marginal variance": (vp.variance(i) - variance).abs() / variance,
    }
    return _worst_of("transitions and marginals of the chain = of the SDE", errors, i, _known(vp))


def _posterior(vp: VPSDE) -> Identity:
    """DDPM's Eq. 7, in DDPM's letters."""
    i = torch.arange(1, vp.num_steps + 1, dtype=torch.float64)
    one, zero = torch.ones(len(i), 1, dtype=torch.float64), torch.zeros(len(i), 1).double()
    of_x_t, std = vp.posterior(one, zero, i, i - 1)
    of_x_0, _ = vp.posterior(zero, one, i, i - 1)
    with localcontext() as context:
        context.prec = 40
        betas, products = _decimals(vp.betas)
        before = [Decimal(1), *products[:-1]]
        rows = list(zip(betas, before, products, strict=True))
        x_0 = _tensor([p.sqrt() * b / (1 - q) for b, p, q in rows])
        x_t = _tensor([(1 - b).sqrt() * (1 - p) / (1 - q) for b, p, q in rows])
        variance = _tensor([(1 - p) / (1 - q) * b for b, p, q in rows])
    cancels = vp.betas / vp.variance(i)  # w is a difference
    errors = {
        "factor of x_t": (of_x_t[:, 0] - x_t).abs(),
        "factor of x_0": (of_x_0[:, 0] - x_0).abs() / x_0 * cancels,
        "variance": (std**2 - variance).abs() / vp.betas * cancels,
    }
    return _worst_of("posterior of the SDE = DDPM Eq. 7", errors, i, _known(vp))


def _worst_of(name: str, errors: dict[str, Tensor], i: Tensor, known: float) -> Identity:
    series = tuple(Series(key, i.tolist(), (e / known).tolist()) for key, e in errors.items())
    return Identity(
        name + ", every i",
        max(float(e.max()) for e in errors.values()) / known,
        ROUNDINGS,
        "in N unit roundoffs of log alpha; operations that round",
        (Plot(f"{name}: error in N roundings", "i", series),),
    )


def _terms(vp: VPSDE) -> Identity:
    """Each L_t against torch's KL between normals whose moments come by Bayes' rule."""
    i = torch.arange(2, vp.num_steps + 1, dtype=torch.float64)
    noise = Noise.of(0, 2, vp.num_steps + 1)
    x_0 = SPREAD * noise.normal(Stream.DATA, (1,))
    x_t = vp.perturb(x_0, i, noise.normal(Stream.TRAIN_EPS, (1,)))
    prediction = _exact(vp)(x_t, i)
    s, (a, _) = i - 1, vp.transition(i - 1, i)
    beta, var_s, alpha_s = vp.betas[1:, None], vp.variance(s)[:, None], vp.alpha(s)[:, None]
    variance = 1 / (1 / var_s + a[:, None] ** 2 / beta)

    def mean(x_0: Tensor) -> Tensor:
        return variance * (alpha_s * x_0 / var_s + a[:, None] * x_t / beta)

    kl = kl_divergence(
        Normal(mean(x_0), variance.sqrt()), Normal(mean(prediction.x_0), beta.sqrt())
    )
    found = bound.term(prediction, vp, x_0, i, s, "beta")
    cancels = vp.variance(i) / vp.betas[1:]
    error = (found - kl[:, 0]).abs() / (_known(vp) * cancels * (1 + kl[:, 0]))
    return _worst_of("terms of the discrete bound = closed-form KLs", {"L_t": error}, i, 1.0)


def _bound(vp: VPSDE) -> Identity:
    """The bound of ever finer chains on one path, for Gaussian data and the exact denoiser.

    Its diffusion part is a Riemann sum of 1/2 E|x_0 error|^2 dSNR, whose integral here is
    1/2 log((1/v + SNR_max) / (1/v + SNR_min)), v the variance of the data.
    """
    ends = torch.tensor([1.0, float(vp.num_steps)], dtype=torch.float64)
    top, bottom = (float(snr) for snr in vp.log_snr(ends).exp())
    limit = 0.5 * math.log((1 / SPREAD**2 + top) / (1 / SPREAD**2 + bottom))
    counts, gaps = [64, 128, 256, 512, 1024], []
    for count in counts:
        # equal strides in log-SNR: every step of the same share
        log_snr = torch.linspace(math.log(top), math.log(bottom), count + 1, dtype=torch.float64)
        times = vp.time((-0.5 * log_snr).exp().atan())
        gaps.append(_diffusion_part(vp, times[1:], times[:-1]) - limit)
    line = Series("bound - limit, nats", counts, gaps)
    plot = Plot("The discrete bound tends to the continuous one", "steps", (line,), log_x=True)
    return falls_as(
        "discrete bound - continuous bound = O(1/N)", 1, [1 / n for n in counts], gaps, (plot,)
    )


def _diffusion_part(sde: SDE, t: Tensor, s: Tensor) -> float:
    """Sum of E L_t over the steps, exact by Gauss-Hermite nodes: the terms are quadratic."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(3))
    weights, total = weights / weights.sum(), 0.0
    for z_0, w_0 in zip(nodes, weights, strict=True):
        for z, w in zip(nodes, weights, strict=True):
            x_0 = (SPREAD * z_0).expand(len(t), 1)
            x_t = sde.perturb(x_0, t, z.expand(len(t), 1))
            terms = bound.term(_exact(sde)(x_t, t), sde, x_0, t, s, "posterior")
            total += float(w_0 * w * terms.sum())
    return total


def _exact(sde: SDE):  # noqa: ANN202
    mean, variance = torch.zeros(1).double(), torch.full((1, 1), SPREAD**2).double()
    return gaussian(mean, variance).denoiser(sde)
