"""Where our own kernels run: the one question that every fused operation of the house asks.

Eagerly on CUDA an operation of ours is one Triton kernel. Elsewhere, and inside `torch.compile`,
which fuses by itself, it is a few operations of torch with the same meaning. A CPU never imports
Triton. `SCOREFLOW_FUSED=0` in the environment (or false, off, no) switches the kernels off, for a
machine whose Triton is broken.
"""

import functools
import os
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import torch

ON, OFF = ("", "1", "true", "on", "yes"), ("0", "false", "off", "no")
"""What SCOREFLOW_FUSED may be, in any case."""


def switched_on(value: str) -> bool:
    """Whether a value of SCOREFLOW_FUSED leaves the kernels on.

    Raises:
        ValueError: it says neither.
    """
    text = value.strip().lower()
    if text not in ON + OFF:
        raise ValueError(
            f"SCOREFLOW_FUSED must be 1 (kernels of our own on CUDA) or 0 (none), got {value!r}: "
            "set it to one of them, or unset it"
        )
    return text in ON


FUSED = {"cuda"} if switched_on(os.environ.get("SCOREFLOW_FUSED", "")) else set[str]()
"""Types of device with kernels of our own; a test adds that of a pretended device."""


def fused_on(device: torch.device) -> bool:
    """Whether an operation on this device shall be one kernel of ours.

    False on a CPU, while `torch.compile` looks on, where Triton cannot build, and where switched
    off.
    """
    if torch.compiler.is_compiling() or device.type not in FUSED:
        return False
    return device.type != "cuda" or (lacking() is None and is_new_enough(device.index))


@functools.cache
def lacking() -> str | None:
    """What Triton needs to build a kernel on this machine and has not got; None if it can.

    Its kernels are started by a function in C that is built where it runs.
    """
    if find_spec("triton") is None:
        return "the package triton"
    if os.name == "nt":  # Triton for Windows brings its own compiler
        return None
    if not any(map(shutil.which, (os.environ.get("CC", "gcc"), "gcc", "clang"))):
        return "a C compiler (gcc or clang)"
    if not Path(_headers(), "Python.h").exists():
        return "the header Python.h"
    return None


def _headers() -> str:
    """The folder that Triton gives to the compiler for Python's headers, as it asks for it.

    Debian's default is under /usr/local, where there are none.
    """
    scheme = sysconfig.get_default_scheme()
    return sysconfig.get_path("include", "posix_prefix" if scheme == "posix_local" else scheme)


@functools.cache
def is_new_enough(index: int | None) -> bool:
    """Whether Triton builds for a GPU: it does from compute capability 7.0 (Volta) on.

    Args:
        index: of the GPU; None for the current one.
    """
    return torch.cuda.get_device_capability(index) >= (7, 0)
