"""How samples are drawn: the `sampling` section."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from ml_collections import ConfigDict

from samplers import (
    DDIM,
    DEIS,
    GRIDS,
    Ancestral,
    AnnealedLangevin,
    Clipped,
    DPMSolver,
    EulerMaruyama,
    Heun,
    Langevin,
    PredictorCorrector,
    ProbabilityFlow,
    ReverseDiffusion,
    Sampler,
    UniPC,
    grid,
)
from samplers.sampler import FINALS, Final
from scoreflow.build.choices import choose, refusing
from scoreflow.build.guiding import build_guidance
from scoreflow.build.question import try_solver
from scoreflow.classifier import NoisyClassifier
from scoreflow.data import Data
from scoreflow.errors import RequestError
from scoreflow.model import ScoreModel
from sde import Denoiser

CORRECTORS: dict[str, Any] = {"langevin": Langevin, "annealed": AnnealedLangevin}
SAMPLERS = (
    "ancestral",
    "pc",
    "ode",
    "ddim",
    "reverse_diffusion",
    "euler_maruyama",
    "heun",
    "dpm",
    "dpm_sde",
    "deis",
    "unipc",
)
HIGH_ORDER = ("heun", "dpm", "dpm_sde", "deis", "unipc")
FEW_STEPS = 20
"""Of those of high order, where a config leaves it open."""
COMPARED = ("ancestral", "pc", "ode")
"""The samplers that a training ends with."""
VARIANCES = ("beta", "posterior", "learned")


@dataclass(frozen=True)
class Drawing:
    """How samples are drawn: a method, its times, and the Denoiser to hand it.

    Attributes:
        sampler: the method.
        times: its grid.
        denoiser: guided and clipped as the config says.
        final: what the step to t = 0 does.
        label: the class that is asked for, -1 for none.
    """

    sampler: Sampler
    times: torch.Tensor
    denoiser: Denoiser
    final: Final = "mean"
    label: int = -1


def build_drawing(
    config: ConfigDict,
    name: str,
    model: ScoreModel,
    data: Data,
    classifier: NoisyClassifier | None = None,
) -> Drawing:
    """A sampler by name, on the grid of the `sampling` section, guided as that says.

    Args:
        config: of the run.
        name: of the sampler.
        model: the network.
        data: what it was trained on.
        classifier: of the run, where a classifier guides (`Guidance.needs_classifier`).
    """
    c = config.sampling
    choose("sampler", name, SAMPLERS)
    guidance = build_guidance(config, model, data)
    guided, label = guidance.denoiser(model, classifier), guidance.label
    if name == "ode":
        try_solver("sampling", c.method, (c.tolerance,))
        flow = ProbabilityFlow(model.t_min, c.tolerance, c.method, c.max_evaluations)
        return Drawing(flow, flow.times(model.sde.num_steps), guided, label=label)
    variance = choose("sampling.variance", c.variance, VARIANCES)
    if variance == "learned" and not model.learned_variance:
        raise RequestError(
            "sampling.variance = learned needs a network trained with model.learned_variance = "
            "true; this one has beta or posterior"
        )
    ancestral = Ancestral(variance)
    corrector = choose("sampling.corrector", c.corrector, CORRECTORS)(c.snr, c.corrections)
    methods: dict[str, Callable[[ConfigDict], Sampler]] = {
        "ancestral": lambda _: ancestral,
        "pc": lambda _: PredictorCorrector(ancestral, corrector),
        "ddim": lambda c: DDIM(c.eta),
        "reverse_diffusion": lambda _: ReverseDiffusion(),
        "euler_maruyama": lambda _: EulerMaruyama(),
        "heun": lambda c: Heun(c.churn),
        "dpm": lambda c: DPMSolver(c.order),
        "dpm_sde": lambda _: DPMSolver(2, stochastic=True),
        "deis": lambda c: DEIS(c.order),
        "unipc": lambda c: UniPC(c.order),
    }
    sampler = refusing(methods[name], c, "sampling.order")
    clip = c.clip and data.num_levels is not None
    final = choose("sampling.final", c.final, FINALS)
    # the guided x_0 is what must stay inside the range of the data
    denoiser = Clipped(guided) if clip else guided
    return Drawing(sampler, _times(c, name, model), denoiser, final, label)


def _times(c: ConfigDict, name: str, model: ScoreModel) -> torch.Tensor:
    """The grid of the `sampling` section."""
    high = name in HIGH_ORDER
    chosen = choose("sampling.grid", c.grid, ("auto", *GRIDS))
    chosen = ("log_snr" if high else "uniform") if chosen == "auto" else chosen
    steps = c.steps or (FEW_STEPS if high else model.sde.num_steps)
    return refusing(lambda k: grid(chosen, model.sde, k, model.t_min), steps, "sampling.steps")
