"""Provenance of a result: commit, device, versions."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from scoreflow.version import __version__

CHECKOUT = Path(__file__).resolve().parents[2]
"""The folder of the repository, where ScoreFlow is not installed from a wheel."""

BFLOAT16 = {"avx512_bf16", "amx_bf16"}
"""Flags of CPUs that compute in bfloat16; others emulate it."""
VECTORS = {"avx2", "avx512f"} | BFLOAT16


def environment(device: str) -> dict[str, Any]:
    """Commit, versions and device of this process."""
    names = ("torch", "torchdiffeq", "scipy", "numpy", "ml-collections")
    on_gpu = device.startswith("cuda")
    return {
        "commit": _commit(),
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if on_gpu else _cpu(),
        "python": platform.python_version(),
        "versions": {
            "scoreflow": __version__,
            **{name: metadata.version(name) for name in names},
        },
    }


def cpu_flags() -> set[str]:
    """Flags of this CPU that are in `VECTORS`; none where the system does not list them."""
    return set(_cpuinfo().get("flags", "").split()) & VECTORS


def _cpu() -> str:
    """Its maker's name, where Linux has it, and what of it matters to the speed of products."""
    name = platform.processor() or platform.machine()
    return " ".join([_cpuinfo().get("model name", name), *sorted(cpu_flags())])


def _cpuinfo() -> dict[str, str]:
    """Of the last core."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {}
    parts = (line.split(":", 1) for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, value in parts}


def _commit() -> str | None:
    """The commit of the code, marked if files differ from it; None outside a checkout."""
    if not (CHECKOUT / ".git").exists():  # installed, perhaps below somebody else's repository
        return None
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
