"""Named tensors from files: safetensors, and PyTorch's read without executing anything."""

from pathlib import Path

import torch
from torch import Tensor

from scoreflow.errors import RequestError
from scoreflow.interop.torch_files import load_tensors


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A state dict, in float32 whatever its file has.

    Args:
        path: of a .safetensors file; any other is taken for one of torch.save.

    Raises:
        RequestError: it cannot be read, is damaged, or holds anything but named tensors.
    """
    found = _safetensors(path) if path.suffix == ".safetensors" else load_tensors(path)
    wrong = [name for name, each in found.items() if not isinstance(each, Tensor)]
    if wrong or not found:
        what = f"{wrong[0]!r} is a {type(found[wrong[0]]).__name__}" if wrong else "it is empty"
        raise RequestError(
            f"{path} must hold a network's state dict, tensors alone by name, but {what}: save "
            "network.state_dict()"
        )
    return {name: _plain(each) for name, each in found.items()}


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (OSError, SafetensorError, ValueError) as error:
        raise RequestError(
            f"{path} is no whole file of safetensors ({error}): download it again"
        ) from error


def _plain(tensor: Tensor) -> Tensor:
    """Out of its Parameter, and in float32 unless it counts something."""
    tensor = tensor.detach()
    return tensor.to(torch.float32) if tensor.is_floating_point() else tensor
