"""Shapes, declared once.

jaxtyping annotations are documentation at run time; under pytest they are checked at every call
(`tests/conftest.py`).
"""

from collections.abc import Callable

from jaxtyping import Float, Float64, Int64
from torch import Tensor

Batch = Float[Tensor, "batch *event"]
"""Images (B, C, H, W) or vectors (B, D)."""

Times = Float64[Tensor, "..."]
"""Times in steps, or angles in radians: () when the batch shares one, (B,) for one a sample."""

PerSample = Float64[Tensor, "batch"]
"""One number per sample."""

Rows = Int64[Tensor, "batch"]
"""Positions within a batch, or global sample indices."""

State = tuple[Tensor, ...]
"""The state of an ODE: tensors of shape (B, ...) that share their first axis."""

Field = Callable[[Tensor, State, Tensor], State]
"""dstate/dclock = field(clock (b,), state of b rows, which rows of the batch these are (b,))."""

LogProb = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, ...), t () or (B,) in steps) -> log p(y | x_t) of the class that is wanted, (B,)."""
