"""Identity 11: VP, EDM and flow matching give data one log-density, each in its own time.

d log p_t / dt = -div(dx/dt) along dx/dt = f x - g^2 score / 2 (Song et al. 2021, Eq. 13), or along
dx / d(t/N) = u of flow matching: with drift, diffusion, clock and scale of each process's own,
where the likelihood mode follows the flow in the angle. On a mixture both ends are known.
"""

import torch
from torch import Tensor

from scoreflow.certificate.identity import UNIT_ROUNDOFF, Identity, worst
from scoreflow.certificate.one_flow import LEAST_ANGLE, SAFETY, slope
from scoreflow.data import toy
from scoreflow.figures.plot import Plot, Series
from scoreflow.models.score_model import ScoreModel
from scoreflow.samplers import Reclocked
from scoreflow.sde.base import SDE
from scoreflow.sde.flow import unit_probes, velocity_and_divergence
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.ode import Status, odeint
from scoreflow.sde.prediction import Denoiser
from scoreflow.sde.processes.edm import EDMSDE
from scoreflow.sde.processes.rectified import RectifiedSDE
from scoreflow.sde.processes.vp import VPSDE
from scoreflow.sde.types import Field, State

STEPS = 8
MIXTURE_TOLERANCES, TOLERANCES = (1e-3, 1e-4), (1e-2, 1e-3)
"""Of a mixture's, of a network's: those compared, and what says how exact they are; absolute."""
POINTS, DRAWN = 8, 2
"""Of a mixture, of a network."""
HIGH_ANGLE = 1.54
"""At which the flow ends, with a signal of 3 % left, under every process."""


def log_likelihoods(model: ScoreModel, noise: Noise, event: tuple[int, ...]) -> list[Identity]:
    """Of points of a mixture, and of what the network at hand draws.

    Args:
        model: the network; never below float32, for it is solved by adaptive steps.
        noise: of the data to draw with it, on its device.
        event: shape of one datum.
    """
    rows = [_of_mixture(noise.index.device)]
    noise = noise.rows(torch.arange(min(DRAWN, len(noise.index)), device=noise.index.device))
    end = torch.tensor(float(model.sde.num_steps), dtype=torch.float64)
    least = float(model.sde.angle(end.new_tensor(model.t_min)))
    low, high = max(least, LEAST_ANGLE), min(float(model.sde.angle(end)) - 1e-3, HIGH_ANGLE)
    if low < high:  # else it knows about one time, and there is no flow
        rows.append(_of_network(model.for_solver(), noise, event, low, high))
    return rows


def _processes() -> dict[str, SDE]:
    """Smooth ones, each a single piece."""
    return {
        "VP": VPSDE.linear_continuous(STEPS),
        "flow matching": RectifiedSDE(STEPS),
        "EDM": EDMSDE(STEPS, 0.05, 50.0),
    }


def _of_mixture(device: torch.device) -> Identity:
    """Log p at a low angle, from that at a high one and the change of volume between."""
    mixture, noise = toy.distribution(device), Noise.of(0, 0, POINTS, device)
    x_0, eps = mixture.sample(noise), noise.normal(Stream.TRAIN_EPS, (2,))
    low, high = 0.1, HIGH_ANGLE
    gaps, pairs = {}, []
    for name, sde in _processes().items():
        t, last = sde.time(torch.tensor([low, high], dtype=torch.float64))
        x, exact, found = sde.perturb(x_0, t, eps), mixture.denoiser(sde), []
        for tolerance in MIXTURE_TOLERANCES:
            end, lost = _carried(exact, sde, x, t, last, None, tolerance)
            found.append(mixture.log_prob(end, sde.alpha(last), sde.sigma(last)) - lost)
        mine, finer = found
        gaps[name] = (mine - mixture.log_prob(x, sde.alpha(t), sde.sigma(t))).abs()
        pairs.append((float(gaps[name].max()), SAFETY * float((mine - finer).abs().max())))
    return Identity(
        "VP, flow matching and EDM each in its own t: log-density of a mixture = its closed form",
        *worst(pairs),
        f"greatest error of {POINTS} points, nats; what a tenfold smaller tolerance changes, "
        "times 4",
        (_plot("Log-density of a mixture, each process in its own t", gaps),),
    )


def _of_network(
    model: ScoreModel, noise: Noise, event: tuple[int, ...], low: float, high: float
) -> Identity:
    """From the prior at a high angle, by one random sign: its estimate is one number for all."""
    sign, start = noise.rademacher(Stream.PROBE, event), noise.normal(Stream.PRIOR, event)
    dims, at_start = start[0].numel(), -0.5 * start.square().flatten(1).sum(1)

    def in_the_angle(tolerance: float) -> Tensor:
        def field(angle: Tensor, state: State, rows: Tensor) -> State:
            v, products = velocity_and_divergence(model.sde, model, angle, state[0], [sign[rows]])
            return v, -products[:, 0]

        return at_start + _solved(field, start, high, low, tolerance)[1]

    def in_time(sde: SDE, tolerance: float) -> Tensor:
        first, last = sde.time(torch.tensor([high, low], dtype=torch.float64))
        own = Reclocked(model, of=model.sde, on=sde)
        x = sde.scale(first) * start
        gained = _carried(own, sde, x, first, last, sign, tolerance)[1]
        # densities of x on the unit scale, at both ends
        return at_start + gained + dims * (sde.scale(last) / sde.scale(first)).log()

    angle_mine, angle_finer = (in_the_angle(each) for each in TOLERANCES)
    off = float((angle_mine - angle_finer).abs().max())
    gaps, pairs = {}, []
    rounding = UNIT_ROUNDOFF[torch.float32] * float(angle_mine.abs().max())
    for name, sde in _processes().items():
        mine, finer = (in_time(sde, each) for each in TOLERANCES)
        gaps[name] = (mine - angle_mine).abs()
        own = float((mine - finer).abs().max())
        pairs.append((float(gaps[name].max()), SAFETY * (own + off) + rounding))
    return Identity(
        "one network, under VP, flow matching and EDM each in its own t: the log-likelihood of "
        "the angle",
        *worst(pairs),
        f"greatest distance of {len(start)} data that it draws, nats of {dims} dimensions, by one "
        "random sign; what a tenfold smaller tolerance changes, times 4",
        (_plot("One network: log-likelihood, each process in its own t", gaps),),
    )


def _carried(
    denoiser: Denoiser,
    sde: SDE,
    x: Tensor,
    t: Tensor,
    last: Tensor,
    sign: Tensor | None,
    tolerance: float,
) -> tuple[Tensor, Tensor]:
    """X at the last time, and what log p has gained on the way; exactly without a sign."""

    def field(at: Tensor, state: State, rows: Tensor) -> State:
        with torch.enable_grad():
            x = state[0].detach().requires_grad_()
            moved = slope(denoiser, sde, at, x)
            probes = unit_probes(x) if sign is None else [sign[rows]]
            products = [
                (torch.autograd.grad(moved, x, probe, retain_graph=True)[0] * probe)
                for probe in probes
            ]
        return moved.detach(), -torch.stack(products).flatten(2).sum((0, 2))

    return _solved(field, x, float(t), float(last), tolerance)


def _solved(
    field: Field, x: Tensor, start: float, end: float, tolerance: float
) -> tuple[Tensor, Tensor]:
    """X and the log-density's gain at the end."""
    state = (x, x.new_zeros(len(x)))
    solution = odeint(field, state, start, end, rtol=0.0, atol=tolerance)
    assert (solution.status == Status.DONE).all(), "a flow was not solved"
    moved, gained = solution.state
    return moved, gained


def _plot(title: str, gaps: dict[str, Tensor]) -> Plot:
    lines = tuple(
        Series(name, list(range(1, len(gap) + 1)), [max(each, 1e-20) for each in gap.tolist()])
        for name, gap in gaps.items()
    )
    return Plot(title, "point", "distance, nats", lines)
