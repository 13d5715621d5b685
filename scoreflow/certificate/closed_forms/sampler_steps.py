"""Identity 9: every sampler's step is its formula, on every process, at every end of its grid.

Each sampler is run by the shared loop on Gaussian data, over grids that have a whole step at the
prior, times between the integers, a last step from t = 1, one from below it, and the step from N
to 0 at once. After each step the state is held against `methods`, which starts from the state
before: an error is not carried on. Where the prior has no signal, as on the rectified path, no
step can divide by alpha: the first is the limit of its formula, or DDIM's where there is none.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from scoreflow.certificate.closed_forms import methods
from scoreflow.certificate.closed_forms.methods import MEAN, SPREAD, Reference, World
from scoreflow.certificate.closed_forms.processes import BASIS, HALF_THE_DIGITS, Known
from scoreflow.certificate.identity import Identity
from scoreflow.figures.plot import Plot, Series
from scoreflow.samplers import (
    DDIM,
    DEIS,
    Ancestral,
    AnnealedLangevin,
    DPMSolver,
    EulerMaruyama,
    Heun,
    Langevin,
    PredictorCorrector,
    ProbabilityFlow,
    ReverseDiffusion,
    Sampler,
    UniPC,
    sample,
)
from scoreflow.samplers.sampler import Multistep
from scoreflow.sde.base import SDE, broadcast
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import Denoiser, Prediction, predict

BATCH, SEED, SNR = 4, 11, 0.2
TOLERANCE = 1e-6
"""Of the flow's solver."""
CARRIED = 100.0
"""How much further from the solution a state may be than the error allowed to one of its steps."""

Build = Callable[[Known], Sampler | Multistep]


@dataclass(frozen=True)
class Variant:
    """A sampler with its settings, and its formula.

    Attributes:
        of: its name on the command line.
        build: it, for a process.
        reference: its step.
    """

    of: str
    build: Build
    reference: Reference


def _always(sampler: Sampler | Multistep) -> Build:
    return lambda _known: sampler


def _optimal(known: Known) -> Sampler:
    """The variance of the law of x_s given x_t, from the exact error of eps."""

    def eps_error(t: Tensor) -> Tensor:
        signal = (known.sde.alpha(t) * SPREAD) ** 2
        return signal / (signal + known.sde.variance(t))

    return Ancestral("optimal", eps_error)


def _corrected(
    build: Sampler | Multistep, reference: Callable[..., Tensor], annealed: bool, times: int = 1
) -> Variant:
    corrector = AnnealedLangevin(SNR, times) if annealed else Langevin(SNR, times)
    sampler = PredictorCorrector(build, corrector)
    return Variant("pc", _always(sampler), methods.corrected(reference, SNR, times, annealed))


LOWEST = 0.25
"""The least time at which a denoiser is asked: below that of any network of integer times."""

VARIANTS = [
    *(Variant("ddim", _always(DDIM(eta)), methods.ddim(eta)) for eta in (0.0, 0.7, 1.0)),
    Variant("ancestral", _always(Ancestral("beta")), methods.ancestral("beta")),
    Variant("ancestral", _always(Ancestral("posterior")), methods.ancestral("posterior")),
    Variant("ancestral", _always(Ancestral("learned")), methods.ancestral("learned")),
    Variant("ancestral", _optimal, methods.ancestral("optimal")),
    Variant("reverse_diffusion", _always(ReverseDiffusion()), methods.reverse_diffusion),
    Variant("euler_maruyama", _always(EulerMaruyama()), methods.euler_maruyama),
    *(Variant("heun", _always(Heun(churn)), methods.heun(churn)) for churn in (0.0, 0.2)),
    *(Variant("dpm", _always(DPMSolver(order)), methods.dpm(order)) for order in (1, 2, 3)),
    *(
        Variant("dpm_sde", _always(DPMSolver(order, True)), methods.dpm_sde(order))
        for order in (1, 2)
    ),
    *(Variant("deis", _always(DEIS(order)), methods.deis(order)) for order in (1, 2, 3, 4)),
    *(
        Variant("unipc", _always(UniPC(order, correct)), methods.unipc(order, correct))
        for order, correct in ((1, True), (2, True), (3, True), (3, False))
    ),
    _corrected(Ancestral("beta"), methods.ancestral("beta"), annealed=False, times=2),
    _corrected(ReverseDiffusion(), methods.reverse_diffusion, annealed=True),
    _corrected(DPMSolver(3), methods.dpm(3), annealed=True, times=2),
    _corrected(DEIS(3), methods.deis(3), annealed=False),
    _corrected(UniPC(2), methods.unipc(2, True), annealed=True),
    Variant("ode", _always(ProbabilityFlow(LOWEST, TOLERANCE)), methods.flow(LOWEST)),
]


def sampler_steps(known: list[Known], device: torch.device | str = "cpu") -> list[Identity]:
    """A row a sampler: the worst of its settings, processes and steps."""
    names = dict.fromkeys(variant.of for variant in VARIANTS)
    return [
        _row(name, [each for each in VARIANTS if each.of == name], known, device) for name in names
    ]


def grids(num_steps: int) -> list[list[float]]:
    """Every end of a grid, and one step for all."""
    n = float(num_steps)
    all_ends = {n, n - 1, 0.6 * n + 0.3, float(round(n / 3)), 2.0, 1.0, LOWEST}
    few = {n, 3.0, 1.0}
    return [
        [*sorted((t for t in own if 0 < t <= n), reverse=True), 0.0]
        for own in (all_ends, few, {n})
    ]


def _row(
    name: str, variants: list[Variant], known: list[Known], device: torch.device | str
) -> Identity:
    worst = {
        each.name: max(
            _whole(value) for variant in variants for value in errors(variant, each, device)
        )
        for each in known
    }
    allowed = HALF_THE_DIGITS if name != "ode" else CARRIED * TOLERANCE
    basis = BASIS if name != "ode" else f"relative; the solver's tolerance, times {CARRIED:g}"
    place = max(worst, key=lambda process: worst[process])
    count = len(variants)
    number = list(range(1, len(worst) + 1))
    lines = (
        Series("worst step", number, [max(each, 1e-20) for each in worst.values()]),
        Series("allowed", [1, len(worst)], [allowed, allowed]),
    )
    title = f"{name}: worst step on each of {len(worst)} processes"
    settings = f"{count} settings, " if count > 1 else ""
    return Identity(
        f"{name}: its steps = its formula, {settings}{len(worst)} processes; worst: {place}",
        worst[place],
        allowed,
        f"{basis}; Gaussian data, first, last and single steps, whole times and others",
        (Plot(title, "process", "relative error", lines),),
    )


def _whole(error: float) -> float:
    """Nan is no small error."""
    return error if error == error else float("inf")


def errors(variant: Variant, known: Known, device: torch.device | str = "cpu") -> Iterator[float]:
    """Of each step of each grid: distance from the formula over the size of the states."""
    for grid in grids(known.sde.num_steps):
        noise = Noise.of(SEED, 0, BATCH, device)
        states = [known.prior * noise.normal(Stream.PRIOR, (len(MEAN),))]

        def keep(_step: int, x: Tensor, states: list[Tensor] = states) -> None:
            states.append(x)

        sampler, times = variant.build(known), torch.tensor(grid, dtype=torch.float64)
        sample(sampler, exact(known.sde), known.sde, times, noise, (len(MEAN),), keep)
        world = World(known, noise, grid, states)
        for k in range(len(grid) - 1):
            expected = variant.reference(world, k)
            left = known.alpha(grid[k])
            shrunk = known.alpha(grid[k + 1]) / left * states[k].abs() if left else states[k].abs()
            scale = expected.abs() + shrunk
            yield float(((states[k + 1] - expected).abs() / scale).max())


def exact(sde: SDE) -> Denoiser:
    """The Gaussian's, as the velocity, in which no digit is lost at either end.

    v = alpha sigma (1 - SPREAD^2) / (r V) (x_t - alpha mean) - sigma / r mean.
    """

    def denoise(x_t: Tensor, t: Tensor) -> Prediction:
        alpha, sigma, r = sde.alpha(t), sde.sigma(t), sde.scale(t)
        total = (alpha * SPREAD) ** 2 + sigma**2
        mean = x_t.new_tensor(MEAN)
        offset = x_t - broadcast(alpha, x_t) * mean
        v = broadcast(alpha * sigma * (1 - SPREAD**2) / (r * total), x_t) * offset
        v = v - broadcast(sigma / r, x_t) * mean
        return predict(sde, x_t, t, "v", v, torch.full_like(x_t, methods.LEARNED))

    return denoise
