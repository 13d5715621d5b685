"""The pickles of NVlabs' EDM: records of modules and their tensors, without the code inside.

Every object of such a file comes as `_reconstruct_persistent_obj(meta)`, with the source text of
its module in `meta`, which the original executes on loading. Nothing needs it: the class's name
and the module's `__dict__` are beside it, and they are what a `Record` keeps.
"""

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from scoreflow.interop.edm.restricted_pickle import Buildable, Maker, load_pickle
from scoreflow.interop.torch_files import ForbiddenNameError, tensors_alone

VERSION = 6
"""Of the metadata, in every published file."""
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How torch's format from before its zip files begins: the one that a storage's bytes have."""
NUMBERS = {"f2": "e", "f4": "f", "f8": "d", "i4": "i", "i8": "q", "b1": "?"}
"""numpy's scalar types that may occur, and struct's letter for each."""


@dataclass(eq=False, repr=False)
class Record(Buildable):
    """An object of the file, inert.

    Attributes:
        class_name: of its class, without the module.
        state: its `__dict__`: of a module `_parameters`, `_buffers`, `_modules` and its own.
    """

    class_name: str
    state: dict[object, object] = field(default_factory=dict)

    def build(self, state: object) -> None:
        """Take the `__dict__` of an object that was made empty."""
        if type(state) is not dict or self.state:
            raise ValueError(f"a state of {self.class_name} that is no dict, or its second")
        self.state = state


@dataclass(eq=False)
class _Dtype(Buildable):
    """numpy's dtype: the letter for struct, and the byte order."""

    letter: str
    order: str = "<"

    def build(self, state: object) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise ValueError("a dtype without byte order")
        self.order = "<" if order in ("|", "=") else str(order)


class _Storages:
    """Numbers of the tensors, no more of them in all than the file has bytes.

    Args:
        budget: bytes of the file. A stream can ask for the same string of bytes a million times.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget

    def load(self, content: object) -> Tensor:
        """All numbers of one storage, (n,), from torch's own format."""
        if type(content) is not bytes or not content.startswith(LEGACY_MAGIC):
            raise ValueError("a storage that is not in torch's format of before 1.6")
        self.budget -= len(content)
        if self.budget < 0:
            raise ValueError("tensors of more bytes than the file has")
        found = tensors_alone(io.BytesIO(content))
        if not isinstance(found, torch.storage.TypedStorage):
            raise ValueError(f"{type(found).__name__} in place of a storage")
        numbers = torch.empty(0, dtype=found.dtype).set_(found)
        if numbers.nbytes > len(content):
            raise ValueError("a storage of more bytes than it brings")
        return numbers


def load_network(path: str | Path) -> object:
    """Everything in an EDM pickle, its objects as `Record`s and its tensors on the CPU.

    Args:
        path: the .pkl file.

    Returns:
        Plain values, tensors and Records; of a network snapshot a dict with "ema".

    Raises:
        RequestError: as `load_pickle`.
    """
    file = Path(path)
    storages = _Storages(file.stat().st_size if file.is_file() else 0)
    return load_pickle(path, {**NAMES, "torch.storage _load_from_bytes": storages.load})


def _persistent(meta: object) -> Record:
    if type(meta) is not dict or meta.get("type") != "class" or meta.get("version") != VERSION:
        raise ValueError(f"a persistent object that is no class of version {VERSION}")
    name, state = meta.get("class_name"), meta.get("state")
    if type(name) is not str or type(state) is not dict:
        raise ValueError("a persistent object without name or state")
    return Record(name, state)


def _tensor(
    numbers: object,
    offset: object,
    size: object,
    stride: object,
    requires_grad: object = False,
    hooks: object = None,
    metadata: object = None,
) -> Tensor:
    """A view of a storage's numbers, each place of it its own."""
    if type(numbers) is not Tensor or numbers.dim() != 1:
        raise ValueError("a tensor without storage")
    size, stride, start = _whole(size), _whole(stride), _whole((offset,))[0]
    # A stride of zero would make a tensor of any size out of one number.
    if len(size) != len(stride) or _count(size) > numbers.numel():
        raise ValueError("a tensor of more numbers than its storage")
    return numbers.as_strided(size, stride, start)


def _count(size: Sequence[int]) -> int:
    count = 1
    for length in size:
        count *= length
    return count


def _whole(values: object) -> tuple[int, ...]:
    if type(values) is not tuple or any(type(n) is not int or n < 0 for n in values):
        raise ValueError("a tensor whose sizes are no counts")
    return values


def _parameter(data: object, requires_grad: object = False, hooks: object = None) -> Tensor:
    if type(data) is not Tensor:
        raise ValueError("a parameter that is no tensor")
    return data


def _dtype(letter: object, align: object = False, copy: object = True) -> _Dtype:
    if type(letter) is not str or letter not in NUMBERS:
        raise ForbiddenNameError("numpy.dtype of what is no plain number")
    return _Dtype(NUMBERS[letter])


def _scalar(dtype: object, content: object = None) -> object:
    if type(dtype) is not _Dtype or type(content) is not bytes:
        raise ForbiddenNameError("numpy.core.multiarray.scalar of what is no plain number")
    return struct.unpack(dtype.order + dtype.letter, content)[0]


NAMES: dict[str, Maker] = {
    "torch_utils.persistence _reconstruct_persistent_obj": _persistent,
    "torch.nn.modules.container ModuleDict": lambda: Record("ModuleDict"),
    "torch.nn.modules.container ModuleList": lambda: Record("ModuleList"),
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
    "collections OrderedDict": lambda: {},
    "dnnlib.util EasyDict": lambda: {},
    "numpy dtype": _dtype,
    "numpy.core.multiarray scalar": _scalar,
    "numpy._core.multiarray scalar": _scalar,
}
"""All that a file may ask for, beside `torch.storage _load_from_bytes`, and what it becomes."""
