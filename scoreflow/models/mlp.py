"""The score network for vectors: a small residual multilayer perceptron.

    h = Dense(x)
    h <- h + Dense(SiLU(Dense(h) + Dense(embedding)))      `depth` times
    answer = Dense(SiLU(h))

For data whose score is known in closed form, where a network must be able to be nearly exact.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from scoreflow.models.layers import ZERO_ISH, dense
from scoreflow.models.time_embedding import IndexEmbedding


class MLP(nn.Module):
    """(x_t, index) -> an estimate of the shape of x_t, for vectors.

    Args:
        dim: D, length of a vector.
        width: length of the hidden vectors and of the index embedding.
        depth: number of residual layers.
        embedding: number of sinusoids of the index; even and at least 4.
    """

    def __init__(self, dim: int, width: int = 128, depth: int = 3, embedding: int = 64) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("width", width), ("depth", depth)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.dim = dim
        self.embedding = IndexEmbedding(embedding, width)
        self.stem = dense(dim, width)
        self.layers = nn.ModuleList([ResidualLayer(width) for _ in range(depth)])
        self.head = dense(width, dim, scale=ZERO_ISH)

    def forward(
        self, x: Float[Tensor, "batch dim"], index: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch dim"]:
        """Evaluate the network.

        Args:
            x: vectors, (B, D).
            index: DDPM's 0-based timestep, t - 1 for time t in steps; any real number, (B,).

        Returns:
            The raw estimate, (B, D).
        """
        if x.shape[1:] != (self.dim,) or index.shape != x.shape[:1]:
            raise ValueError(
                f"x must be (B, {self.dim}) and index (B,), "
                f"got {tuple(x.shape)} and {tuple(index.shape)}"
            )
        embedding = self.embedding(index)
        h = self.stem(x)
        for layer in self.layers:
            h = layer(h, embedding)
        estimate: Tensor = self.head(F.silu(h))
        return estimate


class ResidualLayer(nn.Module):
    """h + Dense(SiLU(Dense(h) + Dense(embedding))), all of one width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = dense(width, width)
        self.index = dense(width, width)
        self.outer = dense(width, width)

    def forward(
        self, h: Float[Tensor, "batch width"], embedding: Float[Tensor, "batch width"]
    ) -> Float[Tensor, "batch width"]:
        """Apply the layer, (B, width) -> (B, width)."""
        branch: Tensor = self.outer(F.silu(self.inner(h) + self.index(embedding)))
        return h + branch
