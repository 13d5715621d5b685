"""Evaluate a denoiser that was trained on one process on another one."""

from dataclasses import dataclass

from scoreflow.samplers.denoisers.wrapper import Wrapper
from scoreflow.sde.base import SDE, broadcast
from scoreflow.sde.prediction import Denoiser, Prediction, predict
from scoreflow.sde.types import Batch, Times


@dataclass(frozen=True)
class Reclocked(Wrapper):
    """A denoiser of process `of` as a denoiser of process `on`, by change of time and scale.

    Every process is the rotation x~ = cos(phi) x_0 + sin(phi) eps, run by its own clock phi(t) and
    shown at its own scale r(t), and v belongs to the rotation. So x_t of `on`, rescaled, is given
    to the denoiser at the time of `of` that has the same angle. Where `of` ends at a smaller angle
    than `on`, as every process beside the rectified path, v at its N stands for v beyond: off by
    the first power of the angle that is left, 0.007 rad of DDPM's linear schedule.

    Attributes:
        denoiser: of process `of`.
        of: the process that the denoiser was trained on.
        on: the process whose x_t and t are passed in.
    """

    denoiser: Denoiser
    of: SDE
    on: SDE

    def __call__(self, x_t: Batch, t: Times) -> Prediction:
        """The prediction for x_t at time t of process `on`."""
        own = self.of.time(self.on.angle(t))
        scale = self.of.scale(own) / self.on.scale(t)
        v = self.denoiser(broadcast(scale, x_t) * x_t, own).v
        return predict(self.on, x_t, t, "v", v)
