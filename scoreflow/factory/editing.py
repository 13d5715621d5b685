"""What is done with the user's image: the `control` section."""

from dataclasses import dataclass, replace

import torch
from ml_collections import ConfigDict
from torch import Tensor

from samplers import (
    DPS,
    MMPS,
    BlockMean,
    ChannelMean,
    Clipped,
    Counted,
    Masked,
    Measurement,
    Operator,
    Replaced,
    Thresholded,
)
from samplers.measurement import middle_square
from scoreflow.build.choices import choose
from scoreflow.build.drawing import Drawing
from scoreflow.data import Data, dequantize
from scoreflow.errors import RequestError
from scoreflow.given import read_images, read_mask
from scoreflow.tasks import MEASURED, METHODS, TASKS


@dataclass(frozen=True)
class Control:
    """A task, what it is given, and its settings; those of other tasks are None.

    Attributes:
        task: one of `TASKS`.
        given: images, (n, C, H, W) levels; none, n = 0, where the measurement itself was given.
        names: of the given.
        count: images to make.
        measurement: what the images made shall fit.
        method: one of `METHODS`.
        weight: of dps.
        iterations: of mmps.
        strength: of vary, as a share of N.
    """

    task: str
    given: Tensor
    names: list[str]
    count: int
    measurement: Measurement | None = None
    method: str | None = None
    weight: float | None = None
    iterations: int | None = None
    strength: float | None = None

    def conditioned(self, drawing: Drawing, counted: Counted) -> tuple[Drawing, MMPS | None]:
        """The drawing given the measurement, if there is one.

        Args:
            drawing: as without it, its denoiser perhaps limited to the range of images.
            counted: the denoiser in it, not limited: what a method asks it for is counted.

        Returns:
            The drawing, and the Denoiser that counts vector-Jacobian products, if it is MMPS.
        """
        moments, inner, sampler = None, counted, drawing.sampler
        if self.method == "mmps":
            inner = moments = MMPS(counted, self.measurement, self.iterations)
        elif self.method == "dps":
            sampler = DPS(sampler, self.measurement, self.weight)
        elif self.method == "replace":
            sampler = Replaced(sampler, self.measurement)
        limited = isinstance(drawing.denoiser, Clipped | Thresholded)
        denoiser = replace(drawing.denoiser, denoiser=inner) if limited else inner
        return replace(drawing, sampler=sampler, denoiser=denoiser), moments


def build_control(config: ConfigDict, data: Data) -> Control | None:
    """The task of the config; None where it has none."""
    c, task = config.control, choose("sampling.task", config.sampling.task, ("none", *TASKS))
    if task == "none":
        return None
    if data.num_levels is None:
        raise RequestError(
            f"sampling.task = {task} is about images, and the data of this run are vectors"
        )
    if task in MEASURED:
        return _measured(config, data)
    if task == "interpolate":
        if c.count < 2:
            raise RequestError(f"interpolate needs control.count of 2 or more, got {c.count}")
        (a, first), (b, second) = (read_images(each, data) for each in (c.image, c.other))
        return Control(task, torch.cat((a, b)), first + second, c.count)
    given, names = read_images(c.image, data, c.count if task == "reconstruct" else 1)
    return Control(task, given, names, c.count, strength=c.strength if task == "vary" else None)


def _measured(config: ConfigDict, data: Data) -> Control:
    c, task, sampler = config.control, config.sampling.task, config.sampling.sampler
    shape = tuple(data.test.shape[1:])
    method = choose("control.method", c.method, tuple(METHODS))
    if sampler == "pc":
        sampler = config.sampling.predictor
    if method != "mmps" and sampler in ("ode", "unipc"):
        why = {
            "ode": "chooses its own steps, and one goes all the way",
            "unipc": "corrects the state that a step left",
        }
        raise RequestError(
            f"control.method = {method} acts between the steps of a sampler, and {sampler} "
            f"{why[sampler]}: use another sampler, or mmps"
        )
    if method != "mmps" and config.sampling.final != "mean":
        raise RequestError(
            f"control.method = {method} acts in every step to t = 0, which sampling.final = mean "
            f"alone makes, got {config.sampling.final}: leave sampling.final at mean, or use mmps"
        )
    operator, coarse = _operator(config, shape)
    given, names = read_images(c.image, data, also=(coarse,) if coarse else ())
    centres = dequantize(given, torch.tensor(0.5, dtype=torch.float64), data.num_levels)
    itself = tuple(given.shape[1:]) != shape  # the file is coarse, or grey, already
    value = centres if itself else operator.apply(centres)
    # a level stands for a bin, and a mean over n of them for the mean of n uniform laws
    bins = 2 / data.num_levels / 12**0.5
    noise = c.noise or (bins if itself else bins * operator.gain**0.5)
    return Control(
        task,
        data.test[:0] if itself else given,
        names,
        c.count,
        Measurement(operator, value, noise),
        method,
        c.weight,
        c.iterations,
    )


def _operator(
    config: ConfigDict, shape: tuple[int, ...]
) -> tuple[Operator, tuple[int, ...] | None]:
    """A, and the shape of an image that is y itself, if one can be."""
    c, task = config.control, config.sampling.task
    channels, height, width = shape
    if task == "inpaint":
        known = read_mask(c.mask, shape) if c.mask else middle_square(shape)
        return Masked(known), None
    if task == "colorize":
        if channels != 3:
            raise RequestError(
                f"sampling.task = colorize needs data in colour, and those of this run have "
                f"{channels} channel"
            )
        return ChannelMean(channels), (1, height, width)
    if height % c.factor or width % c.factor or c.factor > min(height, width):
        raise RequestError(
            f"control.factor must divide the sides of the image, {width}x{height}, got {c.factor}"
        )
    return BlockMean(c.factor), (channels, height // c.factor, width // c.factor)
