"""The draws as one operation of torch, `scoreflow::philox_draw`: on CUDA one kernel.

What a compiler, a counter of kernels or a pretended device sees is one call. On a CPU it is the
plain path of `plain_draws`, which a CPU's draws take without this detour.
"""

import torch
from torch import Tensor

from scoreflow.sde.noise.plain_draws import DRAWS, Address

_LIBRARY = torch.library.Library("scoreflow", "FRAGMENT")
_LIBRARY.define(
    "philox_draw(str kind, Tensor index, Tensor? clock, int seed, int step, int steps, int lane, "
    "int count, ScalarType dtype) -> Tensor"
)


def fused_draw(kind: str, at: Address, dtype: torch.dtype) -> Tensor:
    """What `plain_draws.DRAWS[kind]` draws, in a dtype: (steps, B, count)."""
    seed = at.seed - 2**64 if at.seed >= 2**63 else at.seed  # torch's int has 64 bits and a sign
    drawn: Tensor = torch.ops.scoreflow.philox_draw(
        kind, at.index, at.clock, seed, at.step, at.steps, at.lane, at.count, dtype
    )
    return drawn


def _plain(
    kind: str, index: Tensor, clock: Tensor | None, seed: int, step: int, steps: int, lane: int,
    count: int, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    at = Address(index, clock, seed % 2**64, step, steps, lane, count)
    return DRAWS[kind](at).to(dtype).contiguous()


def _kernel(
    kind: str, index: Tensor, clock: Tensor | None, seed: int, step: int, steps: int, lane: int,
    count: int, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    from scoreflow.sde.noise.triton_draws import draw

    with torch.cuda.device(index.device):  # Triton starts a kernel on the current device
        return draw(kind, index, clock, seed, step, steps, lane, count, dtype)


def _shaped(
    kind: str, index: Tensor, clock: Tensor | None, seed: int, step: int, steps: int, lane: int,
    count: int, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    return index.new_empty((steps, len(index), count), dtype=dtype)


for key, function in {"CPU": _plain, "CUDA": _kernel, "Meta": _shaped}.items():
    _LIBRARY.impl("philox_draw", function, key)
