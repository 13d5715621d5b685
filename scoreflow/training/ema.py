"""Exponential moving average of a network's weights, kept as a second network.

    average <- d average + (1 - d) weight,   d = min(decay, (1 + step) / (10 + step)).

The average is evaluated where it lies: `ema.module(x, index)`. Nothing is swapped into the trained
network and back, so an evaluation that fails half-way cannot leave the average in place of the
weights. The warm-up of d (TensorFlow's `ExponentialMovingAverage(num_updates=step)`) lets the
first, random weights fade: without it, at decay 0.9999, they would still be 37 % of the average
after 10000 steps.

By hand, because torch's `AveragedModel` copies the weights at its first update, counts its updates
in a tensor of its own and names the weights `module.*`: other averages, and other checkpoints.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from scoreflow.runtime.compiling import uncompiled
from scoreflow.runtime.gpu.transfer import load_weights


class EMA:
    """Holds `module`, the averaged copy of a network: in eval mode, without gradients.

    Args:
        model: the network to follow, compiled or not; copied, never written to.
        decay: largest share of the old average that an update keeps, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        self.decay = decay
        self.module: nn.Module = copy.deepcopy(uncompiled(model)).eval().requires_grad_(False)

    def update(self, model: nn.Module, step: int) -> None:
        """Move the average towards the weights of `model`; call after each optimiser step.

        Args:
            model: the network given at the start, or the same one compiled.
            step: optimiser steps before this one, 0, 1, ...: the first update is at 0.
        """
        self.follow(model, self.share(step))

    def share(self, step: int) -> float:
        """The share 1 - d that the new weights have in the average after a step, in (0, 1]."""
        return 1 - min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def follow(self, model: nn.Module, share: float | Tensor) -> None:
        """Move the average towards the weights of `model` by a share of the way.

        Parameters are averaged, buffers copied. Nothing here waits for the device.

        Args:
            model: the network given at the start, or the same one compiled.
            share: in [0, 1]; or (), float32, on the device of the weights.
        """
        model = uncompiled(model)
        averages: list[Tensor] = list(self.module.parameters())
        weights: list[Tensor] = list(model.parameters())
        if not isinstance(share, Tensor):
            torch._foreach_lerp_(averages, weights, share)
        elif share.device.type == "cpu":  # to the bit as by a number
            torch._foreach_lerp_(averages, weights, [share.to(w.dtype) for w in weights])
        else:  # a GPU's lerp takes its shares one kernel a parameter, unless they are numbers
            ways = torch._foreach_sub(weights, averages)
            torch._foreach_mul_(ways, share.to(ways[0].dtype))
            torch._foreach_add_(averages, ways)
        for kept, new in zip(self.module.buffers(), model.buffers(), strict=True):
            kept.copy_(new)

    def state_dict(self) -> dict[str, Any]:
        """The averaged network's state: names as in the uncompiled network; tensors not copied."""
        return self.module.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state of `state_dict`, strictly: each name must match."""
        load_weights(self.module, state)
