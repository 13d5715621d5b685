"""Scaling of the loss, which float16 needs: its gradients would else fall below what it can hold.

The loss is multiplied by a scale and the gradients are divided by it (`torch.amp.GradScaler`).
Gradients that overflow are thrown away, the weights stay as they are, and the scale is halved;
after 2000 steps without that it is doubled. A skipped step counts: the learning rate, and the
average of the weights, go on as after any other.
"""

import math
from typing import Any

import torch
from torch import Tensor

from scoreflow.errors import RunError

LEAST_SCALE = 1.0
"""Gradients that overflow under a smaller one would in an unscaled training too."""


class Scaling:
    """The scale of a training in float16; of any other precision it does nothing.

    Args:
        precision: of the training.
        device: where it computes.

    Attributes:
        on: whether the loss is scaled.
        skipped: steps that `means` has counted.
    """

    def __init__(self, precision: str, device: torch.device) -> None:
        self.on, self.skipped = precision == "float16", 0
        self._scaler = torch.amp.GradScaler(device.type, enabled=self.on)

    def scaled(self, loss: Tensor) -> Tensor:
        """What is differentiated in the place of a loss."""
        found: Tensor = self._scaler.scale(loss)
        return found

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients by the scale."""
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Move the weights, unless a gradient overflowed; never waits for the device."""
        self._scaler.step(optimizer)
        self._scaler.update()

    def state(self) -> dict[str, Any]:
        """What a resumed run needs: under "scaler" the scale and its count; else nothing."""
        return {"scaler": self._scaler.state_dict()} if self.on else {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state of the training; one without a scale begins with the first."""
        if self.on and "scaler" in state:
            self._scaler.load_state_dict(state["scaler"])

    def refuse_hopeless(self, step: int) -> None:
        """Stop a training whose gradients overflow under every scale; waits for the device.

        Raises:
            RunError: the scale has fallen below `LEAST_SCALE`.
        """
        if (scale := self._scaler.get_scale()) < LEAST_SCALE:
            raise RunError(
                f"step {step}: gradients overflow in float16 under every scale, down to {scale:g};"
                " a checkpoint, if there is one, is from before it. Try a smaller "
                "training.learning_rate, or training.precision = float32"
            )

    def means(self, rows: Tensor) -> tuple[float, float, int | None]:
        """Means over the steps that were not skipped, and how many were.

        Args:
            rows: losses and gradient norms of some steps, (steps, 2).

        Returns:
            Loss, gradient norm (nan where all were skipped) and count; None instead of the count
            where none can be.
        """
        if not self.on:
            loss, grad_norm = rows.double().mean(0).tolist()
            return loss, grad_norm, None
        kept = rows[rows.isfinite().all(1)].double()
        loss, grad_norm = kept.mean(0).tolist() if len(kept) else (math.nan, math.nan)
        self.skipped += len(rows) - len(kept)
        return loss, grad_norm, len(rows) - len(kept)
