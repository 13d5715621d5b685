"""The variational bound of the discrete chain, term by term (DDPM, Ho et al. 2020, Eq. 5).

For times N = t_K > ... > t_0 = 0 and a real-valued datum x_0,

    -log p(x_0) <= L_T + sum over the steps t -> s of L_t,

    L_T         KL(q(x_N | x_0) || N(0, r^2 I))                                      no network
    L_t, s > 0  E KL(q(x_s | x_t, x_0) || N(mean(x_t, x_0 estimate), variance I))
    L_t, s = 0  E -log N(x_0; mean, variance I)                                      "L_0"

in nats, between normals of diagonal covariance. Where the datum stands for an integer, L_0 may
instead be DDPM's decoder: -log of the probability of the level's whole bin. As the steps are
refined the sum tends to the continuous bound, 1/2 the integral of |x_0 error|^2 dSNR, from above
and as the first power of the stride.
"""

import math
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from scoreflow.samplers.reverse_variance import EpsError, Variance, reverse_variance
from scoreflow.sde.base import SDE, broadcast
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import Denoiser, Prediction


def term(
    prediction: Prediction,
    sde: SDE,
    x_0: Tensor,
    t: Tensor,
    s: Tensor,
    variance: Variance,
    eps_error: EpsError | None = None,
) -> Tensor:
    """L_t of the step from t to s: a KL, or where s = 0 a negative log density.

    Args:
        prediction: at (x_t, t), x_t drawn from q(x_t | x_0).
        sde: the process.
        x_0: (B, ...).
        t: () or (B,), in steps.
        s: shaped like t, below it.
        variance: of the reverse step, as in `samplers.Ancestral`.
        eps_error: as there; of the optimal variance alone.

    Returns:
        Nats, (B,).
    """
    x_t = prediction.x_t
    truth, std = sde.posterior(x_t, x_0, t, s)
    guess, _ = sde.posterior(x_t, prediction.x_0, t, s)
    q = broadcast(std**2, x_t)
    p = reverse_variance(prediction, sde, t, s, variance, eps_error)
    # what is left of a KL where q is a point (s = 0) is a negative log density
    entropy = torch.where(q > 0, 1 + q.clamp(min=1e-300).log(), -math.log(2 * math.pi))
    return 0.5 * (p.log() + (q + (truth - guess) ** 2) / p - entropy).flatten(1).sum(1)


def estimate(
    denoiser: Denoiser, sde: SDE, x_0: Tensor, noise: Noise, strata: int, variance: Variance
) -> Tensor:
    """The bound of the whole chain, all N steps, from a few of them: unbiased, in nats, (B,).

    L_0 and L_T are taken in full; of the others, one at random from each of equal strata of
    2..N, a different one for every sample.

    Args:
        denoiser: evaluated at integer times, `strata` + 1 times a sample.
        sde: the process.
        x_0: (B, ...), real-valued.
        noise: addresses times and noise, by its step too.
        strata: how many of the N - 1 terms to take, 1..N-1.
        variance: of the reverse steps.
    """
    total = prior_term(sde, x_0)
    for k, stretch in enumerate([range(1, 2), *strata_of(sde, strata)]):
        here = noise.at(k)
        t = time_within(stretch, here)
        x_t = sde.perturb(x_0, t, here.normal(Stream.TRAIN_EPS, tuple(x_0.shape[1:])))
        nats = term(denoiser(x_t, t), sde, x_0, t, t - 1, variance)
        total = total + len(stretch) * nats
    return total


def strata_of(sde: SDE, strata: int) -> list[range]:
    """The times 2..N in order, cut into so many stretches of equal length, but for rounding."""
    count = sde.num_steps - 1
    if not 1 <= strata <= count:
        raise ValueError(f"strata must lie in 1..{count}, got {strata}")
    edges = [2 + round(k * count / strata) for k in range(strata + 1)]
    return [range(first, end) for first, end in pairwise(edges)]


def time_within(stretch: range, noise: Noise) -> Tensor:
    """A time of the stretch for every sample, each as likely: (B,), in steps."""
    return stretch.start + (noise.uniform(Stream.TRAIN_TIME) * len(stretch)).floor()


def prior_term(sde: SDE, x_0: Tensor) -> Tensor:
    """L_T: KL(N(alpha_N x_0, sigma_N^2 I) || N(0, r^2 I)) in nats, (B,)."""
    end = torch.tensor(float(sde.num_steps), dtype=torch.float64)
    q, p = sde.variance(end), sde.prior_std() ** 2
    mean = broadcast(sde.alpha(end), x_0) * x_0
    return 0.5 * ((q + mean**2) / p - 1 + (p / q).log()).flatten(1).sum(1)


def with_mean_held(prediction: Prediction) -> Prediction:
    """The same prediction, through whose estimate no gradient flows; its variance still learns."""
    return replace(prediction, value=prediction.value.detach())
