"""A denoiser of one process asked about another's states."""

from dataclasses import dataclass

from scoreflow.samplers.denoisers.instrumentation import evaluations
from scoreflow.sde.base import SDE, broadcast
from scoreflow.sde.prediction import Denoiser, Prediction, predict
from scoreflow.sde.types import Batch, Times


@dataclass(frozen=True)
class Reclocked:
    """A denoiser of one process, asked about another: VP, sub-VP and VE share their networks.

    Every process is the rotation x~ = cos(phi) x_0 + sin(phi) eps, run by its own clock phi(t) and
    shown at its own scale r(t), and v belongs to the rotation. So x_t of the other process is
    shown to the denoiser at the time of its own that has the same angle.

    Attributes:
        denoiser: of process `of`.
        of: the process that the denoiser knows.
        on: the process that it is asked about.
    """

    denoiser: Denoiser
    of: SDE
    on: SDE

    @property
    def evaluations(self) -> int:
        """Evaluations of a network a call."""
        return evaluations(self.denoiser)

    def __call__(self, x_t: Batch, t: Times) -> Prediction:
        """The prediction for x_t at time t of process `on`."""
        own = self.of.time(self.on.angle(t))
        scale = self.of.scale(own) / self.on.scale(t)
        v = self.denoiser(broadcast(scale, x_t) * x_t, own).v
        return predict(self.on, x_t, t, "v", v)
