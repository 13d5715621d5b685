"""Identity 6: with an exact denoiser every sampler draws from the data distribution.

A mixture of K Gaussians of width w, drawn with its exact denoiser. Of each sample its component k
is drawn anew from p(k | x); then, if the law is right, the counts of the components are
multinomial and r^2 / w^2, with r the distance from the component's mean, is chi-square with two
degrees of freedom, independently for every sample. The first is tested by Pearson's chi-square,
the second by Kolmogorov and Smirnov's greatest distance; the tolerances are their quantiles.

A sampler of finitely many steps does not draw w^2. Within a component each step is affine, so what
ancestral sampling (with or without a Langevin correction) comes to there is a recursion of one
number, written out in `component_variance`: that is the variance the samples are held against, to
the last percent, and that it tends to w^2 as 1/steps is an identity of its own. Were the tolerance
widened by the whole bias instead, a denoiser evaluated one grid time too late would pass.
"""

import math

import torch
from scipy import stats
from torch import Tensor

from scoreflow.certificate.identity import CHANCE, Identity, falls_as, finite_end
from scoreflow.data import toy
from scoreflow.figures.plot import Plot, Series
from scoreflow.samplers import (
    Ancestral,
    AnnealedLangevin,
    PredictorCorrector,
    ProbabilityFlow,
    Sampler,
    sample,
)
from scoreflow.sde.analytic import GaussianMixture
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise, Stream

COUNT, STEPS, SNR = 8192, 200, 0.2
LEAST_ANGLE = 1e-3
"""Where the last step to clean data begins, radians: a hundredth of a component's width."""


WAYS = ("ancestral", "predictor-corrector", "probability flow")


def marginals(sde: SDE, device: torch.device | str = "cpu") -> list[Identity]:
    """Ancestral, predictor-corrector and flow, from the exact denoiser of a mixture."""
    rows = [row for name in WAYS for row in drawn_law(name, sde, device)]
    return [*rows, _vanishing(sde, 0.0), _vanishing(sde, SNR)]


def drawn_law(name: str, sde: SDE, device: torch.device | str = "cpu") -> list[Identity]:
    """What one of the ways draws."""
    mixture, noise = toy.distribution(device), Noise.of(WAYS.index(name), 0, COUNT, device)
    sampler, times, variance = _way(name, sde)
    x = sample(sampler, mixture.denoiser(sde), sde, times, noise, (2,))
    return law_of_the_mixture(name, x, mixture, variance, noise)


def _way(name: str, sde: SDE) -> tuple[Sampler, Tensor, float]:
    """The sampler, its times, and the variance of a component that it should draw."""
    chain, ancestral = log_snr_times(sde, STEPS), Ancestral("beta")
    if name == "ancestral":
        return ancestral, chain, component_variance(sde, chain)
    if name == "predictor-corrector":
        corrected = PredictorCorrector(ancestral, AnnealedLangevin(SNR))
        return corrected, chain, component_variance(sde, chain, SNR)
    flow = ProbabilityFlow(float(chain[-2]), 1e-4)
    return flow, flow.times(sde.num_steps), _estimated_variance()


def log_snr_times(sde: SDE, count: int) -> Tensor:
    """Times N = t_0 > ... > t_count = 0, the last step but one of them at `LEAST_ANGLE`.

    Equal strides in log-SNR between: no step is a coarse one for what it has to resolve. From
    noise alone the first goes to where the log-SNR is finite.
    """
    end = sde.log_snr(torch.tensor(finite_end(sde), dtype=torch.float64))
    log_snr = torch.linspace(float(end), -2 * math.log(LEAST_ANGLE), count, dtype=torch.float64)
    inner = sde.time_of_log_snr(log_snr[1:])
    return torch.cat([end.new_tensor([sde.num_steps]), inner, end.new_zeros(1)])


def component_variance(sde: SDE, times: Tensor, snr: float = 0.0) -> float:
    """Variance of a component as ancestral sampling with variance w draws it on these times.

    There E[x_0 | x_t] = mean + gain (x_t - alpha mean), so that x_s is a factor of x_t plus noise.
    A correction of step h before it multiplies by 1 - h / (alpha^2 width^2 + sigma^2), adds 2 h.
    """
    t, s = times[:-1], times[1:]
    a, w = sde.transition(s, t)
    total = sde.alpha(t) ** 2 * toy.WIDTH**2 + sde.variance(t)
    gain = sde.alpha(t) * toy.WIDTH**2 / total
    factor = (a * sde.variance(s) + sde.alpha(s) * w * gain) / sde.variance(t)
    h = 2 * a**2 * snr**2 * sde.variance(t)
    value = float(sde.prior_std()) ** 2
    columns = (kept.tolist() for kept in ((1 - h / total) ** 2, 2 * h, factor**2, w * (s > 0)))
    for kept, added, carried, fresh in zip(*columns, strict=True):
        value = carried * (kept * value + added) + fresh
    return value


def _estimated_variance() -> float:
    """Variance of E[x_0 | x_t] within a component, at `LEAST_ANGLE`."""
    return toy.WIDTH**4 / (toy.WIDTH**2 + math.tan(LEAST_ANGLE) ** 2)


def law_of_the_mixture(
    name: str, x: Tensor, mixture: GaussianMixture, variance: float, noise: Noise
) -> list[Identity]:
    """Counts of the components, and radii within them.

    Args:
        name: of the sampler.
        x: (n, 2).
        mixture: whose means and weights they should have.
        variance: of a component, in each direction.
        noise: of the n samples.
    """
    square = torch.cdist(x, mixture.means) ** 2  # (n, K)
    posterior = (mixture.weights.log() - square / (2 * variance)).softmax(1)
    u = noise.uniform(Stream.DATA)[:, None]
    k = (posterior.cumsum(1) < u).sum(1).clamp(max=len(mixture.means) - 1)
    counts = torch.bincount(k, minlength=len(mixture.means)).double().cpu()
    radii = (square.gather(1, k[:, None])[:, 0] / variance).cpu()
    drawn = f"{name} from the exact denoiser"
    return [_shares(drawn, counts, mixture.weights.cpu()), _radii(drawn, radii, variance)]


def _shares(name: str, counts: Tensor, weights: Tensor) -> Identity:
    expected = counts.sum() * weights
    title = f"{name}: shares of the {len(weights)} components"
    k = list(range(1, len(weights) + 1))
    lines = Series("found", k, counts.tolist()), Series("expected", k, expected.tolist())
    return Identity(
        title,
        float(((counts - expected) ** 2 / expected).sum()),
        float(stats.chi2.isf(CHANCE, len(weights) - 1)),
        f"chi-square of {int(counts.sum())} samples; exceeded by chance {CHANCE:.0e} of times",
        (Plot(title, "component", "samples", lines, log_y=False),),
    )


def _radii(name: str, radii: Tensor, variance: float) -> Identity:
    """R^2 in units of the variance; its distribution function is 1 - exp(-r^2 / 2)."""
    u = -torch.expm1(-0.5 * radii.sort().values)
    found = stats.kstest(u.numpy(), "uniform").statistic
    allowed = float(stats.kstwo.isf(CHANCE, len(u)))
    gap = torch.arange(1, len(u) + 1) / len(u) - u
    shown = slice(None, None, max(1, len(u) // 200))
    lines = (
        Series("found - true", u[shown].tolist(), gap[shown].tolist()),
        Series("allowed", [0.0, 1.0], [allowed, allowed]),
        Series("", [0.0, 1.0], [-allowed, -allowed]),
    )
    title = f"{name}: radius within a component"
    return Identity(
        title,
        float(found),
        allowed,
        f"Kolmogorov-Smirnov of {len(u)} samples; exceeded by chance {CHANCE:.0e} of times; a "
        f"component's variance by its steps is {variance / toy.WIDTH**2:.4f} of the true one",
        (Plot(title, "distribution function", "found - true", lines, log_y=False),),
    )


def _vanishing(sde: SDE, snr: float) -> Identity:
    """The error of a component's variance is O(1/steps), a corrector's step size being one too."""
    counts = [STEPS * 2**k for k in range(5)]
    gaps = [
        abs(
            component_variance(sde, log_snr_times(sde, n), snr * math.sqrt(STEPS / n))
            - _estimated_variance()
        )
        / toy.WIDTH**2
        for n in counts
    ]
    name = "predictor-corrector" if snr else "ancestral"
    line = Series("error of the variance, relative", counts, gaps)
    title = f"a component's variance by {name} - its own = O(1/steps)"
    plot = Plot(title, "steps", "relative error of the variance", (line,), log_x=True)
    return falls_as(title, 1, [1 / n for n in counts], gaps, (plot,))
