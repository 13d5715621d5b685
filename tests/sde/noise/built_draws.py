"""Run by `test_fused.py` in a process of its own: builds the kernel for a GPU that is not there.

It goes through Triton's own launcher, up to where a driver would start what was built.
"""

import re
import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from scoreflow.sde.noise.plain_draws import DRAWS
from scoreflow.sde.noise.triton_draws import draw, draw_kernel

started: list[Any] = []
_run = draw_kernel.run


class Driver:
    """Of a GPU that is not there."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0


def build(*args: Any, grid: tuple[int, ...], warmup: bool, **kwargs: Any) -> None:
    started.append(_run(*args, grid=grid, warmup=True, **kwargs))


def check() -> None:
    for size, seed, step in ((128, 0, 0), (1, 1, 1), (100, -1, 2**32 - 1), (16, 2**62, 2**31)):
        draw("normal", torch.arange(size), None, seed, step, 1, 4, 3072, torch.float32)
    assert len({id(kernel) for kernel in started}) == 1, "built anew for a batch, seed or step"
    assert "st.global.v4.b32" in started[0].asm["ptx"], "four normals are not one store"
    constants = re.findall(r"constant dense<(\S+)> : tensor<\S+xf64>", started[0].asm["ttir"])
    assert {float(c) for c in constants} >= {2.0**-32, 2.0**-32 * 2 * torch.pi}, constants
    for kind in set(DRAWS) - {"normal"}:
        dtype = torch.int64 if kind == "words" else torch.float64
        draw(kind, torch.arange(8), torch.tensor(3), 0, 0, 2, 4, 7, dtype)
    assert len({id(kernel) for kernel in started}) == len(DRAWS)
    assert all(kernel.asm["cubin"] for kernel in started)


if __name__ == "__main__":
    draw_kernel.run = build
    triton.runtime.driver.set_active(Driver(int(sys.argv[1])))
    check()
