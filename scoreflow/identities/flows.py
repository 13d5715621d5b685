"""Identity 5: DDIM, predictor-corrector, and one flow under three processes."""

import itertools

import torch
from torch import Tensor

from samplers import (
    DDIM,
    Ancestral,
    Langevin,
    PredictorCorrector,
    ProbabilityFlow,
    Reclocked,
    Sampler,
    sample,
    uniform_times,
)
from scoreflow import toy
from scoreflow.grid import image_grid
from scoreflow.identities.identity import UNIT_ROUNDOFF, Identity, falls_as, worst
from scoreflow.plot import Plot, Series
from sde.base import SDE, broadcast
from sde.flow import velocity
from sde.noise import Noise, Stream
from sde.ode import Status, odeint
from sde.prediction import Denoiser
from sde.subvp import SubVPSDE
from sde.types import State
from sde.ve import VESDE
from sde.vp import VPSDE

ROUNDINGS = 16.0
SAFETY = 4.0
"""How much further a solution may be from the truth than from a more accurate one."""


def flows(
    denoiser: Denoiser, sde: SDE, t_min: float, noise: Noise, event: tuple[int, ...]
) -> list[Identity]:
    """On the exact denoiser of a mixture, and on a denoiser at hand.

    Args:
        denoiser: of a network.
        sde: its process.
        t_min: the least time it may be asked at.
        noise: of the data to draw with it, on its device.
        event: shape of one datum.
    """
    return [
        _exponential(sde, t_min),
        _first_order(sde, t_min),
        _no_corrections(denoiser, sde, noise, event),
        *_clocks(),
        _same_images(denoiser, sde, t_min, noise, event),
    ]


def _exponential(sde: SDE, t_min: float) -> Identity:
    """x_s = alpha_s / alpha_t x_t - sigma_s (e^h - 1) eps, h the fall of half the log-SNR.

    The exact solution of the flow while eps is held (DPM-Solver, Lu et al. 2022, order 1).
    """
    size, exact = 64, toy.distribution().denoiser(sde)
    noise, pairs = Noise.of(0, 0, size), []
    grid = torch.linspace(sde.num_steps, t_min, 40, dtype=torch.float64)
    for t, s in itertools.pairwise(grid):
        x_t = sde.perturb(
            toy.distribution().sample(noise), t, noise.normal(Stream.TRAIN_EPS, (2,))
        )
        eps = exact(x_t, t).eps
        h = 0.5 * (sde.log_snr(s) - sde.log_snr(t))
        kept, added = sde.alpha(s) / sde.alpha(t) * x_t, sde.sigma(s) * torch.expm1(h) * eps
        found = DDIM().step(exact, sde, x_t, t, s, noise)
        # h is the difference of two logarithms, each rounded
        logs = 1 + sde.log_snr(s).abs() + sde.log_snr(t).abs()
        eps_size = (sde.alpha(s) / sde.alpha(t) * sde.sigma(t) + sde.sigma(s)) * eps.abs()
        unit = UNIT_ROUNDOFF[torch.float64] * logs * (kept.abs() + added.abs() + eps_size)
        pairs.append((float(((found - kept + added).abs() / unit).max()), ROUNDINGS))
    line = Series("worst of 64 points", grid[:-1].tolist(), [pair[0] for pair in pairs])
    plot = Plot(
        "DDIM against the integrator: error in roundings", "t, steps", (line,), log_y=False
    )
    return Identity(
        "DDIM = first-order exponential integrator of the flow, one step",
        *worst(pairs),
        "in unit roundoffs of the terms; operations that round",
        (plot,),
    )


def _first_order(sde: SDE, t_min: float) -> Identity:
    """DDIM on finer and finer grids against the solved flow."""
    exact, size = toy.distribution().denoiser(sde), 64
    ends = torch.tensor([t_min, float(sde.num_steps)], dtype=torch.float64)
    low, high = (float(angle) for angle in sde.angle(ends))
    start = Noise.of(0, 0, size).normal(Stream.PRIOR, (2,))
    x_t = start * sde.scale(ends[1])
    truth = _in_the_angle(exact, sde, start, high, low, 1e-11) * sde.scale(ends[0])
    counts, errors = [64, 128, 256, 512, 1024], []
    for count in counts:
        times, x = sde.time(torch.linspace(high, low, count + 1, dtype=torch.float64)), x_t
        for t, s in itertools.pairwise(times):
            x = DDIM().step(exact, sde, x, t, s, Noise.of(0, 0, size))
        errors.append(float((x - truth).square().mean().sqrt()))
    plot = Plot(
        "DDIM against the solved flow", "steps", (Series("RMS error", counts, errors),), log_x=True
    )
    return falls_as(
        "DDIM -> probability flow = O(1/steps)", 1, [1 / n for n in counts], errors, (plot,)
    )


def _no_corrections(
    denoiser: Denoiser, sde: SDE, noise: Noise, event: tuple[int, ...]
) -> Identity:
    times = uniform_times(sde.num_steps, min(4, sde.num_steps), integer=True)
    samplers: tuple[Sampler, Sampler] = (
        Ancestral(),
        PredictorCorrector(Ancestral(), Langevin(corrections=0)),
    )
    draws = [sample(sampler, denoiser, sde, times, noise, event) for sampler in samplers]
    gap = float((draws[0] - draws[1]).abs().max())
    return Identity(
        "predictor-corrector without corrections = its predictor", gap, 0.0, "to the bit"
    )


def _processes() -> dict[str, SDE]:
    """Few steps, for an interpolated table has a kink at each."""
    return {"VP": VPSDE.linear(25), "sub-VP": SubVPSDE.linear(25), "VE": VESDE(25, 0.02, 20.0)}


def _clocks() -> list[Identity]:
    """dx/dt = f x - g^2 score / 2 of each process, from one noise in the angle to one angle."""
    mixture, processes = toy.distribution(), _processes()
    ends = [float(sde.angle(torch.tensor(25.0).double())) for sde in processes.values()]
    high, low = min(ends) - 1e-3, 0.1
    noise = Noise.of(0, 0, 16).normal(Stream.PRIOR, (2,))
    solved = {}
    for tolerance in (1e-4, 1e-6):
        for name, sde in processes.items():
            solved[name, tolerance] = _in_time(
                mixture.denoiser(sde), sde, noise, high, low, tolerance
            )
        angle = _in_the_angle(
            mixture.denoiser(processes["VP"]), processes["VP"], noise, high, low, tolerance
        )
        solved["angle", tolerance] = angle
    reference = solved["angle", 1e-4]
    rows = []
    t = torch.linspace(0, 25, 200, dtype=torch.float64)
    clocks = tuple(Series(n, t.tolist(), p.angle(t).tolist()) for n, p in processes.items())
    plot = Plot(
        "The clocks phi(t), all that tells them apart but scale", "t, steps", clocks, log_y=False
    )
    for name in processes:
        off = [float((solved[k, 1e-4] - solved[k, 1e-6]).abs().max()) for k in (name, "angle")]
        rows.append(
            Identity(
                f"{name} solved in its own t = the flow in the angle",
                float((solved[name, 1e-4] - reference).abs().max()),
                SAFETY * sum(off),
                "greatest distance of 16 points; what a hundredfold smaller tolerance changes, "
                "times 4",
                () if rows else (plot,),
            )
        )
    return rows


def _in_the_angle(
    denoiser: Denoiser, sde: SDE, x: Tensor, high: float, low: float, tolerance: float
) -> Tensor:
    def field(angle: Tensor, state: State, _rows: Tensor) -> State:
        return (velocity(sde, denoiser, angle, state[0]),)

    return _solved(odeint(field, (x,), high, low, rtol=tolerance, atol=tolerance))


def _in_time(
    denoiser: Denoiser, sde: SDE, x: Tensor, high: float, low: float, tolerance: float
) -> Tensor:
    """On the unit scale at both ends; Song et al. 2021, Eq. 13, in between."""
    ends = sde.time(torch.tensor([high, low], dtype=torch.float64))

    def field(t: Tensor, state: State, _rows: Tensor) -> State:
        score = denoiser(state[0], t).score
        f, g = broadcast(sde.drift(t), state[0]), broadcast(sde.diffusion(t), state[0])
        return (f * state[0] - 0.5 * g**2 * score,)

    start = x * sde.scale(ends[0])
    found = odeint(
        field,
        (start,),
        float(ends[0]),
        float(ends[1]),
        rtol=tolerance,
        atol=tolerance,
        max_evaluations=100_000,
    )
    return _solved(found) / sde.scale(ends[1])


def _solved(solution) -> Tensor:  # noqa: ANN001
    assert (solution.status == Status.DONE).all(), "the flow of a mixture was not solved"
    x: Tensor = solution.state[0]
    return x


def _same_images(
    denoiser: Denoiser, sde: SDE, t_min: float, noise: Noise, event: tuple[int, ...]
) -> Identity:
    """The denoiser at hand, asked under each process, from one noise in the angle."""
    others: list[SDE] = [SubVPSDE.linear(1000), VESDE(1000, 5e-4, 50.0)]
    processes: list[SDE] = [VPSDE.linear(1000), *others]
    last = [
        p.angle(torch.tensor(float(p.num_steps), dtype=torch.float64)) for p in [sde, *processes]
    ]
    high = float(min(last)) - 1e-6
    low = float(max(sde.angle(torch.tensor(t_min).double()), torch.tensor(0.02).double()))
    angles = torch.tensor([high, low], dtype=torch.float64)
    start = noise.normal(Stream.PRIOR, event)

    def images(on: SDE, tolerance: float) -> Tensor:
        t, s = on.time(angles)
        asked = denoiser if on is sde else Reclocked(denoiser, of=sde, on=on)
        flow = ProbabilityFlow(0.0, tolerance)
        x = flow.step(asked, on, on.scale(t) * start, t, s, noise)
        return x / on.scale(s)

    with torch.no_grad():
        mine, finer = images(sde, 1e-2), images(sde, 1e-3)
        drawn = [images(on, 1e-2) for on in processes]
    gaps = [float((x - mine).square().mean().sqrt()) for x in drawn]
    allowed = SAFETY * float((mine - finer).square().mean().sqrt())
    return Identity(
        "one network under VP, sub-VP and VE: the same images from the same noise",
        max(gaps),
        allowed,
        "RMS distance; what a tenfold smaller tolerance changes, times 4",
        picture=_picture(torch.cat(drawn), len(mine)) if len(event) == 3 else None,
    )


def _picture(images: Tensor, columns: int) -> tuple[str, bytes]:
    grey = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
    scale = max(1, 48 // grey.shape[-1])
    return "Rows: VP, sub-VP, VE; from the same noise", image_grid(grey, columns, scale)
