"""Tensors of a state to another device at once: a copy for each would wait for each."""

import copy
from collections.abc import Iterator, Mapping
from itertools import chain, groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from scoreflow.runtime.device import WITHOUT_FLOAT64


def load_weights(network: nn.Module, weights: Mapping[str, Any]) -> None:
    """Weights by name into a network, strictly, wherever either lies.

    Raises:
        RuntimeError: a name or a shape differs.
    """
    first = next(chain(network.parameters(), network.buffers()), None)
    there = None if first is None else first.device
    if there is not None and there.type not in WITHOUT_FLOAT64:  # else one by one, converted
        weights = moved(weights if isinstance(weights, dict) else dict(weights), there)
    network.load_state_dict(weights)


def move_network(network: nn.Module, device: torch.device) -> nn.Module:
    """A network to a device, as by its `to`, in one copy for each dtype of its tensors."""
    tensors = [*network.parameters(), *network.buffers()]
    copied = device.type not in ("cpu", *WITHOUT_FLOAT64)  # a CPU's are there, or are not copied
    if not copied or any(is_lazy(each) or each.layout != torch.strided for each in tensors):
        return network.to(device)
    pairs = zip(tensors, moved(tensors, device, apart=True), strict=True)
    there = {id(old): new for old, new in pairs}
    network._apply(lambda old: there[id(old)])  # what `to` is made of
    return network


def moved(state: Any, device: torch.device | str, apart: bool = False) -> Any:  # noqa: ANN401
    """A state on a device, its tensors by one copy for each of their dtypes.

    Args:
        state: nested dicts, lists and tuples of tensors and plain values.
        device: where to.
        apart: whether moved tensors shall have a memory each, to be kept: they are copied once
            more, on the device.

    Returns:
        The same state where all of it lies there already. Else a new one, whose moved tensors
        have the sizes, values and memory format of the old ones.
    """
    device = torch.device(device)
    away = {id(each): each for each in _tensors(state) if not _lies(each, device)}
    if not away:
        return state
    dense = {key: each if _dense(each) else each.contiguous() for key, each in away.items()}
    kinds = sorted(dense.items(), key=lambda item: str(item[1].dtype))
    there: dict[int, Tensor] = {}
    for _, group in groupby(kinds, key=lambda item: item[1].dtype):
        keys, parts = zip(*group, strict=True)
        flat = torch.cat([_in_order(part) for part in parts]).to(device)
        pieces = flat.split([part.numel() for part in parts])
        for key, part, piece in zip(keys, parts, pieces, strict=True):
            own = _shaped(piece, part)
            there[key] = own.clone() if apart else own
    return _replaced(state, there)


def _lies(tensor: Tensor, device: torch.device) -> bool:
    """Whether it is there; "cuda" is any GPU's."""
    same = tensor.device.type == device.type
    return same and (device.index is None or tensor.device.index == device.index)


def _dense(tensor: Tensor) -> bool:
    """Whether its elements fill a piece of memory, with the channels last or the axes in order."""
    last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return last or tensor.is_contiguous()


def _in_order(tensor: Tensor) -> Tensor:
    """Elements as they lie in memory, (numel,)."""
    return tensor.detach().as_strided((tensor.numel(),), (1,))


def _shaped(piece: Tensor, like: Tensor) -> Tensor:
    """The inverse of `_in_order`."""
    return piece.as_strided(like.size(), like.stride())


def _tensors(state: Any) -> Iterator[Tensor]:  # noqa: ANN401
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        for each in state.values():
            yield from _tensors(each)
    elif isinstance(state, list | tuple):
        for each in state:
            yield from _tensors(each)


def _replaced(state: Any, there: dict[int, Tensor]) -> Any:  # noqa: ANN401
    if isinstance(state, Tensor):
        return there.get(id(state), state)
    if isinstance(state, dict):
        found = copy.copy(state)  # with what else it has, as a module's state its versions
        found.update((key, _replaced(each, there)) for key, each in state.items())
        return found
    if isinstance(state, list | tuple):
        return type(state)(_replaced(each, there) for each in state)
    return state
