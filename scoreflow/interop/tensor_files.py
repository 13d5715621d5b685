"""Named tensors from files: safetensors, and PyTorch's read without executing anything."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoreflow.errors import RequestError
from scoreflow.interop.torch_files import load_tensors, printable


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A state dict, in float32 whatever floating kind its file has.

    Args:
        path: of a .safetensors file; any other is taken for one of torch.save.

    Raises:
        RequestError: it cannot be read, is damaged, or holds anything but named tensors.
    """
    found = _safetensors(path) if path.suffix == ".safetensors" else load_tensors(path)
    if what := _odd(found):
        raise RequestError(
            f"{path} must hold a network's state dict, tensors alone by name, but {what}: save "
            "network.state_dict()"
        )
    return {name: each.detach().to(torch.float32) for name, each in found.items()}


def odd_tensor(value: object) -> str:
    """What keeps a value from being the weights of a layer, in a few words; "" for nothing.

    Weights are floating-point numbers, each of them there: not the indices and values of a sparse
    tensor, nor the whole numbers of a quantised one.
    """
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        return "a tensor that is sparse, quantised or without numbers"
    kind = str(value.dtype).removeprefix("torch.")
    return "" if value.is_floating_point() else f"a tensor of {kind}"


def as_convolution(matrix: Tensor, name: str, where: Path) -> Tensor:
    """The weight of a dense layer (outputs, inputs, 1, ...) as a 1 x 1 convolution's.

    Args:
        matrix: the weight.
        name: its name in the file, for messages.
        where: the file, for messages.

    Raises:
        RequestError: it has other dimensions.
    """
    if matrix.ndim < 2 or any(n != 1 for n in matrix.shape[2:]):
        raise RequestError(
            f"{where}: {printable(name)} must be the matrix of a dense layer, got the shape "
            f"{tuple(matrix.shape)}: the file is damaged, or of another network"
        )
    return matrix.reshape(*matrix.shape[:2], 1, 1)


def refuse_twice(there: bool, own: str, name: str, where: Path) -> None:
    """Refuse a second tensor for one place of our U-Net.

    Args:
        there: whether the place has one already.
        own: its name here.
        name: its name in the file.
        where: the file, for messages.
    """
    if there:
        raise RequestError(
            f"{where}: two tensors are {own} of our U-Net, the second {printable(name)}: the file "
            "is damaged"
        )


def _odd(found: Mapping[Any, object]) -> str:
    """What a dictionary has that no state dict has; "" for nothing."""
    if not found:
        return "it is empty"
    for name, each in found.items():
        if not isinstance(name, str):
            return f"it has a {type(name).__name__} for a name"
        if odd := odd_tensor(each):
            return f"{printable(name)!r} is {odd}"
    return ""


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (OSError, SafetensorError, ValueError) as error:
        raise RequestError(
            f"{path} is no whole file of safetensors ({error}): download it again"
        ) from error
