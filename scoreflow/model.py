"""The score network as a Denoiser: the one place where a network meets a process."""

import torch
from torch import Tensor, nn

from scoreflow.errors import RequestError
from sde.base import SDE, broadcast
from sde.prediction import Kind, Prediction, predict

CLOCK_ROUNDING = 1e-9
"""Steps by which a time may fall short of t_min: angle and back is exact to a few last places."""


class ScoreModel:
    """Network + SDE + kind of prediction -> Denoiser.

    The network sees x_t / r_t (unit scale under every SDE) and the index t - 1, both float32; its
    answer is cast to the dtype of x_t, so that samplers and solvers keep their float64 state.

    Args:
        network: (x (B, ...), index (B,)) -> (B, ...).
        sde: the process.
        kind: what the network's output estimates.
        t_min: the least time it was trained at, in steps; it is never asked below. 1 for integer
            times.
        precision: "float32" or "bfloat16" (autocast of the network alone).
        channels_last: memory format of the images handed to the network.
    """

    def __init__(
        self,
        network: nn.Module,
        sde: SDE,
        kind: Kind = "eps",
        t_min: float = 1.0,
        precision: str = "float32",
        channels_last: bool = False,
    ) -> None:
        self.network = network
        self.sde = sde
        self.kind: Kind = kind
        self.t_min = t_min
        self.precision = precision
        self.channels_last = channels_last

    def __call__(self, x_t: Tensor, t: Tensor) -> Prediction:
        """Estimate at x_t (B, ...) and t, () or (B,), in steps within [t_min, N]."""
        if t.device.type == "cpu":  # on a GPU the check would wait for the device at every call
            self._check(t)
        x = (x_t / broadcast(self.sde.scale(t), x_t)).float()
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        index = (t - 1).float().to(x.device).expand(len(x))
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            value = self.network(x, index)
        return predict(self.sde, x_t, t, self.kind, value.to(x_t.dtype))

    def _check(self, t: Tensor) -> None:
        low, high = float(t.min()), float(t.max())
        if not self.t_min - CLOCK_ROUNDING <= low <= high <= self.sde.num_steps + CLOCK_ROUNDING:
            raise RequestError(
                f"t must lie in [{self.t_min}, {self.sde.num_steps}], got {low} .. {high}; "
                "a network is not asked about times that it was not trained at"
            )
