"""What is done with an image: the task, its measurement and its method."""

from dataclasses import dataclass, replace

from torch import Tensor

from scoreflow.generation.plan import Drawing
from scoreflow.samplers import (
    DPS,
    MMPS,
    Clipped,
    Counted,
    Measurement,
    Replaced,
    Thresholded,
)


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
