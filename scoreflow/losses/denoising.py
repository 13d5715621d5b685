"""Denoising losses as pure functions of model, data, times and noise.

Whatever a network predicts and however its objective is written, it is a weighted error of the
noise, w(t) |eps - eps(x_t, t)|^2, for every other error is that one times a function of t:

    x_0     |x_0 error|^2   = (sigma / alpha)^2 |eps error|^2
    score   |score error|^2 = |eps error|^2 / sigma^2
    mean    |mean error|^2  = (alpha_s w / (alpha_t sigma_t))^2 |eps error|^2        (s = t - 1)
    v       |v error|^2     = (r / alpha)^2 |eps error|^2          r^2 = alpha^2 + sigma^2
    u       |u error|^2     = ((alpha + sigma) / alpha)^2 |eps error|^2
    edm     |F error|^2     = (1 + (sigma / (alpha s))^2) |eps error|^2     (s the data's std)

On the rectified path |u error|^2 dtau = |v error|^2 dphi, for r^2 |u error|^2 = |v error|^2 and
dphi = dtau / r^2: flow matching at uniform times is the v loss at uniform angles.

`score_matching`, `velocity`, `flow_matching` and `edm` are written as what they are called,
`simple` as DDPM writes it; that they are one is shown, not used (`scoreflow.certificate`). Every
function returns one value a sample, averaged over its elements. The two bounds are in nats per
dimension, up to a constant. Where alpha is 0, as at the end of the rectified path, v, u and F have
a finite error of a network that estimates x_0, v or u, and of no other.
"""

import torch
from torch import Tensor

from scoreflow.losses import variational as bound
from scoreflow.samplers.reverse_variance import Variance
from scoreflow.sde.base import SDE, broadcast
from scoreflow.sde.prediction import Denoiser, Prediction


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
    return _mean_square(denoiser(sde.perturb(x_0, t, eps), t).eps - eps)


def score_matching(denoiser: Denoiser, sde: SDE, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """Denoising score matching (Vincent 2011), weighted by sigma^2 as in Song & Ermon 2019.

    sigma^2 |score(x_t, t) - grad log q(x_t | x_0)|^2, grad log q = -(x_t - alpha x_0) / sigma^2.
    """
    x_t = sde.perturb(x_0, t, eps)
    target = -(x_t - broadcast(sde.alpha(t), x_t) * x_0) / broadcast(sde.variance(t), x_t)
    return sde.variance(t).to(x_t.dtype) * _mean_square(denoiser(x_t, t).score - target)


def velocity(denoiser: Denoiser, sde: SDE, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """|v - v(x_t, t)|^2, v = (alpha eps - sigma x_0) / r (Salimans & Ho 2022, section 4).

    v is the velocity of x_0 itself, the field of the flow, whatever datum the network is about:
    with `model.data_std` other than 1 it is not the network's own output, which `edm` is about.
    """
    alpha, sigma, r = (broadcast(each(t), x_0) for each in (sde.alpha, sde.sigma, sde.scale))
    target = (alpha * eps - sigma * x_0) / r
    return _mean_square(denoiser(sde.perturb(x_0, t, eps), t).v - target)


def flow_matching(denoiser: Denoiser, sde: SDE, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """|u - u(x_t, t)|^2, u = eps - x_0: on the rectified path, conditional flow matching.

    Lipman et al. 2023, section 4.1, the optimal-transport path with sigma_min = 0; rectified flow
    (Liu et al. 2023, Eq. 1) of a datum and a noise that are drawn apart from one another. Theirs
    is a mean over uniform times, so `training.times = real` is flow matching. On other processes
    it is the same error of the same view, a weight among others.
    """
    return _mean_square(denoiser(sde.perturb(x_0, t, eps), t).u - (eps - x_0))


def edm(
    denoiser: Denoiser, sde: SDE, x_0: Tensor, t: Tensor, eps: Tensor, spread: float
) -> Tensor:
    """|x_0 - x_0(x_t, t)|^2 times EDM's lambda = 1 / spread^2 + alpha^2 / sigma^2.

    Karras et al. 2022, Table 1: (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 at their noise
    scale, our sigma / alpha. That makes it |F error|^2 of their network F, which is -v of
    x_0 / spread (less the centre, where its images are in [0, 1]).

    Args:
        denoiser: the model in training.
        sde: the process.
        x_0: clean data, (B, ...).
        t: times in steps, (B,) float64.
        eps: standard normal, shaped like x_0.
        spread: of the datum, x_0 = centre + spread z_0: `ScoreModel.asking.spread`, EDM's
            sigma_data for images in [-1, 1].
    """
    weight = spread**-2 + sde.alpha(t) ** 2 / sde.variance(t)
    return weight * _mean_square(denoiser(sde.perturb(x_0, t, eps), t).x_0 - x_0)


def variational(
    denoiser: Denoiser,
    sde: SDE,
    x_0: Tensor,
    t: Tensor,
    eps: Tensor,
    variance: Variance,
) -> Tensor:
    """DDPM's L: N times the term of the variational bound at integer t, nats per dimension."""
    x_t = sde.perturb(x_0, t, eps)
    return _bound_term(denoiser(x_t, t), sde, x_0, t, variance)


def hybrid(
    denoiser: Denoiser, sde: SDE, x_0: Tensor, t: Tensor, eps: Tensor, weight: float
) -> Tensor:
    """L_simple for the mean, plus weight times L for the variance (Nichol & Dhariwal 2021).

    Their L_hybrid, section 3.1: no gradient of L reaches the mean.
    """
    prediction = denoiser(sde.perturb(x_0, t, eps), t)
    mean_held = bound.with_mean_held(prediction)
    return _mean_square(prediction.eps - eps) + weight * _bound_term(
        mean_held, sde, x_0, t, "learned"
    )


def likelihood_weight(sde: SDE, t: Tensor, span: float) -> Tensor:
    """Likelihood weighting (Song et al. 2021, "Maximum likelihood training"): g^2 on the score.

    span g^2 / (2 sigma^2) on the noise, whose mean over times uniform on an interval of that
    length is the continuous bound in nats per dimension. g^2 / sigma^2 = -d log_snr / dt, for any
    process.
    """
    return 0.5 * span * (sde.diffusion(t) ** 2 / sde.variance(t))


def min_snr_weight(sde: SDE, t: Tensor, gamma: float) -> Tensor:
    """Min-SNR-gamma (Hang et al. 2023): min(SNR, gamma) on the x_0 error."""
    snr = sde.log_snr(t).exp()
    return torch.where(snr > 0, snr.clamp(max=gamma) / snr, 1.0)  # its limit where no signal is


def p2_weight(sde: SDE, t: Tensor, gamma: float, k: float) -> Tensor:
    """P2 (Choi et al. 2022): 1 / (k + SNR)^gamma on the noise error."""
    return (k + sde.log_snr(t).exp()).pow(-gamma)


def mean_weight(sde: SDE, t: Tensor) -> Tensor:
    """|posterior mean error|^2 over a whole step: what DDPM's Table 2 calls the mu objective."""
    _, w = sde.transition(t - 1, t)
    return (sde.alpha(t - 1) * w / (sde.sigma(t) * sde.alpha(t))) ** 2


def _bound_term(
    prediction: Prediction, sde: SDE, x_0: Tensor, t: Tensor, variance: Variance
) -> Tensor:
    nats = bound.term(prediction, sde, x_0, t, t - 1, variance)
    return sde.num_steps * nats / x_0[0].numel()


def _mean_square(error: Tensor) -> Tensor:
    return error.square().flatten(1).mean(1)
