"""Run by `test_fused.py` in a process of its own: builds the norms' kernels for absent GPUs.

They go through Triton's own launcher, up to where a driver would start what was built.

    python built_norms.py [all]      all layers of DDPM's CIFAR-10 network, not one a kind
"""

import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from scoreflow.models.kernels import launch
from scoreflow.models.kernels.triton_norm import backward_kernel, forward_kernel

BATCH = 128
CIFAR10 = [(128, 32), (256, 32), (384, 32), (128, 16), (256, 16), (384, 16), (512, 16)]
CIFAR10 += [(256, 8), (512, 8), (256, 4), (512, 4)]
"""Channels of a norm of DDPM's network, and the side of its images in pixels."""
PTXAS = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"

started: list[tuple[Any, int]] = []


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


def building(run: Any) -> Any:
    def build(*args: Any, grid: tuple[int, ...], warmup: bool, **options: Any) -> None:
        started.append((run(*args, grid=grid, warmup=True, **options), options["num_warps"]))

    return build


def step(channels: int, side: int, dtype: torch.dtype, told: int, drops: bool, last: bool) -> None:
    """Both ways of a layer, without running them."""
    memory = torch.channels_last if last else torch.contiguous_format
    h = torch.empty(BATCH, channels, side, side, dtype=dtype).contiguous(memory_format=memory)
    weight, bias = torch.empty(2, channels)
    given = (
        h,
        weight,
        bias,
        torch.empty(BATCH, told * channels, dtype=dtype) if told else None,
        torch.empty(BATCH, 22, 2, dtype=torch.int64)[:, 3] if drops else None,
    )
    asked = (32, 1e-6, True, 0.1)
    y, moments = launch.forward(*given, *asked, dtype)
    launch.backward(y, *given, moments, *asked)


def check(kernel: Any, warps: int, capability: int) -> None:
    """A few words spilled at most, room for two programs on a multiprocessor, 16 bytes a load."""
    path = Path(sys.argv[-1]) / "kernel.ptx"
    path.write_text(kernel.asm["ptx"])
    arch = f"-arch=sm_{capability}" + ("a" if capability >= 90 else "")
    command = [PTXAS, "-v", arch, path, "-o", path.with_suffix(".cubin")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    found = re.search(r"Used (\d+) registers", told)
    assert found, told
    assert int(found[1]) * 32 * warps <= 65536 / 2, told
    assert sum(map(int, re.findall(r"(\d+) bytes spill", told))) <= 32, told
    assert kernel.metadata.shared <= 48 * 1024
    assert "ld.global.v4.b32" in kernel.asm["ptx"], told
    assert kernel.asm["cubin"]


def main(every: bool) -> None:
    half, single = torch.bfloat16, torch.float32
    asked = [((384, 16), half, 1, True, True), ((128, 32), single, 0, False, False)]
    if every:
        switches = ((0, False), (1, True), (2, True))
        product = itertools.product(CIFAR10, (half, single), switches, (True, False))
        asked = [(layer, dtype, *given, last) for layer, dtype, given, last in product]
    for capability in (90,) if every else (80, 90):
        started.clear()
        triton.runtime.driver.set_active(Driver(capability))
        for layer, *switched in asked:
            step(*layer, *switched)
        unlike = {id(kernel): (kernel, warps) for kernel, warps in started}
        for kernel, warps in unlike.values():
            check(kernel, warps, capability)
        print(capability, len(started), "launches,", len(unlike), "kernels")


if __name__ == "__main__":
    forward_kernel.run, backward_kernel.run = map(
        building, (forward_kernel.run, backward_kernel.run)
    )
    main("all" in sys.argv)
