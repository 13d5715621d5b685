"""An image-editing task: its input images, its measurement, its method and its settings."""

from dataclasses import dataclass, replace

from torch import Tensor

from scoreflow.generation.plan import SamplingPlan
from scoreflow.samplers import (
    DPS,
    MMPS,
    Clipped,
    Counted,
    Measurement,
    Replaced,
    Thresholded,
)
from scoreflow.sde.prediction import Denoiser


@dataclass(frozen=True)
class EditPlan:
    """A task, its input and its settings; those of other tasks are None.

    Attributes:
        task: one of `TASKS`.
        given: input images, (n, C, H, W) levels; none, n = 0, where the measurement itself is the
            input.
        names: of the input images.
        count: images to make.
        num_levels: L, of input and output.
        measurement: what the images made shall fit.
        method: one of `METHODS`.
        weight: of dps.
        iterations: of mmps.
        strength: of vary, as a share of N.
        sampler: name of the sampler, for the summary.
        seed: of the noise.
        batch_size: images at a time.
        remarks: a line each for what was done to the files of the given images.
    """

    task: str
    given: Tensor
    names: list[str]
    count: int
    num_levels: int
    measurement: Measurement | None = None
    method: str | None = None
    weight: float | None = None
    iterations: int | None = None
    strength: float | None = None
    sampler: str = "ode"
    seed: int = 0
    batch_size: int = 256
    remarks: tuple[str, ...] = ()

    def conditioned(
        self, sampling: SamplingPlan, counted: Counted
    ) -> tuple[SamplingPlan, MMPS | None]:
        """The sampling plan given the measurement, if there is one.

        Args:
            sampling: as without it, its denoiser perhaps limited to the range of images.
            counted: the denoiser in it, not limited: a method's own evaluations are counted.

        Returns:
            The plan, and the Denoiser that counts vector-Jacobian products, if it is MMPS.
        """
        mmps, sampler = None, sampling.sampler
        if self.measurement is not None:
            match self.method:
                case "mmps":
                    assert self.iterations is not None, "mmps needs a number of iterations"
                    mmps = MMPS(counted, self.measurement, self.iterations)
                case "dps":
                    assert self.weight is not None, "dps needs a weight"
                    sampler = DPS(sampler, self.measurement, self.weight)
                case "replace":
                    sampler = Replaced(sampler, self.measurement)
        denoiser = _relimited(sampling.denoiser, mmps or counted)
        return replace(sampling, sampler=sampler, denoiser=denoiser), mmps


def unlimited(denoiser: Denoiser) -> Denoiser:
    """A denoiser without the limit on its x_0, if it has one."""
    return denoiser.denoiser if isinstance(denoiser, Clipped | Thresholded) else denoiser


def _relimited(denoiser: Denoiser, inner: Denoiser) -> Denoiser:
    """Another denoiser under the limit of this one, if it has one."""
    if isinstance(denoiser, Clipped | Thresholded):
        return replace(denoiser, denoiser=inner)
    return inner
