"""Sums whose rounding does not depend on what else is in the tensor."""

import torch
from torch import Tensor


def row_sums(x: Tensor) -> Tensor:
    """Sum over the last axis, to the same bits whatever the other axes: at least two sums."""
    # A CPU splits a lone sum over threads, several not; a GPU's order depends on their number.
    return x.sum(-1) if x.is_cpu else _folded_sums(x)


def _folded_sums(x: Tensor) -> Tensor:
    while (width := x.shape[-1]) > 1:
        half = width // 2
        x = torch.cat((x[..., :half] + x[..., half : 2 * half], x[..., 2 * half :]), -1)
    return x[..., 0]
