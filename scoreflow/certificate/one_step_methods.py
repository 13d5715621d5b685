"""Identity 4: ancestral, reverse diffusion and Euler-Maruyama are one step, to first order.

One whole step of the chain at half time, from the same points, with the exact denoiser of a
mixture, for chains of more and more steps: N beta stays what it is, so beta falls as 1/N. Means
are compared at noise 0; the variance is the square of what noise 1 adds to that.
"""

import torch
from torch import Tensor

from scoreflow.certificate.identity import Fixed, Identity, falls_as
from scoreflow.data import toy
from scoreflow.figures.plot import Plot, Series
from scoreflow.samplers import Ancestral, EulerMaruyama, ReverseDiffusion, Sampler, Step
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.processes.vp import VPSDE

COUNTS = (125, 250, 500, 1000, 2000, 4000)
POINTS = 64


def steps(device: torch.device | str = "cpu") -> list[Identity]:
    """Differences of one step against its size, and their orders."""
    reverse, euler = ReverseDiffusion(), EulerMaruyama()
    noise = Noise.of(0, 0, POINTS, device)
    return [
        _order("ancestral - reverse diffusion, mean = O(beta^2)", "beta", reverse, 0, noise),
        _order("ancestral - Euler-Maruyama, mean = O(dt^2)", "dt", euler, 0, noise),
        _order("ancestral - Euler-Maruyama, variance = O(dt^2)", "dt", euler, 1, noise),
    ]


def _order(name: str, unit: str, other: Sampler, moment: int, noise: Noise) -> Identity:
    sizes, gaps = [], []
    for count in COUNTS:
        sde = VPSDE.linear(count)
        t = torch.tensor(count / 2, dtype=torch.float64).ceil()
        moments = [_moments(sampler, sde, t, noise) for sampler in (Ancestral("beta"), other)]
        sizes.append(float(sde.betas[int(t) - 1]) if unit == "beta" else 1 / count)
        gaps.append(float((moments[0][moment] - moments[1][moment]).abs().max()))
    line = Series(name.split(" =")[0], sizes, gaps)
    plot = Plot(name, unit, "greatest difference", (line,), log_x=True)
    return falls_as(name, 2, sizes, gaps, (plot,))


def _moments(sampler: Sampler, sde: VPSDE, t: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Mean and variance of x_s given x_t, s = t - 1, at points of the marginal."""
    device = noise.index.device
    mixture = toy.distribution(device)
    exact = mixture.denoiser(sde)
    x_t = sde.perturb(mixture.sample(noise), t, noise.normal(Stream.TRAIN_EPS, (2,)))
    mean, moved = (
        sampler.step(x_t, Step(exact, sde, t, t - 1, Fixed.at_value(z, POINTS, device)))
        for z in (0.0, 1.0)
    )
    return mean, (moved - mean) ** 2
