"""Identity 5: DDIM, predictor-corrector, and one flow under five processes."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from scoreflow.certificate.identity import (
    UNIT_ROUNDOFF,
    Identity,
    falls_as,
    finite_end,
    sampled,
    worst,
)
from scoreflow.data import toy
from scoreflow.figures.image_grid import image_grid
from scoreflow.figures.plot import Plot, Series
from scoreflow.models.score_model import ScoreModel
from scoreflow.samplers import (
    DDIM,
    Ancestral,
    Langevin,
    PredictorCorrector,
    Reclocked,
    Sampler,
    Step,
    grid,
    sample,
)
from scoreflow.sde.base import SDE, broadcast
from scoreflow.sde.flow import velocity
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.ode import Solution, Status, odeint
from scoreflow.sde.prediction import Denoiser
from scoreflow.sde.processes.edm import EDMSDE
from scoreflow.sde.processes.rectified import RectifiedSDE
from scoreflow.sde.processes.subvp import SubVPSDE
from scoreflow.sde.processes.ve import VESDE
from scoreflow.sde.processes.vp import VPSDE
from scoreflow.sde.types import State

ROUNDINGS = 16.0
Device = torch.device | str
SAFETY = 4.0
"""How much further a solution may be from the truth than from a more accurate one."""
LEAST_ANGLE = 0.05
"""To which images are drawn, radians: noise of a twentieth of the data's scale is left."""

TOLERANCES, CLOCK_TOLERANCES = (3e-3, 3e-4), (1e-4, 1e-5)
"""Of a network's images, of a mixture's: those compared, and what says how exact they are."""

PIECES = 8
"""Steps of the processes that are solved in their own time, each a piece."""
COUNTS = (64, 128, 256, 512, 1024)
"""Steps of DDIM from which its order is seen."""

Solve = Callable[[Denoiser, SDE, Tensor, float, float, float], Tensor]
"""(denoiser, process, noise on the unit scale, first angle, last angle, tolerance) -> the data."""


def flows(
    denoiser: Denoiser, sde: SDE, t_min: float, noise: Noise, event: tuple[int, ...]
) -> list[Identity]:
    """On the exact denoiser of a mixture, and on a denoiser at hand.

    Args:
        denoiser: of a network; what is solved of it, by adaptive steps, is never below float32.
        sde: its process.
        t_min: the least time at which it may be evaluated.
        noise: of the data to draw with it, on its device.
        event: shape of one datum.
    """
    device = noise.index.device
    smooth, posed = denoiser, sde
    if isinstance(denoiser, ScoreModel):
        smooth, posed = denoiser.for_solver(), sampled(sde, denoiser.posed)
    if finite_end(posed) < t_min:  # of one step, from noise alone: no step can be made of that
        return _clocks(device)
    if t_min >= sde.num_steps:  # of one step: the network knows one time, and there is no flow
        return [_no_corrections(denoiser, posed, noise, event), *_clocks(device)]
    return [
        _exponential(sde, t_min, device),
        _first_order(sde, t_min, device),
        _no_corrections(denoiser, posed, noise, event),
        *_clocks(device),
        _same_images(smooth, sde, t_min, noise, event),
    ]


def _exponential(sde: SDE, t_min: float, device: Device = "cpu") -> Identity:
    """x_s = alpha_s / alpha_t x_t - sigma_s (e^h - 1) eps, h the fall of half the log-SNR.

    The exact solution of the flow while eps is held (DPM-Solver, Lu et al. 2022, order 1); from
    where the log-SNR is finite.
    """
    size, mixture = 64, toy.distribution(device)
    exact, noise, pairs = mixture.denoiser(sde), Noise.of(0, 0, size, device), []
    times = torch.linspace(finite_end(sde), t_min, 40, dtype=torch.float64)
    for t, s in itertools.pairwise(times):
        x_t = sde.perturb(mixture.sample(noise), t, noise.normal(Stream.TRAIN_EPS, (2,)))
        eps = exact(x_t, t).eps
        h = 0.5 * (sde.log_snr(s) - sde.log_snr(t))
        kept, added = sde.alpha(s) / sde.alpha(t) * x_t, sde.sigma(s) * torch.expm1(h) * eps
        found = DDIM().step(x_t, Step(exact, sde, t, s, noise))
        # h is the difference of two logarithms, each rounded
        logs = 1 + sde.log_snr(s).abs() + sde.log_snr(t).abs()
        eps_size = (sde.alpha(s) / sde.alpha(t) * sde.sigma(t) + sde.sigma(s)) * eps.abs()
        unit = UNIT_ROUNDOFF[torch.float64] * logs * (kept.abs() + added.abs() + eps_size)
        pairs.append((float(((found - kept + added).abs() / unit).max()), ROUNDINGS))
    line = Series("worst of 64 points", times[:-1].tolist(), [pair[0] for pair in pairs])
    title = "DDIM against the integrator: error in roundings"
    plot = Plot(title, "t, steps", "error, unit roundoffs", (line,), log_y=False)
    return Identity(
        "DDIM = first-order exponential integrator of the flow, one step",
        *worst(pairs),
        "in unit roundoffs of the terms; operations that round",
        (plot,),
    )


def _first_order(sde: SDE, t_min: float, device: Device = "cpu") -> Identity:
    """DDIM on finer and finer grids against the solved flow."""
    exact, noise = toy.distribution(device).denoiser(sde), Noise.of(0, 0, 64, device)
    ends = torch.tensor([t_min, float(sde.num_steps)], dtype=torch.float64)
    low, high = (float(angle) for angle in sde.angle(ends))
    start = noise.normal(Stream.PRIOR, (2,))
    x_t = start * sde.scale(ends[1])
    truth = _in_the_angle(exact, sde, start, high, low, 1e-11) * sde.scale(ends[0])
    counts, errors = list(COUNTS), []
    for count in counts:
        times, x = sde.time(torch.linspace(high, low, count + 1, dtype=torch.float64)), x_t
        for t, s in itertools.pairwise(times):
            x = DDIM().step(x, Step(exact, sde, t, s, noise))
        errors.append(float((x - truth).square().mean().sqrt()))
    line = Series("RMS error", counts, errors)
    plot = Plot("DDIM against the solved flow", "steps", "RMS error", (line,), log_x=True)
    return falls_as(
        "DDIM -> probability flow = O(1/steps)", 1, [1 / n for n in counts], errors, (plot,)
    )


def _no_corrections(
    denoiser: Denoiser, sde: SDE, noise: Noise, event: tuple[int, ...]
) -> Identity:
    times = grid("uniform", sde, min(4, sde.num_steps))
    samplers: tuple[Sampler, Sampler] = (
        Ancestral(),
        PredictorCorrector(Ancestral(), Langevin(corrections=0)),
    )
    paths: tuple[list[Tensor], list[Tensor]] = ([], [])
    for sampler, path in zip(samplers, paths, strict=True):

        def keep(_step: int, x: Tensor, path: list[Tensor] = path) -> None:
            path.append(x)

        sample(sampler, denoiser, sde, times, noise, event, keep)
    gaps = [float((x - y).abs().max()) for x, y in zip(*paths, strict=True)]
    line = Series("greatest difference", times[1:].tolist(), gaps)
    title = "Predictor-corrector without corrections"
    return Identity(
        "predictor-corrector without corrections = its predictor",
        max(gaps),
        0.0,
        "to the bit, at each step",
        (Plot(title, "t, steps", "greatest difference", (line,), log_y=False),),
    )


def _processes() -> dict[str, SDE]:
    """Few steps: each is a piece that is solved by itself."""
    schedule = (PIECES, 0.05, 0.01)
    return {
        "VP": VPSDE.log_linear(*schedule),
        "sub-VP": SubVPSDE.log_linear(*schedule),
        "VE": VESDE(PIECES, 0.05, 50.0),
        "rectified path": RectifiedSDE(PIECES),
        "EDM": EDMSDE(PIECES, 0.05, 50.0),
    }


def _clocks(device: Device = "cpu") -> list[Identity]:
    """dx/dt = f x - g^2 score / 2 of each process, from one noise in the angle to one angle."""
    mixture, processes = toy.distribution(device), _processes()
    start = Noise.of(0, 0, 16, device).normal(Stream.PRIOR, (2,))
    span = (min(_last_angle(sde) for sde in processes.values()) - 1e-3, 0.1)

    def solved(solve: Solve, sde: SDE) -> tuple[Tensor, Tensor]:
        exact = mixture.denoiser(sde)
        mine, finer = (solve(exact, sde, start, *span, each) for each in CLOCK_TOLERANCES)
        return mine, finer

    angle, exacter = solved(_in_the_angle, processes["VP"])
    rows = []
    for name, sde in processes.items():
        mine, finer = solved(_in_time, sde)
        gaps = (mine - angle).abs().amax(1)
        allowed = SAFETY * float((mine - finer).abs().max() + (angle - exacter).abs().max())
        rows.append(
            Identity(
                f"{name} solved in its own t = the flow in the angle",
                float(gaps.max()),
                allowed,
                "greatest distance of 16 points; what a tenfold smaller tolerance changes, "
                "times 4",
                (_gap_plot(f"{name} in its own t against the angle", gaps, allowed),),
            )
        )
    return [replace(rows[0], plots=(*rows[0].plots, _clock_plot(processes))), *rows[1:]]


def _last_angle(sde: SDE) -> float:
    return float(sde.angle(torch.tensor(float(sde.num_steps), dtype=torch.float64)))


def _gap_plot(title: str, gaps: Tensor, allowed: float) -> Plot:
    number = list(range(1, len(gaps) + 1))
    limit = Series("allowed", [1, len(gaps)], [allowed, allowed])
    return Plot(title, "sample", "distance", (Series("distance", number, gaps.tolist()), limit))


def _clock_plot(processes: dict[str, SDE]) -> Plot:
    t = torch.linspace(0, PIECES, 200, dtype=torch.float64)
    clocks = tuple(Series(n, t.tolist(), p.angle(t).tolist()) for n, p in processes.items())
    title = "The clocks phi(t), all that tells them apart but scale"
    return Plot(title, "t, steps", "phi, radians", clocks, log_y=False)


def _in_the_angle(
    denoiser: Denoiser, sde: SDE, x: Tensor, high: float, low: float, tolerance: float
) -> Tensor:
    def field(angle: Tensor, state: State, _rows: Tensor) -> State:
        return (velocity(sde, denoiser, angle, state[0]),)

    return _solved(odeint(field, (x,), high, low, rtol=tolerance, atol=tolerance))


def slope(denoiser: Denoiser, sde: SDE, t: Tensor, x: Tensor) -> Tensor:
    """dx/dt: f x - g^2 score / 2 (Song et al. 2021, Eq. 13), flow matching's u on its path."""
    if isinstance(sde, RectifiedSDE):
        return denoiser(x, t).u / sde.num_steps
    f, g = broadcast(sde.drift(t), x), broadcast(sde.diffusion(t), x)
    return f * x - 0.5 * g**2 * denoiser(x, t).score


def _in_time(
    denoiser: Denoiser, sde: SDE, x: Tensor, high: float, low: float, tolerance: float
) -> Tensor:
    """On the unit scale at both ends; in the process's own scale and time in between.

    A piece for each step of an interpolated table, which has kinks at the integers.
    """
    first, last = sde.time(torch.tensor([high, low], dtype=torch.float64)).tolist()
    integers = range(math.ceil(first) - 1, math.floor(last), -1)
    knots = [first, *(float(i) for i in integers if _has_kink(sde, i)), last]
    x = x * sde.scale(torch.tensor(first, dtype=torch.float64))
    for start, end in itertools.pairwise(knots):

        def field(t: Tensor, state: State, _rows: Tensor, end: float = end) -> State:
            t = t.clamp(min=end + 1e-9)  # at the end itself the slopes are the next piece's
            return (slope(denoiser, sde, t, state[0]),)

        x = _solved(odeint(field, (x,), start, end, rtol=tolerance, atol=tolerance))
    return x / sde.scale(torch.tensor(last, dtype=torch.float64))


def _has_kink(sde: SDE, integer: int) -> bool:
    """Whether its slopes jump at an integer: VE's and EDM's at 1, a straight line's nowhere."""
    if isinstance(sde, RectifiedSDE):
        return False
    return integer == 1 or not isinstance(sde, VESDE | EDMSDE)


def _solved(solution: Solution) -> Tensor:
    assert (solution.status == Status.DONE).all(), "a flow was not solved"
    x: Tensor = solution.state[0]
    return x


def _same_images(
    denoiser: Denoiser, sde: SDE, t_min: float, noise: Noise, event: tuple[int, ...]
) -> Identity:
    """The denoiser at hand as the score of each process's own flow in t, from one noise.

    Every process has its own drift, diffusion, clock and scale; what they should all draw is the
    solution in the angle, in which none of these appears.
    """
    processes, start = _processes(), noise.normal(Stream.PRIOR, event)
    high = min(_last_angle(p) for p in (sde, *processes.values())) - 1e-3
    low = max(float(sde.angle(torch.tensor(t_min).double())), LEAST_ANGLE)

    def solved(solve: Solve, on: SDE) -> tuple[Tensor, float]:
        own = denoiser if on is sde else Reclocked(denoiser, of=sde, on=on)
        mine, finer = (solve(own, on, start, high, low, tolerance) for tolerance in TOLERANCES)
        return mine, float(_distances(mine, finer).max())

    angle, off = solved(_in_the_angle, sde)
    drawn = {name: solved(_in_time, on) for name, on in processes.items()}
    gaps = {name: _distances(x, angle) for name, (x, _) in drawn.items()}
    # solutions may come as near each other as the numbers they are made of
    rounding = UNIT_ROUNDOFF[torch.float32] * float(_distances(angle, 0 * angle).max())
    pairs = {
        name: (float(gaps[name].max()), SAFETY * (own + off) + rounding)
        for name, (_, own) in drawn.items()
    }
    images = torch.cat([angle, *(x for x, _ in drawn.values())])
    return Identity(
        "one network, under VP, sub-VP, VE, EDM and flow matching each in its own t: the images "
        "of the angle",
        *worst(list(pairs.values())),
        "greatest RMS distance of an image; what a tenfold smaller tolerance changes, times 4",
        tuple(
            _gap_plot(f"One network, {name} against the angle", gaps[name], pairs[name][1])
            for name in processes
        ),
        _picture(images, len(start)) if len(event) == 3 else None,
    )


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """RMS over the elements of each sample, (B,)."""
    return (x - y).flatten(1).square().mean(1).sqrt()


def _picture(images: Tensor, columns: int) -> tuple[str, bytes]:
    grey = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
    scale = max(1, 48 // grey.shape[-1])
    rows = "the angle, VP, sub-VP, VE, the rectified path, EDM"
    return f"Rows: {rows}; from the same noise", image_grid(grey, columns, scale)
