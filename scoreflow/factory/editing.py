"""Editing tasks on a given image from the `control` section."""

import math
from dataclasses import replace

import torch

from scoreflow.data.dataset import Data
from scoreflow.data.levels import centres
from scoreflow.data.reading.settings import Reading
from scoreflow.data.reading.user_images import Given, Mask, read_images, read_mask
from scoreflow.errors import RequestError
from scoreflow.factory.choose import choose, choose_key, try_solver
from scoreflow.generation.edit_plan import EditPlan
from scoreflow.generation.plan import SamplingPlan
from scoreflow.models.score_model import ScoreModel
from scoreflow.runtime.memory import refuse_above_memory
from scoreflow.samplers import (
    BlockMean,
    ChannelMean,
    Masked,
    Measurement,
    Operator,
    ProbabilityFlow,
)
from scoreflow.samplers.editing.linear_operators import middle_square
from scoreflow.schema import samplers
from scoreflow.schema.applications.features import FeaturesConfig
from scoreflow.schema.config import AnyConfig, Config
from scoreflow.schema.evaluation_sections import ControlConfig, LikelihoodConfig, SamplingConfig
from scoreflow.schema.task_keys import MEASURED
from scoreflow.schema.training_sections import FITS, READING_MODES, DataConfig


def build_control(config: AnyConfig, data: Data) -> EditPlan | None:
    """The editing task of the config, sampling.task; None where it has none."""
    config = Config.of(config)
    c, task = config.control, choose_key("sampling.task", config.sampling.task)
    if task == "none":
        return None
    if data.num_levels is None:
        raise RequestError(
            f"sampling.task = {task} is about images, and the data of this run are vectors"
        )
    if task != "reconstruct":  # which takes as many images as there are
        need = 4 * c.count * math.prod(data.test.shape[1:])
        told = f"control.count = {c.count}"
        refuse_above_memory(told, need, data.test.device, "lower it")
    reading = build_user_reading(c, config.data)
    if task in MEASURED:
        return _measured(config, data, data.num_levels, reading)
    if task == "interpolate":
        if c.count < 2:
            raise RequestError(f"interpolate needs control.count of 2 or more, got {c.count}")
        a, b = (read_images(each, data, reading=reading) for each in (c.image, c.other))
        both = Given(torch.cat((a.levels, b.levels)), a.names + b.names, a.remarks + b.remarks)
        return _plan(config, data.num_levels, both)
    count = c.count if task == "reconstruct" else 1
    given = read_images(c.image, data, count, reading=reading)
    plan = _plan(config, data.num_levels, given)
    return replace(plan, strength=c.strength) if task == "vary" else plan


def build_user_reading(
    c: ControlConfig | LikelihoodConfig | FeaturesConfig, run: DataConfig
) -> Reading:
    """How files of a user's own are read: as a section says, or else as the data of the run were.

    Args:
        c: the section.
        run: of the data.
    """
    fit = choose(f"{c.NAME}.fit", c.fit or run.fit, FITS)
    mode = choose(f"{c.NAME}.mode", c.mode or run.mode, READING_MODES)
    background = c.background or run.background
    return Reading(fit=fit, mode=mode, background=background, section=c.NAME)


def _plan(config: Config, num_levels: int, given: Given) -> EditPlan:
    c = config.sampling
    return EditPlan(
        c.task,
        given.levels,
        given.names,
        config.control.count,
        num_levels,
        remarks=given.remarks,
        sampler=c.sampler,
        seed=c.seed,
        batch_size=c.batch_size,
    )


def build_flow_plan(config: AnyConfig, model: ScoreModel) -> SamplingPlan:
    """The probability flow of the `sampling` section, of the network without guidance."""
    c = Config.of(config).sampling
    try_solver("sampling", c.method, (c.tolerance,))
    flow = ProbabilityFlow(model.t_min, c.tolerance, c.method, c.max_evaluations)
    process = model.posed
    times = flow.times(process.num_steps)
    return SamplingPlan(flow, times, model.for_solver(), process=process)


def _measured(config: Config, data: Data, num_levels: int, reading: Reading) -> EditPlan:
    c, shape = config.control, tuple(data.test.shape[1:])
    method = choose_key("control.method", c.method)
    if method != "mmps":
        _refuse_indivisible(method, config.sampling)
    operator, coarse, remarks = _operator(config, shape, reading)
    given = read_images(c.image, data, also=(coarse,) if coarse else (), reading=reading)
    given = given._replace(remarks=(*given.remarks, *remarks))
    value = centres(given.levels, num_levels)
    itself = tuple(value.shape[1:]) != shape  # the file is coarse, or grey, already
    value = value if itself else operator.apply(value)
    # a level stands for a bin, and a mean over n of them for the mean of n uniform laws
    bins = 2 / num_levels / 12**0.5
    noise = c.noise or (bins if itself else bins * operator.gain**0.5)
    return replace(
        _plan(config, num_levels, given._replace(levels=data.test[:0]) if itself else given),
        measurement=Measurement(operator, value, noise),
        method=method,
        weight=c.weight,
        iterations=c.iterations,
    )


def _refuse_indivisible(method: str, c: SamplingConfig) -> None:
    """Refuse a method that acts in every step for a sampler that leaves it no room to."""
    sampler = samplers.stepping(c.sampler, c.predictor)
    if why := samplers.SAMPLERS[sampler].not_divisible:
        raise RequestError(
            f"control.method = {method} acts between the steps of a sampler, and {sampler} "
            f"{why}: use another sampler, or mmps"
        )
    if c.final != "mean":
        raise RequestError(
            f"control.method = {method} acts in every step to t = 0, which sampling.final = mean "
            f"alone makes, got {c.final}: leave sampling.final at mean, or use mmps"
        )


def _operator(
    config: Config, shape: tuple[int, ...], reading: Reading
) -> tuple[Operator, tuple[int, ...] | None, tuple[str, ...]]:
    """A, the shape of an image that is y itself, if one can be, and what is to be known of it."""
    c, task = config.control, config.sampling.task
    channels, height, width = shape
    if task == "inpaint":
        known, remarks = (
            read_mask(c.mask, shape, reading) if c.mask else Mask(middle_square(shape))
        )
        return Masked(known), None, remarks
    if task == "colorize":
        if channels != 3:
            raise RequestError(
                f"sampling.task = colorize needs data in colour, and those of this run have "
                f"{channels} channel"
            )
        return ChannelMean(channels), (1, height, width), ()
    if height % c.factor or width % c.factor or c.factor > min(height, width):
        raise RequestError(
            f"control.factor must divide the sides of the image, {height}x{width}, got {c.factor}"
        )
    return BlockMean(c.factor), (channels, height // c.factor, width // c.factor), ()
