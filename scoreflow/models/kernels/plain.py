"""GroupNorm, SiLU and dropout by torch's own operations: what the kernels are equal to.

`norm_act_drop` is what a network runs on a CPU and in a compiled graph. `forward` and `backward`
are the same operations apart, with what a kernel returns: arithmetic in float32, the answer
rounded once.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from scoreflow.models.dropout import dropout

aten = torch.ops.aten


def norm_act_drop(
    h: Tensor,
    weight: Tensor,
    bias: Tensor,
    told: Tensor | None,
    words: Tensor | None,
    groups: int,
    eps: float,
    active: bool,
    probability: float,
) -> Tensor:
    """Arguments as of `fused.norm_act_drop`; (B, C, H, W), in h's dtype."""
    channels = h.shape[1]
    if told is not None:
        told = told[:, :, None, None]
        if told.shape[1] == channels:
            h, told = h + told, None
    h = F.group_norm(h, groups, weight, bias, eps)
    if told is not None:
        scale, shift = told.chunk(2, dim=1)
        h = h * (1 + scale) + shift
    if active:
        h = F.silu(h)
    return h if words is None else dropout(h, words, probability)


def forward(
    h: Tensor,
    weight: Tensor,
    bias: Tensor,
    told: Tensor | None,
    words: Tensor | None,
    groups: int,
    eps: float,
    active: bool,
    probability: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """The answer in a dtype, and mean and 1 / std of each group, (2, B, groups) float32."""
    h = _with_added(h, told)
    normed, *moments = aten.native_group_norm(h, weight, bias, *_sizes(h), groups, eps)
    y = _scaled(normed, told)
    y = F.silu(y) if active else y
    y = y if words is None else dropout(y, words, probability)
    return y.to(dtype), torch.stack(moments)


def backward(
    dy: Tensor,
    h: Tensor,
    weight: Tensor,
    bias: Tensor,
    told: Tensor | None,
    words: Tensor | None,
    moments: Tensor,
    groups: int,
    eps: float,
    active: bool,
    probability: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by h, by weight and bias (2, C), and by told (empty if there is none)."""
    x, z = _with_added(h, told), dy.float()
    channels = x.shape[1]
    normed, _, _ = aten.native_group_norm(x, weight, bias, *_sizes(x), groups, eps)
    if words is not None:
        z = z * dropout(torch.ones_like(x), words, probability)
    if active:
        z = aten.silu_backward(z, _scaled(normed, told))
    by_told = h.new_empty(0)
    if told is not None and told.shape[1] != channels:
        by_told = torch.cat(((z * normed).sum((2, 3)), z.sum((2, 3))), dim=1).to(told.dtype)
        z = z * (1 + told[:, :channels, None, None].float())
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    z = z.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    dx, by_weight, by_bias = aten.native_group_norm_backward(
        z, x, *moments.unbind(), weight, *_sizes(x), groups, [True, True, True]
    )
    if told is not None and told.shape[1] == channels:
        by_told = dx.sum((2, 3)).to(told.dtype)
    return dx.to(h.dtype), torch.stack((by_weight, by_bias)).to(weight.dtype), by_told


def _with_added(h: Tensor, told: Tensor | None) -> Tensor:
    """What is normed, in float32 and without gaps, as torch's own norm wants it."""
    h = h.float()
    if told is not None and told.shape[1] == h.shape[1]:
        h = h + told[:, :, None, None]
    return h if h.is_contiguous(memory_format=torch.channels_last) else h.contiguous()


def _scaled(normed: Tensor, told: Tensor | None) -> Tensor:
    if told is None or told.shape[1] == normed.shape[1]:
        return normed
    scale, shift = told[:, :, None, None].chunk(2, dim=1)
    return normed * (1 + scale) + shift


def _sizes(x: Tensor) -> tuple[int, int, int]:
    """Images, channels and pixels, as torch's own functions of norms take them."""
    return x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
