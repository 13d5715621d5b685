"""How samples are drawn: the `sampling` section."""

from collections.abc import Callable
from typing import Any

import torch
from ml_collections import ConfigDict

from scoreflow.data.dataset import Data
from scoreflow.errors import RequestError
from scoreflow.factory.choose import choose, refusing
from scoreflow.factory.guidance import build_guidance
from scoreflow.factory.likelihood import try_solver
from scoreflow.generation.plan import SamplingPlan
from scoreflow.models.classifier import NoisyClassifier
from scoreflow.models.score_model import ScoreModel
from scoreflow.samplers import (
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
    Thresholded,
    UniPC,
    grid,
    least_cost,
    step_costs,
)
from scoreflow.samplers.reverse_variance import EpsError
from scoreflow.samplers.sampler import FINALS
from scoreflow.sde import Denoiser

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
VARIANCES = ("beta", "posterior", "optimal", "learned")
LEAST_COST = "least_cost"


def build_drawing(
    config: ConfigDict,
    name: str,
    model: ScoreModel,
    data: Data,
    classifier: NoisyClassifier | None = None,
    eps_error: EpsError | None = None,
) -> SamplingPlan:
    """A sampler by name, on the grid of the `sampling` section, guided as that says.

    Args:
        config: of the run.
        name: of the sampler.
        model: the network.
        data: what it was trained on.
        classifier: of the run, where a classifier guides (`Guidance.needs_classifier`).
        eps_error: of `limited`'s denoiser, where `needs_moments`.
    """
    c = config.sampling
    choose("sampler", name, SAMPLERS)
    guidance = build_guidance(config, model, data)
    guided, label = guidance.denoiser(model, classifier), guidance.label
    if name == "ode":
        try_solver("sampling", c.method, (c.tolerance,))
        flow = ProbabilityFlow(model.t_min, c.tolerance, c.method, c.max_evaluations)
        return SamplingPlan(flow, flow.times(model.sde.num_steps), guided, label=label)
    assert eps_error or not needs_moments(config, name), "needs a table of the network's errors"
    sampler = _sampler(c, name, model, eps_error)
    final = choose("sampling.final", c.final, FINALS)
    times = _times(c, name, model, eps_error)
    if final == "none" and len(times) == 2:  # it would return what it starts from
        raise RequestError(
            "sampling.final = none leaves out the last step, and needs sampling.steps of 2 or "
            "more, got 1: take more steps, or another sampling.final"
        )
    return SamplingPlan(sampler, times, limited(config, guided, data), final, label)


def needs_moments(config: ConfigDict, name: str) -> bool:
    """Whether a sampler rests on a table of the network's errors (`scoreflow.moments`)."""
    c = config.sampling
    optimal = c.variance == "optimal" and _predictor(c, name) == "ancestral"
    return bool(name != "ode" and (c.grid == LEAST_COST or optimal))


def limited(config: ConfigDict, denoiser: Denoiser, data: Data) -> Denoiser:
    """A denoiser, guided or not, its x_0 kept to the range of images: thresholded or clipped."""
    c = config.sampling
    if data.num_levels is None:
        if c.dynamic_threshold:
            raise RequestError(
                "sampling.dynamic_threshold is for images, which have a range, got "
                f"{c.dynamic_threshold} on vectors"
            )
        return denoiser
    if c.dynamic_threshold:
        return Thresholded(denoiser, c.dynamic_threshold)
    return Clipped(denoiser) if c.clip else denoiser


def _predictor(c: ConfigDict, name: str) -> str:
    """The sampler that makes the steps: of pc, its predictor."""
    return str(c.predictor) if name == "pc" else name


def _sampler(c: ConfigDict, name: str, model: ScoreModel, eps_error: EpsError | None) -> Sampler:
    variance = choose("sampling.variance", c.variance, VARIANCES)
    if variance == "learned" and not model.learned_variance:
        raise RequestError(
            "sampling.variance = learned needs a network trained with model.learned_variance = "
            "true; this one has beta, posterior or optimal"
        )
    methods: dict[str, Callable[[ConfigDict], Sampler]] = {
        "ancestral": lambda _: Ancestral(variance, eps_error if variance == "optimal" else None),
        "ddim": lambda c: DDIM(c.eta),
        "reverse_diffusion": lambda _: ReverseDiffusion(),
        "euler_maruyama": lambda _: EulerMaruyama(),
        "heun": lambda c: Heun(c.churn),
        "dpm": lambda c: DPMSolver(c.order),
        "dpm_sde": lambda _: DPMSolver(2, stochastic=True),
        "deis": lambda c: DEIS(c.order),
        "unipc": lambda c: UniPC(c.order),
    }
    if name != "pc":
        return refusing(methods[name], c, "sampling.order")
    corrector = choose("sampling.corrector", c.corrector, CORRECTORS)(c.snr, c.corrections)
    predictor = choose("sampling.predictor", c.predictor, methods)
    return PredictorCorrector(refusing(predictor, c, "sampling.order"), corrector)


def high_order(config: ConfigDict, name: str) -> bool:
    """Whether a sampler, or pc's predictor, is one for few steps at any real times."""
    return _predictor(config.sampling, name) in HIGH_ORDER


def _times(
    c: ConfigDict, name: str, model: ScoreModel, eps_error: EpsError | None
) -> torch.Tensor:
    """The grid of the `sampling` section."""
    high, sde = _predictor(c, name) in HIGH_ORDER, model.sde
    chosen = choose("sampling.grid", c.grid, ("auto", *GRIDS, LEAST_COST))
    chosen = ("log_snr" if high else "uniform") if chosen == "auto" else chosen
    steps = c.steps or (FEW_STEPS if high else sde.num_steps)

    def build(count: int) -> torch.Tensor:
        if chosen == LEAST_COST and eps_error is not None:
            return least_cost(step_costs(sde, eps_error), count)
        return grid(chosen, sde, count, model.t_min)

    return refusing(build, steps, "sampling.steps")
