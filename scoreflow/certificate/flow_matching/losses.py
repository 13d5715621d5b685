"""Identity 11: flow matching's loss and EDM's are the v loss, at every time and in total.

On the rectified path alpha + sigma = 1, so that v = r u + (1 - 2 tau) x_t / r and an error of v is
r times that of u, while dphi = dtau / r^2: |u error|^2 dtau = |v error|^2 dphi. And with z_0 =
x_0 / s, s EDM's sigma_data, an error e of x_0 is R / (s sigma) e of the rotation's velocity v_z
(R^2 = s^2 alpha^2 + sigma^2): EDM's lambda |e|^2 is |v_z error|^2 (Karras et al. 2022, Table 1).

The network at hand is asked on these paths by its own clock, in float64. What rounding may make of
a loss is measured as in identity 2: the target is moved by what the conversions lose, and the
change is the yardstick.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from scoreflow.certificate.identity import UNIT_ROUNDOFF, Identity, finite_end, worst
from scoreflow.certificate.noise_vs_score_loss import compared, copied, noise_for
from scoreflow.figures.plot import Plot, Series
from scoreflow.losses import denoising
from scoreflow.losses.times import log_normal_times
from scoreflow.models.score_model import OUTPUTS_OF_NOISE, ScoreModel
from scoreflow.samplers import Reclocked
from scoreflow.sde.base import SDE, broadcast
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import Denoiser, Prediction
from scoreflow.sde.processes.edm import EDMSDE
from scoreflow.sde.processes.rectified import RectifiedSDE

TIMES = 6
STEPS = 1000
SIGMA_DATA = 0.5
"""EDM's; of a network that is about x_0 itself, as any other would do."""
LARGEST_RATIO = 80.0
"""EDM's sigma_max, where the network's own process ends without a signal."""
P_MEAN, P_STD = -1.2, 1.2
UNIT = UNIT_ROUNDOFF[torch.float64]
BASIS = "relative; what roundings of the conversions do to it, times 8"

Losses = Callable[[Denoiser, SDE, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(denoiser, process, x_0, t, eps) -> a loss of each sample in two ways."""
Error = Callable[[Prediction, SDE, Tensor, Tensor, Tensor], Tensor]
"""(estimate, process, x_0, t, eps) -> the error whose mean square it is, shaped like x_0."""


def losses(model: ScoreModel, x_0: Tensor, batch_size: int) -> list[Identity]:
    """Flow matching's and EDM's loss of a network against its v loss, values and gradients.

    Args:
        model: its network is copied, to float64.
        x_0: data, (at least batch_size, ...).
        batch_size: images a gradient.

    Returns:
        Nothing for a network that knows one time: no path has that alone.
    """
    if model.t_min >= finite_end(model.sde):
        return []
    exact = model.with_network(copied(model.network).double()).in_precision("float64")
    batch = x_0[:batch_size].double()
    return [*_flow_matching(exact, batch), *_edm(exact, batch)]


def _ends(model: ScoreModel) -> tuple[float, float]:
    """Sigma / alpha at the least time of a network and at the last one of a signal."""
    ends = torch.tensor([model.t_min, finite_end(model.sde)], dtype=torch.float64)
    low, high = (-0.5 * model.sde.log_snr(ends)).exp().tolist()
    return low, high


# ---- flow matching


def _flow_matching(model: ScoreModel, x_0: Tensor) -> list[Identity]:
    """Uniform tau for u, and the angle that goes with it for v."""
    sde, (low, high) = RectifiedSDE(STEPS), _ends(model)
    ends = [STEPS * ratio / (1 + ratio) for ratio in (low, high)]
    share = (torch.arange(TIMES, dtype=torch.float64) + 0.5) / TIMES
    at = (ends[0] + (ends[1] - ends[0]) * share).to(x_0.device)

    def each_t(
        denoiser: Denoiser, sde: SDE, x_0: Tensor, t: Tensor, eps: Tensor
    ) -> tuple[Tensor, Tensor]:
        v = denoising.velocity(denoiser, sde, x_0, t, eps)
        return denoising.flow_matching(denoiser, sde, x_0, t, eps), v / sde.scale(t) ** 2

    def in_total(
        denoiser: Denoiser, sde: SDE, x_0: Tensor, t: Tensor, eps: Tensor
    ) -> tuple[Tensor, Tensor]:
        of_angle: Tensor = torch.func.jvp(sde.angle, (t,), (torch.ones_like(t),))[1]
        v = denoising.velocity(denoiser, sde, x_0, t, eps)
        return denoising.flow_matching(denoiser, sde, x_0, t, eps), v * of_angle * STEPS

    return _rows(
        ("FM loss = v loss / r^2", "FM loss, tau uniform = v loss, dphi = dtau / r^2"),
        (each_t, in_total),
        lambda found, _sde, x_0, _t, eps: found.u - (eps - x_0),
        Asked(model, sde),
        x_0,
        at,
    )


# ---- EDM


def _edm(model: ScoreModel, x_0: Tensor) -> list[Identity]:
    """Log-normal sigma for both."""
    low, high = _ends(model)
    high = min(high, max(LARGEST_RATIO, 2 * low))
    sde = EDMSDE(STEPS, low, high)
    spread = SIGMA_DATA if model.asking.spread == 1 else model.asking.spread
    mean = min(max(P_MEAN, torch.tensor(low).log().item()), torch.tensor(high).log().item())
    share = (torch.arange(TIMES, dtype=torch.float64) + 0.5) / TIMES
    at = log_normal_times(share, sde, 1.0, mean, P_STD).to(x_0.device)

    def error(found: Prediction, sde: SDE, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        return _own_velocity(found.eps - eps, found.x_0 - x_0, sde, t, spread)

    def both(
        denoiser: Denoiser, sde: SDE, x_0: Tensor, t: Tensor, eps: Tensor
    ) -> tuple[Tensor, Tensor]:
        off = error(denoiser(sde.perturb(x_0, t, eps), t), sde, x_0, t, eps)
        loss = denoising.edm(denoiser, sde, x_0, t, eps, spread)
        return loss, off.square().flatten(1).mean(1)

    name = f"EDM loss = v loss of x_0 / {spread:g}"
    titles = name, f"{name}, log-normal sigma"
    return _rows(titles, (both, both), error, Asked(model, sde), x_0, at)


def _own_velocity(eps: Tensor, x_0: Tensor, sde: SDE, t: Tensor, spread: float) -> Tensor:
    """v_z = (alpha s eps - sigma z_0) / R of z_0 = x_0 / s: -F, with F what EDM's network says."""
    alpha, sigma = spread * sde.alpha(t), sde.sigma(t)
    whole = (alpha**2 + sigma**2).sqrt()
    return broadcast(alpha / whole, eps) * eps - broadcast(sigma / (whole * spread), x_0) * x_0


# ---- both


class Asked:
    """A network on another path, which estimates each point once.

    Args:
        model: the network.
        sde: the path.

    Attributes:
        sde: the path.
        parameters: of the network.
        of_noise: whether it estimates noise.
    """

    def __init__(self, model: ScoreModel, sde: SDE) -> None:
        self.sde, self.parameters = sde, list(model.network.parameters())
        self.of_noise = model.output in OUTPUTS_OF_NOISE
        self._denoiser = Reclocked(model, of=model.sde, on=sde)
        self._last: Prediction | None = None

    def __call__(self, x_t: Tensor, t: Tensor) -> Prediction:
        """The estimate at x_t and t; the last one, if it is asked again."""
        if self._last is None or not torch.equal(self._last.x_t, x_t):
            self._last = self._denoiser(x_t, t)
        return self._last


def _rows(
    names: tuple[str, str],
    ways: tuple[Losses, Losses],
    error: Error,
    asked: Asked,
    x_0: Tensor,
    at: Tensor,
) -> list[Identity]:
    """Each of the times, and all of them: of the loss and of the parameters' gradient."""
    size, eps = len(x_0), noise_for(x_0)
    rows = [_compare(ways[0], error, asked, x_0, t.expand(size), eps) for t in at]
    total = _compare(ways[1], error, asked, x_0, at[torch.arange(size) % len(at)], eps)
    found = []
    for k, name in enumerate(("loss", "parameter gradient")):
        pairs = [pair[k] for pair in rows]
        ends = [float(at[0]), float(at[-1])]
        lines = (
            Series("difference", at.tolist(), [max(pair[0], 1e-20) for pair in pairs]),
            Series("allowed", at.tolist(), [pair[1] for pair in pairs]),
            Series("over all t", ends, [max(total[k][0], 1e-20)] * 2),
            Series("allowed over all t", ends, [total[k][1]] * 2),
        )
        plot = Plot(f"{names[0]}: {name}", "t, steps", "relative difference", lines)
        each = f"{names[0]}: {name}, each of {len(at)} t"
        found.append(Identity(each, *worst(pairs), BASIS, (plot,)))
        found.append(Identity(f"{names[1]}: {name}, over all t", *total[k], BASIS))
    return found


def _compare(
    ways: Losses, error: Error, asked: Asked, x_0: Tensor, t: Tensor, eps: Tensor
) -> list[tuple[float, float]]:
    """(residual, tolerance) of the loss and of its gradient."""

    def three() -> Iterator[Tensor]:
        mine, other = ways(asked, asked.sde, x_0, t, eps)
        yield mine
        yield other
        found, lost = _lost(asked, x_0, t, eps)
        # what it said, against x_0 and eps as they are, and off by what is lost
        told, moved = (
            error(found, asked.sde, x_0 + off, t, eps - off).square().flatten(1).mean(1)
            for off in (0 * lost, lost)
        )
        yield mine + (moved - told)

    return compared(three(), asked.parameters, UNIT)


def _lost(asked: Asked, x_0: Tensor, t: Tensor, eps: Tensor) -> tuple[Prediction, Tensor]:
    """The estimate, and what its conversions lose of x_0 and eps, of random signs."""
    sde = asked.sde
    x_t = sde.perturb(x_0, t, eps)
    found = asked(x_t, t)
    scale = sde.scale(t)
    grows = 1 + scale / (sde.alpha(t) if asked.of_noise else sde.sigma(t))
    size = x_0.abs() + eps.abs() + (x_t / broadcast(scale, x_t)).abs() + found.v.detach().abs()
    signs = Noise.of(1, 0, len(x_0), x_0.device).rademacher(Stream.PROBE, tuple(x_0.shape[1:]))
    return found, 2 * UNIT * broadcast(grows, x_0) * size * signs
