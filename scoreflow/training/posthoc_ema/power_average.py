"""Power-function averages of a network's weights, kept in training (Karras et al. 2024, EDM2)."""

from torch import nn

from scoreflow.training.ema import EMA
from scoreflow.training.posthoc_ema.profiles import gamma_of, share_at
from scoreflow.training.settings import TrainingSettings


class PowerAverage(EMA):
    """An average whose memory grows with the training: of one relative width at every step.

    The weights before the first step, which nothing was learned by, have no part in it.

    Args:
        model: the network to follow, compiled or not; copied, never written to.
        length: standard deviation of its profile over the steps done, in (0, 1/sqrt(12)).
    """

    def __init__(self, model: nn.Module, length: float) -> None:
        super().__init__(model)
        self.length, self._gamma = length, gamma_of(length)

    def share(self, step: int) -> float:
        """The share of the new weights in the average after a step, in (0, 1]."""
        return share_at(self._gamma, step)


def averages_of(network: nn.Module, settings: TrainingSettings) -> list[EMA]:
    """The averages that a training keeps: the one that modes read, and more to reconstruct from.

    Args:
        network: the network that is trained, at its beginning.
        settings: of the training.
    """
    if settings.ema == "power":
        return [PowerAverage(network, length) for length in settings.ema_lengths]
    return [EMA(network, settings.ema_decay)]
