"""A classifier of noisy images: log p(y | x_t) at any t (Dhariwal & Nichol 2021, section 4).

    stem
    levels    [residual] per size, then halve it      width, 2 width, 4 width, 4 width, ...
    features  mean over the pixels of SiLU(norm(h))
    head      dense

It is the way down of the U-Net, made of its blocks, and takes the index as that does. Sizes are
halved while they are even and above 4: 8 to 4, 28 to 7, 32 to 4.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from scoreflow.models.kernels.fused import norm_act_drop
from scoreflow.models.layers import convolution, dense
from scoreflow.models.time_embedding import IndexEmbedding
from scoreflow.models.unet_blocks import ResidualBlock, Style
from scoreflow.sde.base import SDE, broadcast
from scoreflow.sde.types import LogProb

SINUSOIDS = 64
SMALLEST = 4
"""Pixels a side that are not halved further."""
WIDEST = 4
"""Channels of the coarser levels, as a multiple of the finest's."""


class Classifier(nn.Module):
    """(x_t at unit scale, index) -> a logit a class.

    Args:
        shape: of an image, (C, H, W).
        num_classes: K.
        width: channels of the finest level, at least 8.
    """

    def __init__(self, shape: tuple[int, int, int], num_classes: int, width: int = 32) -> None:
        super().__init__()
        if num_classes < 2 or width < 8:
            raise ValueError(
                f"a classifier needs 2 classes and a width of 8 or more, got {num_classes} and "
                f"{width}"
            )
        self.shape, self.num_classes, self.width = tuple(shape), num_classes, width
        self.embedding = IndexEmbedding(SINUSOIDS, 4 * width)
        self.stem = convolution(shape[0], width, padding=1)
        self.blocks = nn.ModuleList()
        size, inputs, outputs = shape[1:], width, width
        while True:
            self.blocks.append(
                ResidualBlock(inputs, outputs, 4 * width, 0.0, Style(_groups(inputs)))
            )  # outputs are a multiple of inputs
            if any(side % 2 or side <= SMALLEST for side in size):
                break
            size = (size[0] // 2, size[1] // 2)
            inputs, outputs = outputs, min(2 * outputs, WIDEST * width)
        self.norm = nn.GroupNorm(_groups(outputs), outputs, eps=1e-6)
        self.head = dense(outputs, num_classes)

    def forward(
        self, x: Float[Tensor, "batch channels height width"], index: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch classes"]:
        """Logits of the classes, (B, C, H, W) and (B,) -> (B, K)."""
        logits: Tensor = self.head(self.features(x, index))
        return logits

    def features(
        self, x: Float[Tensor, "batch channels height width"], index: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch features"]:
        """Input of the last layer.

        Args:
            x: images, x_t / r_t, (B, C, H, W).
            index: t - 1 for time t in steps, (B,).

        Returns:
            (B, F), F the channels of the coarsest level.
        """
        if tuple(x.shape[1:]) != self.shape or index.shape != x.shape[:1]:
            raise ValueError(
                f"x must be (B, {', '.join(map(str, self.shape))}) and index (B,), "
                f"got {tuple(x.shape)} and {tuple(index.shape)}"
            )
        embedding, h = self.embedding(index), self.stem(x)
        for level, block in enumerate(self.blocks):
            if level > 0:
                h = F.avg_pool2d(h, 2)
            h = block(h, embedding)
        return norm_act_drop(self.norm, h).mean((2, 3))


def _groups(channels: int) -> int:
    """At most 8 groups of a GroupNorm, of 4 channels or more.

    A group of one channel would lose the mean of that channel, which tells dark from bright.
    """
    return math.gcd(channels, max(1, min(8, channels // 4)))


@dataclass(frozen=True)
class NoisyClassifier:
    """A classifier on a process: its inputs are x_t / r_t and the index t - 1, both float32.

    Attributes:
        network: the classifier, in eval mode.
        sde: the process.
        t_min: the least time it was trained at, in steps.
    """

    network: Classifier
    sde: SDE
    t_min: float

    def log_probs(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Log p(y | x_t) of every class, in nats, (B, K), in the dtype of x_t.

        Args:
            x_t: images, (B, C, H, W).
            t: in steps, () or (B,).
        """
        logits: Tensor = self.network(*self._inputs(x_t, t))
        return logits.to(x_t.dtype).log_softmax(1)

    def of(self, label: int | Tensor) -> LogProb:
        """(x_t, t) -> log p(label | x_t), (B,), for classifier guidance.

        Args:
            label: a class for all rows, or one a row, (B,) int64.
        """
        if isinstance(label, Tensor):
            return lambda x_t, t: self.log_probs(x_t, t).gather(1, label[:, None])[:, 0]
        return lambda x_t, t: self.log_probs(x_t, t)[:, label]

    def features(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Input of the last layer at x_t and t, (B, F) float32."""
        return self.network.features(*self._inputs(x_t, t))

    def _inputs(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        x = (x_t / broadcast(self.sde.scale(t), x_t)).float()
        return x, (t - 1).to(x.device, torch.float32).expand(len(x))
