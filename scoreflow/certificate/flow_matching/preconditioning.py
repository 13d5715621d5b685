"""Identity 11: EDM's preconditioned network is -v of x_0 / sigma_data, and a network's u is its u.

Karras et al. 2022, Table 1 and Eq. 7, in the noise scale sigma of y + n, n ~ N(0, sigma^2):

    D = c_skip (y + n) + c_out F(c_in (y + n); ln(sigma) / 4),    c_skip = s^2 / (sigma^2 + s^2)
    c_out = sigma s / sqrt(sigma^2 + s^2),    c_in = 1 / sqrt(sigma^2 + s^2)

with s = sigma_data, on every process: y + n = x_t / alpha, sigma its ratio of noise to signal.
"""

import math

import torch
from torch import Tensor, nn

from scoreflow.certificate.closed_forms.methods import MEAN, World
from scoreflow.certificate.closed_forms.numbers import distance
from scoreflow.certificate.closed_forms.processes import BASIS, HALF_THE_DIGITS, Known
from scoreflow.certificate.identity import Identity
from scoreflow.models.asking import Label
from scoreflow.models.mlp import MLP
from scoreflow.models.score_model import Output, ScoreModel
from scoreflow.sde.noise import Noise, Stream

SIGMA_DATA = 0.5
CENTRE = -1.0
"""Of images in [0, 1], as the network sees them, in ours."""
BATCH, T_MIN = 4, 0.25
Device = torch.device | str


def preconditioned(known: list[Known], device: Device = "cpu") -> list[Identity]:
    """A network as EDM has it, and what networks say about another datum."""
    outputs: tuple[Output, ...] = ("x_0", "v", "u")
    return [_edm(known, device), *(_of_datum(output, known, device) for output in outputs)]


def _times(known: Known) -> list[float]:
    """Both ends of what a network is asked, and between."""
    n = float(known.sde.num_steps)
    return [T_MIN, 1.0, 0.5 * n, n]


def _row(name: str, worst: dict[str, float]) -> Identity:
    place = max(worst, key=lambda each: worst[each])
    named = f"{name}, {len(worst)} processes; worst: {place}"
    return Identity(named, worst[place], HALF_THE_DIGITS, BASIS)


def _edm(known: list[Known], device: Device) -> Identity:
    """The denoiser D of a small network, by EDM's four factors in Python's own floats."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MLP(len(MEAN), 16, 2).double().to(device)
    s, worst = SIGMA_DATA, {}
    noise = Noise.of(31, 0, BATCH, device)
    for each in known:
        # EDM's label is infinite where no signal is left, as is y + n: there its network has none
        ratio_known = each.ratio(each.sde.num_steps) < math.inf
        label = Label("log_sigma", 0.25, 0.0) if ratio_known else Label()
        model = ScoreModel(network, each.sde, "v", T_MIN, "float64", label=label, data_std=s)
        errors = []
        for t in _times(each):
            sigma = each.ratio(t)
            if sigma == math.inf:
                continue
            x = noise.normal(Stream.DATA, (len(MEAN),)) * math.hypot(s, sigma)  # y + n
            whole = math.hypot(sigma, s)
            at = x.new_full((BATCH,), math.log(sigma) / 4 if ratio_known else t - 1)
            with torch.no_grad():
                own = -network(x / whole, at)
                found = model(each.alpha(t) * x, torch.tensor(t, dtype=torch.float64)).x_0
            expected = (s / whole) ** 2 * x + sigma * s / whole * own
            lost = 1 + sigma  # v and x_t / alpha are larger than their difference
            errors.append(distance(found, expected, float(expected.abs().max())) / lost)
        worst[each.name] = max(errors)
    return _row(f"EDM's preconditioned network F = -v of x_0 / {s:g}", worst)


class _Answering(nn.Module):
    """A network that knows a Gaussian, in images of [0, 1] at unit variance: z_0 of it.

    Args:
        world: its process.
        output: what it estimates.
        spread: of x_0 = CENTRE + spread z_0.
    """

    def __init__(self, world: World, output: Output, spread: float) -> None:
        super().__init__()
        self.world, self.output, self.spread = world, output, spread

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """(B, 3) of float64, from y_t / R and t - 1."""
        known, t = self.world.known, float(label[0]) + 1
        alpha, sigma = known.alpha(t), known.sigma(t)
        whole = math.hypot(alpha * self.spread, sigma)  # of alpha spread z_0 + sigma eps
        x_t = whole * x + alpha * CENTRE
        z_0 = (self.world.x_0(x_t, t) - CENTRE) / self.spread
        eps = self.world.eps(x_t, t)
        if self.output == "x_0":
            return z_0
        if self.output == "u":
            return eps - z_0
        return (alpha * self.spread * eps - sigma * z_0) / whole


def _of_datum(output: Output, known: list[Known], device: Device) -> Identity:
    """x_0, v and u of a network about z_0, on every process."""
    worst = {}
    for each in known:
        world = World(each, Noise.of(32, 0, BATCH, device), [], [])
        spread = 2 * SIGMA_DATA * 0.8
        network = _Answering(world, output, spread)
        model = ScoreModel(
            network, each.sde, output, T_MIN, "float64", data_std=0.8 * SIGMA_DATA,
            data_range="unit",
        )  # fmt: skip
        errors = []
        for t in _times(each):
            z = world.noise.normal(Stream.DATA, (len(MEAN),))
            x_t = each.alpha(t) * z.new_tensor(MEAN) + math.sqrt(world.total(t)) * z
            found = model(x_t, torch.tensor(t, dtype=torch.float64))
            x_0, eps = world.x_0(x_t, t), world.eps(x_t, t)
            v = (each.alpha(t) * eps - each.sigma(t) * x_0) / math.hypot(
                each.alpha(t), each.sigma(t)
            )
            for value, expected in ((found.x_0, x_0), (found.v, v), (found.u, eps - x_0)):
                errors.append(distance(value, expected, float(expected.abs().max())))
        worst[each.name] = max(errors) / (1 + 1 / each.sigma(T_MIN) if output == "x_0" else 1)
    return _row(
        f"a network's {output} about images in [0, 1] / {SIGMA_DATA * 0.8:g} = ours", worst
    )
