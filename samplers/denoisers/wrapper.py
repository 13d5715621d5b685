"""The base class of Denoisers around a Denoiser, and the number of network evaluations of a call.

A wrapper is itself a Denoiser, (x_t, t) -> Prediction, so wrappers compose in any order:
`Counted(Clipped(Guided(conditional, unconditional, 3.0)))`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from scoreflow.sde.prediction import Denoiser, Prediction
from scoreflow.sde.types import Batch, Times


class Wrapper(ABC):
    """A Denoiser that calls another one once in each of its calls.

    Attributes:
        denoiser: the Denoiser inside.
    """

    denoiser: Denoiser

    @property
    def evaluations(self) -> int:
        """Network evaluations of one call, as many as of the Denoiser inside."""
        return evaluations(self.denoiser)

    @abstractmethod
    def __call__(self, x_t: Batch, t: Times) -> Prediction:
        """The prediction at x_t, (B, ...), and t, () or (B,) in steps."""


def evaluations(denoiser: Denoiser) -> int:
    """Network evaluations of one call of a denoiser: its `evaluations`, or 1 if it has none."""
    return getattr(denoiser, "evaluations", 1)


def further_evaluations(denoiser: Denoiser) -> Callable[[Times], Tensor] | None:
    """Evaluations of each row beyond those of `evaluations`, as a function of its time.

    A network that knows the integers alone is asked twice between two of them: its Denoiser's
    `further_evaluations` says where. Wrappers hand on what the one inside says.

    Returns:
        Times -> counts of their shape; None where there never are any.
    """
    while isinstance(denoiser, Wrapper):
        denoiser = denoiser.denoiser
    return getattr(denoiser, "further_evaluations", None)
