"""GroupNorm, SiLU and dropout as one operation: one kernel each way on CUDA, torch's elsewhere.

    y = dropout(SiLU(norm(h + told)))      or      dropout(SiLU(norm(h) (1 + scale) + shift))

torch has no GroupNorm for channels that are adjacent in memory on CUDA: it copies there and back,
and norm, embedding, SiLU and dropout each read and write what the one before has written. So
`scoreflow::norm_act_drop` is one kernel of ours, and its way back one and a sum over the batch; it
keeps what comes in alone. On a CPU the same two operations are torch's own (`plain`), by which a
test without a GPU can follow them. The compiler gets torch's own too, for it fuses by itself; and
so does what differentiates twice, forward, or in batches.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from scoreflow.models.kernels import plain
from scoreflow.sde.noise.kernels import fused_on

Given = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]
Asked = tuple[int, float, bool, float]
Tensors = tuple[Tensor, ...]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

LIBRARY = torch.library.Library("scoreflow", "FRAGMENT")
GIVEN = "Tensor h, Tensor weight, Tensor bias, Tensor? told, Tensor? words"
ASKED = "int groups, float eps, bool active, float probability"
LIBRARY.define(f"norm_act_drop({GIVEN}, {ASKED}, ScalarType dtype) -> (Tensor y, Tensor moments)")
LIBRARY.define(
    f"norm_act_drop_backward(Tensor dy, {GIVEN}, Tensor moments, {ASKED}) "
    "-> (Tensor h, Tensor affine, Tensor told)"
)
FORWARD = torch.ops.scoreflow.norm_act_drop.default
BACKWARD = torch.ops.scoreflow.norm_act_drop_backward.default


def norm_act_drop(
    norm: nn.GroupNorm,
    h: Tensor,
    told: Tensor | None = None,
    words: Tensor | None = None,
    probability: float = 0.0,
    active: bool = True,
) -> Tensor:
    """A norm, what the embedding tells it, SiLU and dropout.

    Args:
        norm: with weight and bias.
        h: (B, C, H, W).
        told: of the embedding: (B, C), added to h; or (B, 2 C), scale and shift of what is normed.
        words: what names each image in this layer, (B, 2) int64 in [0, 2^32); None for no dropout.
        probability: of dropout, in [0, 1].
        active: whether SiLU follows the norm.

    Returns:
        (B, C, H, W), of h's dtype; if it is one kernel under autocast, of autocast's, for what
        follows is a convolution.
    """
    given = (h, norm.weight, norm.bias, told, words)
    asked = (norm.num_groups, norm.eps, active, probability)
    if probability == 1 or not fuses(h):
        return plain.norm_act_drop(*given, *asked)
    if not torch.is_grad_enabled():
        return _kernel(given, asked)[0]
    y: Tensor = _NormActDrop.apply(*given, *asked)  # type: ignore[no-untyped-call]
    return y


def fuses(h: Tensor) -> bool:
    """Whether what is done to h is one kernel."""
    return (
        not torch.compiler.is_compiling()  # first: nothing further is the compiler's business
        and fused_on(h.device)
        and h.dtype in DTYPES
        and h.numel() > 0
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )


def _kernel(given: Given, asked: Asked) -> Tensors:
    """The answer, in the dtype that what follows would cast it to, and the groups' moments."""
    h = given[0]
    kind, dtype = h.device.type, h.dtype
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    found: Tensors = FORWARD(*given, *asked, dtype)
    return found


class _NormActDrop(torch.autograd.Function):
    """The operation and its way back."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        h: Tensor,
        weight: Tensor,
        bias: Tensor,
        told: Tensor | None,
        words: Tensor | None,
        *asked: Any,  # noqa: ANN401
    ) -> Tensor:
        """As `norm_act_drop`, with the norm's numbers apart."""
        y, moments = _kernel((h, weight, bias, told, words), asked)
        ctx.save_for_backward(h, weight, bias, told, words, moments)
        ctx.asked = asked
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Gradients by each argument of `forward`, None for what is no tensor of floats."""
        h, weight, bias, told, words, moments = ctx.saved_tensors
        given, asked, needed = (h, weight, bias, told, words), ctx.asked, ctx.needs_input_grad
        grads: Sequence[Tensor | None]
        if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
            grads = _differentiably(dy, given, asked, needed)
        else:
            by_h, affine, by_told = BACKWARD(dy, *given, moments, *asked)
            grads = by_h, *affine.unbind(), by_told
        found = [grad if wanted else None for grad, wanted in zip(grads, needed, strict=False)]
        return (*found, *[None] * (len(needed) - len(found)))


def _differentiably(
    dy: Tensor, given: Given, asked: Asked, needed: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients by h, weight, bias and told, that can themselves be differentiated."""
    h, weight, bias, told, words = given
    with torch.enable_grad(), torch.autocast(h.device.type, enabled=False):
        y = plain.norm_act_drop(h.float(), weight, bias, told, words, *asked)
        wanted_by = zip((h, weight, bias, told), needed, strict=False)
        by = [each for each, wanted in wanted_by if wanted and each is not None]
        found = iter(torch.autograd.grad(y, by, dy.float(), create_graph=True))
    return [next(found) if wanted else None for wanted in needed[:4]]


def _forward_on_cuda(h: Tensor, *given: Any) -> Tensors:  # noqa: ANN401
    from scoreflow.models.kernels import launch

    with torch.cuda.device_of(h):
        return launch.forward(h, *given)


def _backward_on_cuda(dy: Tensor, *given: Any) -> Tensors:  # noqa: ANN401
    from scoreflow.models.kernels import launch

    with torch.cuda.device_of(dy):
        return launch.backward(dy, *given)


def _forward_of_shapes(
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
) -> Tensors:
    moments = h.new_empty(2, len(h), groups, dtype=torch.float32)
    return torch.empty_like(h, dtype=dtype), moments


def _backward_of_shapes(
    dy: Tensor, h: Tensor, weight: Tensor, bias: Tensor, told: Tensor | None, *others: object
) -> Tensors:
    by_told = h.new_empty(0) if told is None else torch.empty_like(told)
    return torch.empty_like(h), weight.new_empty(2, len(weight)), by_told


for key, forward, backward in (
    ("CPU", plain.forward, plain.backward),
    ("CUDA", _forward_on_cuda, _backward_on_cuda),
    ("Meta", _forward_of_shapes, _backward_of_shapes),
):
    LIBRARY.impl("norm_act_drop", forward, key)
    LIBRARY.impl("norm_act_drop_backward", backward, key)
