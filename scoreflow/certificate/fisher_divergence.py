"""Identity 7: the error of a learned score is what its loss has in excess of the least one.

On data of known density the best noise estimate eps* at (x_t, t) is known, and at every t

    E|eps_hat - eps|^2 - E|eps* - eps|^2 = E|eps_hat - eps*|^2 = sigma^2 E|score_hat - score|^2,

the last of which is sigma^2 times the Fisher divergence. Both sides are means over the same draws;
they differ by a mean of 2 (eps_hat - eps*)(eps* - eps), whose expectation is zero and whose
standard error is known.
"""

import torch
from scipy import stats
from torch import Tensor

from scoreflow.certificate.identity import CHANCE, Identity, finite_end, worst
from scoreflow.figures.plot import Plot, Series
from scoreflow.models.score_model import ScoreModel
from scoreflow.sde.analytic import Distribution
from scoreflow.sde.noise import Noise, Stream
from scoreflow.uncertainty import mean_and_error

TIMES, POINTS = 20, 4096
STANDARD_ERRORS = float(stats.norm.isf(CHANCE / (2 * TIMES)))
"""Exceeded at one of the times as often as a row may be by chance."""


def learned(model: ScoreModel, truth: Distribution, whose: str) -> list[Identity]:
    """The excess loss of a network against the error of its score, over t."""
    sde = model.sde
    low, high = sde.log_snr(torch.tensor([model.t_min, finite_end(sde)]).double())
    log_snr = torch.linspace(float(low), float(high), TIMES, dtype=torch.float64)
    at = sde.time_of_log_snr(log_snr).clamp(model.t_min, sde.num_steps)
    rows = [_at(model, truth, t, k) for k, t in enumerate(at)]
    pairs = [(abs(excess - error), STANDARD_ERRORS * noise) for excess, error, noise in rows]
    angles = sde.angle(at).tolist()
    series = (
        Series("excess loss", angles, [row[0] for row in rows]),
        Series("sigma^2 |score error|^2", angles, [row[1] for row in rows]),
        Series("standard error", angles, [row[2] for row in rows]),
    )
    title = "Learned against true score, by angle"
    return [
        Identity(
            f"excess loss of {whose} = sigma^2 Fisher divergence, each of {TIMES} t",
            *worst(pairs),
            f"mean square of the noise; {STANDARD_ERRORS:.2f} standard errors of the cross term, "
            f"exceeded by chance {CHANCE:.0e} of times",
            (Plot(title, "phi, radians", "mean square of the noise", series),),
        )
    ]


def _at(
    model: ScoreModel, truth: Distribution, t: Tensor, step: int
) -> tuple[float, float, float]:
    """Excess loss, squared error of the estimate, and the standard error of their difference.

    The truth lies on the network's device.
    """
    device = next(model.network.parameters()).device
    noise = Noise.of(7, 0, POINTS, device).at(step)
    x_0 = truth.sample(noise)
    eps = noise.normal(Stream.TRAIN_EPS, (x_0.shape[1],))
    x_t = model.sde.perturb(x_0, t, eps)
    with torch.no_grad():
        guess = model(x_t, t).eps
    best = truth.denoiser(model.sde)(x_t, t).eps
    excess = ((guess - eps) ** 2 - (best - eps) ** 2).mean(1)
    error = ((guess - best) ** 2).mean(1)
    _, spread = mean_and_error(excess - error)
    return float(excess.mean()), float(error.mean()), spread
