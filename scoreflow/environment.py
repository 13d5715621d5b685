"""Where a number was made: the code, the device, the versions."""

import platform
import subprocess
from importlib import metadata
from typing import Any

import torch

from scoreflow.request import ROOT


def environment(device: str) -> dict[str, Any]:
    """Commit, versions and device of this process."""
    names = ("torch", "torchdiffeq", "scipy", "numpy", "ml-collections")
    on_gpu = device.startswith("cuda")
    return {
        "commit": _commit(),
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if on_gpu else _cpu(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in names},
    }


def _cpu() -> str:
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the code, marked if files differ from it; None outside a checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
