"""Identity 10, second half: a network's outputs and precisions, changes of process, densities."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor, nn

from scoreflow.certificate.closed_forms.methods import MEAN, World
from scoreflow.certificate.closed_forms.numbers import distance
from scoreflow.certificate.closed_forms.processes import BASIS, HALF_THE_DIGITS, Known
from scoreflow.certificate.closed_forms.sampler_steps import LOWEST, exact
from scoreflow.certificate.identity import UNIT_ROUNDOFF, Identity
from scoreflow.certificate.prediction_views import conversions
from scoreflow.models.residual.pixel_law import LEAST_SIGNAL, PixelLaw
from scoreflow.models.score_model import HALF, OUTPUTS_OF_NOISE, Output, ScoreModel
from scoreflow.samplers import Reclocked
from scoreflow.sde.analytic import gaussian
from scoreflow.sde.base import SDE
from scoreflow.sde.flow import sign_probes, sign_set_size, unit_probes, velocity_and_divergence
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import OF_NOISE, Denoiser, Prediction
from scoreflow.sde.processes.vp import VPSDE

Device = torch.device | str
LogDensity = Callable[[Denoiser, SDE, Tensor, float, Noise, int, float], Tensor]
"""(denoiser, process, x_t, t, noise, probes or 0, tolerance) -> nats by the flow, (B, P)."""
BATCH = 4
LEVELS = 8
"""Of pixels whose law a network of the residual knows."""
LOGIT = 0.6
"""Of a learned variance, which lies at (1 + 0.6) / 2 between the least and the greatest: Nichol &
Dhariwal 2021, their Eq. 15, with the scale of their code."""
VIEWS = ("eps", "x_0", "v", "u", "score")


def estimates(
    known: list[Known], log_density: LogDensity, device: Device = "cpu"
) -> list[Identity]:
    """What stands between a network and the groups on exact estimates."""
    kinds = {type(each.sde): each for each in known}.values()  # the last of each kind of process
    return [
        *(_views(each, device) for each in kinds),
        *(_outputs(output, known, device) for output in get_args(Output)),
        *(_precision(name, device) for name in offered(device)),
        _reclocked(known, device),
        _divergence(known, device),
        *(_density(each, log_density, device) for each in kinds if each.sde.num_steps > 1),
    ]


def _world(known: Known, device: Device) -> World:
    return World(known, Noise.of(21, 0, BATCH, device), [], [])


def _points(world: World, t: float) -> Tensor:
    """x_t of the Gaussian, (B, 3)."""
    z = world.noise.normal(Stream.DATA, (len(MEAN),))
    return world.known.alpha(t) * z.new_tensor(MEAN) + math.sqrt(world.total(t)) * z


def _truth(world: World, x: Tensor, t: float) -> dict[str, Tensor]:
    """The five views of the best estimate."""
    alpha, sigma = world.known.alpha(t), world.known.sigma(t)
    x_0, eps = world.x_0(x, t), world.eps(x, t)
    v = (alpha * eps - sigma * x_0) / math.hypot(alpha, sigma)
    return {"eps": eps, "x_0": x_0, "v": v, "u": eps - x_0, "score": -world.pull(x, t)}


def _against(
    world: World, found: Prediction, x: Tensor, t: float, views: tuple[str, ...] = VIEWS
) -> float:
    """The worst of the views, relative to their size."""
    truth = _truth(world, x, t)
    return max(
        distance(getattr(found, view), truth[view], float(truth[view].abs().max()))
        for view in views
    )


def _views(known: Known, device: Device) -> Identity:
    """Group 1 on this process, the worst of its rows."""
    rows = conversions(known.sde, LOWEST, device)
    worst = max(rows, key=lambda row: row.residual if math.isfinite(row.residual) else math.inf)
    return replace(worst, name=f"{known.name}: {worst.name}")


class _Answering(nn.Module):
    """A network that knows the Gaussian: asked x_t / r_t and t - 1, it says what it is asked for.

    Args:
        world: its process.
        output: what it estimates.
        logit: what it says of the reverse variance, beside that; None for nothing.
    """

    def __init__(self, world: World, output: Output, logit: float | None = None) -> None:
        super().__init__()
        self.world, self.output, self.logit = world, output, logit
        self.pixels = PixelLaw((len(MEAN),), LEVELS)  # of "residual", uniform

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """(B, 3) of float64; (B, 6) with a reverse variance."""
        estimate = self._estimate(x, label)
        if self.logit is None:
            return estimate
        return torch.cat([estimate, torch.full_like(estimate, self.logit)], 1)

    def _estimate(self, x: Tensor, label: Tensor) -> Tensor:
        known, t = self.world.known, float(label[0]) + 1
        x_t = math.hypot(known.alpha(t), known.sigma(t)) * x[:, : len(MEAN)]
        truth = _truth(self.world, x_t, t)
        if self.output == "score":  # of unit scale
            return known.sigma(t) * truth["score"]
        if self.output == "gradient":
            return truth["score"]
        if self.output == "mean":
            return self._mean(x_t, t)
        if self.output == "residual":
            return self._residual(x_t, t)
        return truth[self.output]

    def _residual(self, x_t: Tensor, t: float) -> Tensor:
        """Of x_0 beyond what the pixels tell, in their standard deviations."""
        known = self.world.known
        alpha, sigma = x_t.new_tensor(known.alpha(t)), x_t.new_tensor(known.sigma(t))
        of_pixels = self.pixels(x_t, alpha, sigma)
        ratio = sigma / torch.maximum(alpha, LEAST_SIGNAL * sigma)
        found: Tensor = (self.world.x_0(x_t, t) - of_pixels.datum) / (ratio * of_pixels.spread)
        return found

    def _mean(self, x_t: Tensor, t: float) -> Tensor:
        """Of x_(t - 1), by Bayes' rule."""
        known, s = self.world.known, t - 1
        x_0 = self.world.x_0(x_t, t)
        if s <= 0:
            return x_0
        a, w = known.transition(s, t)
        before = known.variance(s)
        return (known.alpha(s) * x_0 / before + a * x_t / w) / (1 / before + a**2 / w)


def _outputs(output: Output, known: list[Known], device: Device) -> Identity:
    """What a network says, read as the five views, and a reverse variance as its fraction."""
    worst: dict[str, float] = {}
    for each in known:
        n, world = each.sde.num_steps, _world(each, device)
        network = _Answering(world, output, LOGIT)
        model = ScoreModel(
            network, each.sde, output, LOWEST, precision="float64", learned_variance=True
        )
        times = [1.0, 2.0, float(max(n // 2, 1)), float(n)]
        times += [LOWEST, n - 0.5] if output != "mean" else []  # the mean is of whole steps
        for t in times:
            if t > n:
                continue
            x = _points(world, t)
            found = model(x, torch.tensor(t, dtype=torch.float64))
            of_noise = output in OUTPUTS_OF_NOISE and each.alpha(t) == 0
            error = _against(world, found, x, t, OF_NOISE if of_noise else VIEWS)
            error = error / _lost(each, output, t)
            error = max(error, _off(found.fraction, 0.5 * (1 + LOGIT)))
            worst[each.name] = max(worst.get(each.name, 0.0), error)
    name = max(worst, key=lambda process: worst[process])
    return Identity(
        f"a network's {output} = the five views of its estimate, and its learned variance, "
        f"{len(known)} processes; worst: {name}",
        worst[name],
        HALF_THE_DIGITS,
        f"{BASIS}; in units of what a view's own scales lose",
    )


def _off(fraction: Tensor | None, expected: float) -> float:
    """How far a learned variance lies from its place."""
    if fraction is None:
        return math.inf
    return distance(fraction, torch.full_like(fraction, expected), 1.0)


def _lost(known: Known, output: Output, t: float) -> float:
    """By how much a rounding of the output may grow in another view.

    An error of x_0 is alpha / sigma times as large in eps; one of the posterior's mean is that of
    x_0 over its weight there. What pixels of levels know changes within sigma, and no Gaussian is
    of levels: a rounding of x_t moves the standard deviation, in which the whole way from their
    mean to the Gaussian's is told, by its share of sigma.
    """
    if output not in ("x_0", "mean", "residual"):
        return 1.0
    of_x_0 = 1 + known.alpha(t) / known.sigma(t)
    if output != "mean":
        return of_x_0 if output == "x_0" else of_x_0**2
    s = max(t - 1, 0.0)
    _, w = known.transition(s, t)
    return of_x_0 * (1 + known.variance(t) / (known.alpha(s) * w))


def offered(device: Device) -> tuple[str, ...]:
    """Precisions of a network that a device has."""
    some = ("float64", "float32", "bfloat16", "float16")
    return (*some, "tf32") if torch.device(device).type == "cuda" else some


def _precision(name: str, device: Device) -> Identity:
    """A layer of ones and zeros on quarters: no sum needs more than five bits.

    And on 1 + 2^-12 + 2^-40, which each precision rounds in its own way, to be sure that it is the
    one that is asked for.
    """
    size = 16
    layer = nn.Linear(size, size, bias=False).to(device)
    k = torch.arange(size, device=device)
    ones = ((k[:, None] + k) % 4 == 0).to(layer.weight)
    x = ((k[None] * (2 * k[:BATCH, None] + 1)) % 9 - 4).double() / 4
    single = torch.full_like(x, 1 + 2.0**-12 + 2.0**-40)
    dtype = torch.float64 if name == "float64" else HALF.get(name, torch.float32)
    pairs = [(ones, x)] + ([(torch.eye(size).to(ones), single)] if name != "tf32" else [])
    worst, t = 0.0, torch.tensor(3.0, dtype=torch.float64)
    for weight, given in pairs:
        layer.weight.data.copy_(weight)
        network = layer.double() if name == "float64" else layer
        model = ScoreModel(_Unasked(network), VPSDE.linear(30), "v", precision=name)
        with torch.no_grad():
            found = model(given, t).value
        expected = given.to(dtype).double() @ weight.double().T
        worst = max(worst, distance(found, expected, 1.0))
    return Identity(
        f"a network in {name} = its products of few bits, and its rounding",
        worst,
        4 * UNIT_ROUNDOFF[torch.float64],
        "relative; no rounding but float64's, of x_t / r_t",
    )


class _Unasked(nn.Module):
    """A layer that is not told the time."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, _label: Tensor) -> Tensor:
        """The layer's answer."""
        answer: Tensor = self.layer(x)
        return answer


def _reclocked(known: list[Known], device: Device) -> Identity:
    """The exact estimate of one process, asked by another: every pair."""
    worst, place = 0.0, "none"
    for own in known:
        last = math.atan(own.ratio(own.sde.num_steps))
        for other in known:
            if own is other:
                continue
            world, n = _world(other, device), other.sde.num_steps
            denoiser = Reclocked(exact(own.sde), of=own.sde, on=other.sde)
            for t in (LOWEST, 1.0, 0.5 * n + 0.3, n - 0.5):
                if math.atan(other.ratio(t)) >= last:
                    continue
                x = _points(world, t)
                found = denoiser(x, torch.tensor(t, dtype=torch.float64))
                error = _against(world, found, x, t)
                if not error <= worst:
                    worst, place = error, f"{own.name} for {other.name}"
    name = f"an estimate of one process = that of any other, {len(known)} processes in pairs"
    return Identity(f"{name}; worst: {place}", worst, HALF_THE_DIGITS, BASIS)


def _divergence(known: list[Known], device: Device) -> Identity:
    """By unit vectors and by all sign vectors: the trace of alpha sigma (1 - c) / V, c of data."""
    root = torch.tensor([[0.8, 0.0, 0.0], [0.3, 0.5, 0.0], [-0.2, 0.1, 0.6]], device=device)
    covariance = (root @ root.T).double()
    law = gaussian(torch.zeros(3, dtype=torch.float64, device=device), covariance)
    own, worst = torch.linalg.eigvalsh(covariance).tolist(), 0.0
    for each in known:
        t = 0.4 * each.sde.num_steps
        alpha, sigma = each.alpha(t), each.sigma(t)
        trace = sum(alpha * sigma * (1 - c) / (alpha**2 * c + sigma**2) for c in own)
        noise = Noise.of(22, 0, BATCH, device)
        x = noise.normal(Stream.DATA, (3,))
        angle = x.new_tensor(math.atan2(sigma, alpha)).cpu()
        signs = sign_probes(noise, (3,), sign_set_size(3)).unbind(1)
        exactly, by_signs = (
            velocity_and_divergence(each.sde, law.denoiser(each.sde), angle, x, probes)[1]
            for probes in (unit_probes(x), signs)
        )
        for found in (exactly.sum(1), by_signs.mean(1)):
            worst = max(worst, distance(found, torch.full_like(found, trace)))
    name = f"divergence by unit vectors, and by all signs = the trace, {len(known)} processes"
    return Identity(name, worst, HALF_THE_DIGITS, BASIS)


DENSITY_TOLERANCE, CARRIED = 1e-6, 100.0


def _density(known: Known, log_density: LogDensity, device: Device) -> Identity:
    """The log-density by the flow, exactly and by signs, from t = 1 to the prior.

    Along the flow an offset grows as the marginal's deviation: x_N is known, and so is what volume
    the flow makes of it; the prior's density there is all that is left.
    """
    world, n, t = _world(known, device), known.sde.num_steps, 1.0
    x = _points(world, t)
    ratio, mean = math.sqrt(world.total(n) / world.total(t)), x.new_tensor(MEAN)
    x_n = known.alpha(n) * mean + ratio * (x - known.alpha(t) * mean)
    log_prior = -0.5 * (x_n / known.prior) ** 2 - math.log(known.prior * math.sqrt(2 * math.pi))
    expected = (log_prior + math.log(ratio)).sum(1)
    worst = 0.0
    for probes in (0, 2):
        found = log_density(
            exact(known.sde), known.sde, x, t, world.noise, probes, DENSITY_TOLERANCE
        )
        gap = (found - expected[:, None]).abs().max()  # each sign's is the trace: J is diagonal
        worst = max(worst, float(gap) if bool(gap.isfinite()) else math.inf)
    return Identity(
        f"{known.name}: log-likelihood by the flow = of the Gaussian, exact and by signs",
        worst,
        CARRIED * DENSITY_TOLERANCE,
        f"nats of {len(MEAN)} dimensions; the solver's tolerance, times {CARRIED:g}",
    )
