"""What a denoiser says of images beside their likelihood, from few evaluations of each.

At a few levels of noise, each a time t with x_t = alpha x_0 + sigma eps:

    score norm        |eps_hat|^2 / D = sigma^2 |score|^2 / D
    curvature         sigma tr(d eps_hat / d x_t) / D = -sigma^2 tr(grad score) / D
    reconstruction    |x_0_hat - x_0|^2 / D

Under the law of x_t the first two have the same mean (integrate by parts), so their ratio
|score|^2 / -tr(grad score) tells where an image stands in it: SCOPED's T (Barkley et al. 2025). It
is kept as the angle atan2(norm, curvature) = arctan T, which is finite whatever a random trace is.

At the same times without noise, x = alpha x_0, the same two give FLIPD, an estimate of how many
dimensions the data have around x_0 (Kamkari et al. 2024):

    dimension = D + sigma^2 (tr(grad score) + |score|^2) = D (1 - curvature + norm).

Along the flow from the image to noise, moments of eps_hat and of its rate of change: the first
three powers of either, as DiffPath's six (Heng et al. 2024), here means over pixels and steps
where they take sums, in the clock of `likelihood.nodes.clock` where they take the steps of DDIM.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoreflow.likelihood.nodes.clock import Clock
from scoreflow.sde.base import SDE, broadcast
from scoreflow.sde.flow import sign_probes, unit_probes
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import Denoiser, Prediction

LOG_SNR = (6.0, 3.0, 0.0, -3.0)
"""Levels of noise: sigma / alpha of 0.05, 0.22, 1 and 4.5."""
PATH = 10
"""Evaluations along the flow."""
MOMENTS = (
    "eps",
    "eps squared",
    "eps cubed",
    "rate of eps",
    "rate of eps squared",
    "rate of eps cubed",
)


@dataclass(frozen=True)
class AtLevel:
    """Of each image at one level of noise, (B,) float64.

    Attributes:
        norm: |eps_hat|^2 / D.
        curvature: sigma tr(d eps_hat / d x_t) / D, exact or by random probes.
        reconstruction: |x_0_hat - x_0|^2 / D.
    """

    norm: Tensor
    curvature: Tensor
    reconstruction: Tensor

    @property
    def angle(self) -> Tensor:
        """Of the score's norm against its curvature, radians: pi / 4 where they are equal."""
        return torch.atan2(self.norm, self.curvature)

    @property
    def dimension(self) -> Tensor:
        """Of the data around x_0, over D, where no noise was added."""
        return 1 - self.curvature + self.norm


def levels(sde: SDE, t_min: float, end: float) -> Tensor:
    """Times of the levels `LOG_SNR`, in steps, within [t_min, end], (K,) float64."""
    return sde.time_of_log_snr(torch.tensor(LOG_SNR, dtype=torch.float64)).clamp(t_min, end)


def at_level(
    denoiser: Denoiser, sde: SDE, x_0: Tensor, t: Tensor, eps: Tensor, probes: Sequence[Tensor]
) -> AtLevel:
    """The statistics of images at a time, from one evaluation and a product a probe.

    Args:
        denoiser: differentiable in x_t.
        sde: the process.
        x_0: (B, ...) float64.
        t: in steps, ().
        eps: the noise, shaped like x_0; zeros for none.
        probes: random signs, each shaped like x_0; none for the exact trace.
    """
    dims = x_0[0].numel()
    with torch.enable_grad():
        x_t = sde.perturb(x_0, t, eps).detach().requires_grad_()
        prediction = denoiser(x_t, t)
        directions = probes or unit_probes(x_t.detach())  # D unit vectors: never all in memory
        products = [_product(prediction, x_t, each) for each in directions]
    trace = torch.stack(products).sum(0) / max(1, len(probes))
    eps_hat, x_0_hat = prediction.eps.detach(), prediction.x_0.detach()
    return AtLevel(
        norm=(eps_hat**2).flatten(1).mean(1),
        curvature=sde.sigma(t).to(trace.device) * trace / dims,
        reconstruction=((x_0_hat - x_0) ** 2).flatten(1).mean(1),
    )


def _product(prediction: Prediction, x_t: Tensor, probe: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(prediction.eps, x_t, probe, retain_graph=True)
    return (found * probe).flatten(1).sum(1)


def probes_of(noise: Noise, shape: tuple[int, ...], count: int) -> tuple[Tensor, ...]:
    """Random signs for each image, P of them; none for P = 0."""
    return sign_probes(noise, shape, count).unbind(1) if count else ()


def noise_of(noise: Noise, shape: tuple[int, ...]) -> Tensor:
    """The noise that an image is seen in, (B, *shape) float64."""
    return noise.normal(Stream.PREDICTOR, shape)


def path_moments(
    denoiser: Denoiser, sde: SDE, x_0: Tensor, t_min: float, end: float, count: int = PATH
) -> Tensor:
    """Moments of eps_hat along the flow and of its rate of change, (B, 6) as `MOMENTS`.

    The steps are DDIM's, x~ at the next angle being cos(phi) x_0_hat + sin(phi) eps_hat, from
    the image as it stands at t_min.

    Args:
        denoiser: asked at each of the points.
        sde: the process.
        x_0: (B, ...) float64.
        t_min: where the flow begins, in steps.
        end: where it ends.
        count: evaluations, M at least 2; the clock runs from 0 to 1 - 1 / M.
    """
    bounds = torch.tensor((t_min, end), dtype=torch.float64)
    clock = Clock(*sde.angle(bounds).tolist())
    angles, _ = clock.angles(torch.arange(count, dtype=torch.float64) / count)
    x, found = x_0 / float(sde.scale(bounds[0])), []
    for k, angle in enumerate(angles):
        t = sde.time(angle)
        prediction = denoiser(broadcast(sde.scale(t), x) * x, t)
        found.append(prediction.eps.flatten(1))
        if k + 1 < count:
            after = float(angles[k + 1])
            x = math.cos(after) * prediction.x_0 + math.sin(after) * prediction.eps
    eps = torch.stack(found, 1)
    rate = eps.diff(dim=1) * count
    powers = [(each**power).mean((1, 2)) for each in (eps, rate) for power in (1, 2, 3)]
    return torch.stack(powers, 1)
