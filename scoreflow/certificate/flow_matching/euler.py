"""Identity 11: Euler's step of flow matching is DDIM's, of any length.

x_s = x_t + (tau_s - tau_t) u with u = eps - x_0 is (1 - tau_s) x_0 + tau_s eps, for x_t is
(1 - tau_t) x_0 + tau_t eps with the same estimates: from noise alone and to clean data too.
"""

import itertools

import torch
from torch import Tensor

from scoreflow.certificate.identity import UNIT_ROUNDOFF, Identity, finite_end
from scoreflow.certificate.noise_vs_score_loss import copied
from scoreflow.data import toy
from scoreflow.figures.plot import Plot, Series
from scoreflow.models.score_model import OUTPUTS_OF_NOISE, ScoreModel
from scoreflow.samplers import DDIM, Reclocked, Step
from scoreflow.sde.base import broadcast
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import Denoiser
from scoreflow.sde.processes.rectified import RectifiedSDE

ROUNDINGS = 16.0
STEPS, POINTS = 1000, 4
FROM = (1.0, 0.999, 0.75, 0.5, 0.25, 0.01)
TO = (0.9, 0.5, 0.1, 1e-3, 0.0)
"""Of tau, each to every lower one."""


def euler_steps(model: ScoreModel, event: tuple[int, ...]) -> list[Identity]:
    """Of the exact denoiser of a mixture, and of the network at hand, in float64.

    A network is asked as far as its own path goes; one that estimates noise where signal is left.
    """
    device = next(model.network.parameters()).device
    sde, exact = RectifiedSDE(STEPS), toy.distribution(device)
    of_mixture = _row("a mixture", exact.denoiser(sde), sde, (2,), (0.0, 1.0), False, device)
    last, end = finite_end(model.sde), float(model.sde.num_steps)
    if model.t_min >= last:  # it knows one time, and there is no step
        return [of_mixture]
    of_noise = model.output in OUTPUTS_OF_NOISE
    ends = torch.tensor([model.t_min, last if of_noise else end], dtype=torch.float64)
    low, high = (ratio / (1 + ratio) for ratio in model.sde.angle(ends).tan().tolist())
    network = model.with_network(copied(model.network).double()).in_precision("float64")
    asked = Reclocked(network, of=model.sde, on=sde)
    return [of_mixture, _row("the network", asked, sde, event, (low, high), of_noise, device)]


def _row(
    whose: str,
    denoiser: Denoiser,
    sde: RectifiedSDE,
    event: tuple[int, ...],
    known: tuple[float, float],
    of_noise: bool,
    device: torch.device,
) -> Identity:
    """The worst of all pairs of tau, from those between two."""
    noise = Noise.of(0, 0, POINTS, device)
    low, high = known
    starts = [tau for tau in FROM if low < tau < high or (tau == 1 and high >= 1)]
    middle = 0.5 * (low + high)
    pairs = [(t, s) for t, s in itertools.product((*starts, middle), TO) if s < t]
    found = [_off(denoiser, sde, t, s, noise, event, of_noise) for t, s in pairs]
    number = list(range(1, len(pairs) + 1))
    allowed = Series("allowed", [1, len(pairs)], [ROUNDINGS, ROUNDINGS])
    title = f"Euler of flow matching against DDIM, {whose}: error in roundings"
    lines = Series("worst point", number, found), allowed
    return Identity(
        f"Euler's step of flow matching = DDIM's, {whose}, {len(pairs)} steps of any length",
        max(found),
        ROUNDINGS,
        "in unit roundoffs of the terms; operations that round",
        (Plot(title, "step", "error, unit roundoffs", lines, log_y=False),),
    )


def _off(
    denoiser: Denoiser,
    sde: RectifiedSDE,
    tau_t: float,
    tau_s: float,
    noise: Noise,
    event: tuple[int, ...],
    of_noise: bool,
) -> float:
    """In unit roundoffs of what the views are made of."""
    t, s = (torch.tensor(tau * STEPS, dtype=torch.float64) for tau in (tau_t, tau_s))
    x_0 = noise.uniform(Stream.DATA, event) * 2 - 1
    x_t = sde.perturb(x_0, t, noise.normal(Stream.TRAIN_EPS, event))
    with torch.no_grad():
        found = denoiser(x_t, t)
        euler = x_t + (float(s) - float(t)) / STEPS * found.u
        ddim = DDIM().step(x_t, Step(denoiser, sde, t, s, noise))
    size: Tensor = x_t.abs() + found.u.abs() + found.x_0.abs() + found.eps.abs()
    if of_noise:  # its u and x_0 are differences over alpha, and those of its own process too
        size = size / broadcast(sde.alpha(t), x_t)
    error = (euler - ddim).abs() / size / UNIT_ROUNDOFF[torch.float64]
    return float(error.max()) if bool(error.isfinite().all()) else float("inf")
