"""Samplers and their time grids from the `sampling` section."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

import scoreflow.samplers as methods
from scoreflow.data.dataset import Data
from scoreflow.errors import RequestError
from scoreflow.factory.choose import as_request_error, choose, choose_key, try_solver
from scoreflow.factory.guidance import build_guidance
from scoreflow.generation.classes import ByClass
from scoreflow.generation.plan import Guidance, SamplingPlan
from scoreflow.models.classifier import NoisyClassifier
from scoreflow.models.score_model import ScoreModel
from scoreflow.runtime.compiling import solver_evaluations
from scoreflow.runtime.memory import refuse_above_memory
from scoreflow.samplers import (
    AnnealedLangevin,
    Clipped,
    Langevin,
    PredictorCorrector,
    ProbabilityFlow,
    Sampler,
    Thresholded,
    grid,
    least_cost,
    step_costs,
)
from scoreflow.samplers.reverse_variance import EpsError
from scoreflow.samplers.sampler import Final
from scoreflow.schema import samplers
from scoreflow.schema.config import AnyConfig, Config
from scoreflow.schema.evaluation_sections import SamplingConfig
from scoreflow.sde import SDE, Denoiser
from scoreflow.sde.base import ends_without_signal
from scoreflow.sde.flow import well_posed

CORRECTORS: dict[str, Callable[[float, int], Langevin | AnnealedLangevin]] = {
    "langevin": Langevin,
    "annealed": AnnealedLangevin,
}
SAMPLERS = samplers.NAMES
COMPARED = samplers.AFTER_TRAINING
HIGH_ORDER = samplers.HIGH_ORDER
LEAST_COST = "least_cost"


def build_drawing(
    config: AnyConfig,
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
    config = Config.of(config)
    c = config.sampling
    choose("sampler", name, SAMPLERS)
    refuse_samples(config, data)
    guidance = build_guidance(config, model, data)
    model = model.for_solver() if name == "ode" else model
    guided = guidance.denoiser(model, classifier)
    assert eps_error or not needs_moments(config, name), "needs a table of the network's errors"
    sampler = _method(c, name, model.t_min, model.learned_variance, eps_error)
    by_class = guided if isinstance(guided, ByClass) else None
    of = guidance.label, guidance.classes, by_class
    posed = posed_for(model, guidance)
    if isinstance(sampler, ProbabilityFlow):
        times = sampler.times(posed.num_steps)
        return SamplingPlan(sampler, times, guided, "mean", *of, apart=True, process=posed)
    kept = limited(config, guided, data)
    # a clipped x_0 has no great error, but where no signal is left it is no number
    process = posed if kept is guided or ends_without_signal(model.sde) else model.sde
    if process.num_steps < c.steps <= model.sde.num_steps:  # a chain has no more than it has
        c = replace(c, steps=process.num_steps)
    final, times = _final_and_times(c, name, process, model.t_min, eps_error)
    return SamplingPlan(sampler, times, kept, final, *of, process=process)


def posed_for(model: ScoreModel, guidance: Guidance) -> SDE:
    """The process as far as the flow of a guided network is well posed.

    A classifier's gradient is a score: without signal it tells nothing of x_0, whatever the
    network estimates.
    """
    if guidance.needs_classifier and ends_without_signal(model.sde):
        return well_posed(model.sde, "score")
    return model.posed


def refuse_samples(config: Config, data: Data) -> None:
    """Refuse samples that are larger than the memory."""
    c, event, device = config.sampling, data.train.shape[1:], data.train.device
    remedy = "lower it"
    if c.save == "grid":  # which keeps all of them
        need = 4 * c.num_images * math.prod(event)
        refuse_above_memory(f"sampling.num_images = {c.num_images}", need, device, remedy)
    wide = config.model.channels if config.model.name == "unet" else 1
    need = 4 * min(c.batch_size, c.num_images) * wide * math.prod(event[1:])
    refuse_above_memory(f"sampling.batch_size = {c.batch_size}", need, device, remedy)


def check_sampler(config: Config, name: str, sde: SDE, t_min: float, data: Data) -> None:
    """Refuse what `build_drawing` would, without a network.

    A table of the network's errors does not exist before training: the variance and the grid that
    rest on it are replaced by others with the same conditions.

    Args:
        config: of the run.
        name: of the sampler.
        sde: the process.
        t_min: the least time at which the network will be trained, in steps.
        data: what it will be trained on.
    """
    choose("sampler", name, SAMPLERS)
    _method(config.sampling, name, t_min, config.model.learned_variance, None)
    if name != "ode":
        _final_and_times(config.sampling, name, sde, t_min, None)
        _refuse_threshold(config.sampling, data)


def needs_moments(config: AnyConfig, name: str) -> bool:
    """Whether a sampler rests on a table of the network's errors (`generation.error_table`)."""
    c = Config.of(config).sampling
    optimal = c.variance == "optimal" and samplers.stepping(name, c.predictor) == "ancestral"
    return name != "ode" and (c.grid == LEAST_COST or optimal)


def limited(config: AnyConfig, denoiser: Denoiser, data: Data) -> Denoiser:
    """A denoiser, guided or not, its x_0 kept to the range of images: thresholded or clipped."""
    c = Config.of(config).sampling
    _refuse_threshold(c, data)
    if data.num_levels is None:
        return denoiser
    if c.dynamic_threshold:
        return Thresholded(denoiser, c.dynamic_threshold)
    return Clipped(denoiser) if c.clip else denoiser


def _refuse_threshold(c: SamplingConfig, data: Data) -> None:
    if data.num_levels is None and c.dynamic_threshold:
        raise RequestError(
            "sampling.dynamic_threshold is for images, which have a range, got "
            f"{c.dynamic_threshold} on vectors"
        )


def planned_evaluations(config: AnyConfig, name: str, model: ScoreModel) -> float:
    """About how many evaluations a sample takes, to plan with; guidance may double them.

    Args:
        config: of the run.
        name: of the sampler.
        model: the network.
    """
    c = Config.of(config).sampling
    if name == "ode":
        return solver_evaluations(c.tolerance)
    steps = c.steps or (samplers.FEW_STEPS if high_order(config, name) else model.sde.num_steps)
    a_step = samplers.SAMPLERS[samplers.stepping(name, c.predictor)].evaluations
    return steps * (a_step + (c.corrections if name == "pc" else 0))


def high_order(config: AnyConfig, name: str) -> bool:
    """Whether a sampler, or pc's predictor, is one for few steps at any real times."""
    return samplers.stepping(name, Config.of(config).sampling.predictor) in HIGH_ORDER


def _method(
    c: SamplingConfig, name: str, t_min: float, learned: bool, eps_error: EpsError | None
) -> Sampler:
    """The sampler by name; one for checks alone where it needs eps_error, and that is None."""
    if name == "ode":
        try_solver("sampling", c.method, (c.tolerance,))
        return ProbabilityFlow(t_min, c.tolerance, c.method, c.max_evaluations)
    if choose_key("sampling.variance", c.variance) == "learned" and not learned:
        raise RequestError(
            "sampling.variance = learned needs a network trained with model.learned_variance = "
            "true; this one has beta, posterior or optimal"
        )
    if name != "pc":
        return as_request_error(lambda c: _stepping(c, name, eps_error), c, "sampling.order")
    corrector = choose("sampling.corrector", c.corrector, CORRECTORS)(c.snr, c.corrections)
    predictor = choose_key("sampling.predictor", c.predictor)
    step = as_request_error(lambda c: _stepping(c, predictor, eps_error), c, "sampling.order")
    return PredictorCorrector(step, corrector)


def _stepping(c: SamplingConfig, name: str, eps_error: EpsError | None) -> Sampler:
    """A row of the table, its class called with the keys and constants named there."""
    entry = samplers.SAMPLERS[name]
    arguments: dict[str, Any] = {key: getattr(c, key) for key in entry.keys} | dict(entry.fixed)
    if arguments.get("variance") == "optimal":
        arguments |= {"eps_error": eps_error} if eps_error else {"variance": "beta"}
    sampler: Sampler = getattr(methods, entry.method)(**arguments)
    return sampler


def _final_and_times(
    c: SamplingConfig, name: str, sde: SDE, t_min: float, eps_error: EpsError | None
) -> tuple[Final, torch.Tensor]:
    """What the last step does, and the grid of the `sampling` section, (K + 1,) in steps."""
    final: Final = choose_key("sampling.final", c.final)
    high = samplers.stepping(name, c.predictor) in HIGH_ORDER
    chosen: str = choose_key("sampling.grid", c.grid)
    chosen = ("log_snr" if high else "uniform") if chosen == "auto" else chosen

    def build(count: int) -> torch.Tensor:
        if chosen == LEAST_COST and eps_error is not None:
            return least_cost(step_costs(sde, eps_error), count)
        return grid("uniform" if chosen == LEAST_COST else chosen, sde, count, t_min)

    steps = c.steps or (samplers.FEW_STEPS if high else sde.num_steps)
    times = as_request_error(build, steps, "sampling.steps")
    if c.shift != 1:
        times = _shifted(chosen, sde, steps, t_min, c.shift)
    if final == "none" and len(times) == 2:  # it would return what it starts from
        raise RequestError(
            "sampling.final = none leaves out the last step, and needs sampling.steps of 2 or "
            "more, got 1: take more steps, or another sampling.final"
        )
    return final, times


def _shifted(chosen: str, sde: SDE, steps: int, t_min: float, shift: float) -> torch.Tensor:
    """The times of a grid with sigma / alpha multiplied by sampling.shift."""
    if chosen == LEAST_COST:
        raise RequestError(
            f"sampling.shift = {shift:g} moves the times of a grid, and those of least_cost are "
            "found by their costs: leave it at 1, or choose another sampling.grid"
        )
    build = partial(grid, chosen, sde, steps, t_min)
    return as_request_error(build, shift, "sampling.shift")
