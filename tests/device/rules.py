"""What CUDA makes of an ATen call: which devices it takes, whether it waits, how many kernels.

Devices: from torchgen's native_functions.yaml, which ships with torch. A function there without
`device_check: NoCheck` refuses any mixture, a CPU tensor of one number among them. One with it is
TensorIterator's, which takes CPU tensors of no dimension if its configuration says
allow_cpu_scalars; those that were read in ATen's source not to are in NO_SCALARS.

Kernels and bytes: as counted in ATen's and cuDNN's sources and traces of torch 2.9 to 2.11; they
rank what a step does and hold it where it is, and are no measurement. Bytes are those of all
inputs and outputs, each once, broadcast ones as they lie in memory.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache

import torch
from torch import Tensor

from tests.device.pretend import NAME, YAML, in_channels_last, tensors

NO_SCALARS = {
    "clamp.Tensor",
    "clamp_.Tensor",
    "clamp.Tensor_out",
    "addcmul",
    "addcmul_",
    "addcdiv",
    "addcdiv_",
}
"""TensorIterator without allow_cpu_scalars (TensorCompare.cpp; PointwiseOps.cpp before 2.10)."""
CHECKED_INSIDE = {
    "stack",
    "_stack",
    "convolution",
    "convolution_backward",
    "native_group_norm",
    "native_layer_norm",
    "embedding",
    "mv",
    "addr",
    "addr_",
    "dist",
    "complex",
    "polar",
    "put",
    "masked_scatter",
    "cholesky_solve",
    "_scaled_dot_product_fused_attention_overrideable",
    "_scaled_dot_product_fused_attention_overrideable_backward",
}
"""Made of others that check, and seen here in one piece."""
ANY_DEVICES = {
    "copy_",
    "_to_copy",
    "_copy_from",
    "_foreach_copy_",
    "set_.source_Storage",
    "is_same_size",
    "reshape_as",
    "view_as",
    "expand_as",
    "type_as",
    "to.other",
}
MOVED = {
    "index.Tensor",
    "index_put_",
    "index_put",
    "_index_put_impl_",
    "_unsafe_index.Tensor",
    "_unsafe_index_put",
}
"""CPU indices are copied to the tensor's device, which waits."""
SCALAR_MOVED = {"where.self", "where.self_out", "masked_fill_.Tensor", "masked_fill.Tensor"}
"""A CPU tensor of one number is taken; where copies it (waits), masked_fill reads it there."""
READ = {
    "_local_scalar_dense",
    "item",
    "is_nonzero",
    "equal",
    "allclose",
    "_linalg_check_errors",
}
SIZE_READ = {
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
    "linalg_eigh",
    "_linalg_eigh",
    "_linalg_svd",
    "linalg_cholesky_ex",
    "multinomial",
}
"""Their outputs' sizes, or a status, are read by the host."""
STAGED = 65536
"""Bytes from pageable memory that cudaMemcpyAsync takes along at once (CUDA's API, "Memcpy")."""


@cache
def name_of(func) -> str:
    """As in native_functions.yaml: "add.Tensor"; with its namespace if that is not ATen."""
    return func.name().removeprefix("aten::").removesuffix(".default")


@lru_cache(1)
def _functions() -> tuple[set[str], set[str]]:
    """Names of functions whose devices no generated code checks, and of those made of others."""
    unchecked: set[str] = set()
    explicit: set[str] = set()
    dispatched: dict[str, bool] = {}
    name = ""
    for line in YAML.read_text().splitlines():
        if found := re.match(r"- func: ([\w.]+)\(", line):
            name = found[1]
            dispatched[name] = False
        elif re.match(r"\s+device_check: NoCheck", line):
            unchecked.add(name)
        elif "CompositeExplicitAutograd" in line:
            explicit.add(name)
        elif re.match(r"\s+(dispatch|structured_delegate):", line):
            dispatched[name] = True
    return unchecked, explicit | {name for name, there in dispatched.items() if not there}


def _written(func, args, kwargs) -> list[Tensor]:
    """The arguments that a call writes to."""
    schema = func._schema.arguments
    named = [a.name for a in schema if a.alias_info is not None and a.alias_info.is_write]
    places = {a.name: k for k, a in enumerate(schema)}
    return tensors([args[places[n]] if places[n] < len(args) else kwargs.get(n) for n in named])


def mixing(func, args, kwargs) -> str | None:
    """Why CUDA would refuse these devices; None if it would not."""
    name, given = name_of(func), tensors(args, kwargs)
    kinds = {t.device.type for t in given} - {"meta"}
    if len(kinds) < 2 or name in ANY_DEVICES or func.is_view:
        return None
    shown = f"{name}({', '.join(f'{t.device.type}{list(t.shape)}' for t in given)})"
    if name in MOVED:
        on_cpu = args[0].device.type == "cpu"
        return f"{shown}: a CPU tensor by a device's indices" if on_cpu else None
    if len({t.device.type for t in given if t.device.type != "cpu" or t.dim()}) > 1:
        return f"{shown}: more than one device"
    if any(t.device.type == "cpu" for t in _written(func, args, kwargs)):
        return f"{shown}: a CPU tensor is written to"
    if name in SCALAR_MOVED:
        return None
    if name in NO_SCALARS:
        return f"{shown}: takes no CPU tensor of one number (no allow_cpu_scalars)"
    unchecked, composite = _functions()
    if name in CHECKED_INSIDE or (name not in unchecked and name not in composite):
        return f"{shown}: its devices must be one (no device_check: NoCheck)"
    return None


def waiting(func, args, kwargs, out) -> str | None:
    """How the call makes the host wait for the device; None if it does not."""
    name, given = name_of(func), tensors(args, kwargs)
    if name in ("_to_copy", "copy_"):
        return _waiting_copy(name, given, args, kwargs, out)
    if not any(t.device.type == NAME for t in given):
        return None
    if name in READ:
        return f"{name}: a number is read"
    if name in SIZE_READ or (name == "repeat_interleave.Tensor" and not kwargs.get("output_size")):
        return f"{name}: its size or status is read"
    if name in MOVED:
        return _waiting_index(name, args)
    on_cpu = any(t.device.type == "cpu" for t in given)
    if name == "where.self" and on_cpu:
        return "where: a CPU number is copied"
    if name in ("masked_fill.Tensor", "masked_fill_.Tensor") and args[2].device.type == NAME:
        return f"{name}: a number is read"
    if name == "fill_.Tensor" and given[1].device.type == NAME and on_cpu:
        return "fill_: a number is read"
    return None


def _waiting_copy(name: str, given: list[Tensor], args, kwargs, out: Tensor) -> str | None:
    source, target = (given[1], given[0]) if name == "copy_" else (given[0], out)
    pair = source.device.type, target.device.type
    if pair[0] == pair[1] or NAME not in pair:
        return None
    size = source.numel() * source.element_size()
    asked = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
    where = f"{name} {pair[0]} -> {pair[1]}, {size} B"
    if not asked:
        return f"{where}, blocking"
    staged = pair[0] == "cpu" and size <= STAGED
    return None if staged else f"{where}, non_blocking, but of pageable memory"


def _waiting_index(name: str, args) -> str | None:
    indices = [i for i in args[1] if i is not None]
    if any(i.device.type == "cpu" for i in indices):
        return f"{name}: indices are copied from the CPU"
    number = "index_put" in name and args[2].numel() == 1 and _on_cuda_a_cpu_number(args[2])
    if any(i.dtype in (torch.bool, torch.uint8) for i in indices):
        if number and not any(args[3:4]):  # and no sum
            return None  # a masked fill, of a number that the host has
        return f"{name}: a mask's size is read (nonzero)"
    return f"{name}: a CPU number is copied" if number else None


def _on_cuda_a_cpu_number(value: Tensor) -> bool:
    """Whether CUDA's call has it on the CPU: of `x[mask] = 2.0` torch puts the number there.

    For any other device that it does not know it makes a `scalar_tensor` on it.
    """
    return value.device.type == "cpu" or getattr(value, "of_number", False)


FREE = {
    "empty.memory_format",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "empty_permuted",
    "detach",
    "detach_",
    "alias",
    "_unsafe_view",
    "lift_fresh",
    "_efficientzerotensor",
    "_has_same_storage_numel",
    "is_same_size",
    "set_.source_Storage",
    "resize_",
    "_local_scalar_dense",
    "_fused_sdp_choice",
    "sym_size.int",
    "sym_stride.int",
    "record_stream",
    "_has_compatible_shallow_copy_type",
    "_reshape_alias",
    "prim::device",
    "is_pinned",
    "result_type.Tensor",
}
MANY = {
    "native_group_norm": 3,
    "native_group_norm_backward": 5,
    "constant_pad_nd": 2,
    "mse_loss": 2,
    "_scaled_dot_product_fused_attention_overrideable_backward": 3,  # flash attention's
    "sort": 4,
    "sort.stable": 4,
    "argsort": 4,
    "nonzero": 4,
    "embedding_dense_backward": 5,
    "bincount": 3,
}
"""Kernels of a call, where they are more than one."""


@dataclass(frozen=True)
class Launched:
    """Kernels of a call and the bytes that they move; of those, what changes the memory format."""

    kernels: int
    moved: int
    layout_kernels: int = 0
    layout_moved: int = 0


NOTHING = Launched(0, 0)


@dataclass(frozen=True)
class Own:
    """What one of our own ops launches.

    Attributes:
        source: what it is part of, as in `watch.BY_FILE`.
        kernels: in one call, which move all inputs and outputs once.
        counted: (args, outputs) -> what a call launches, if it is more than that.
    """

    source: str
    kernels: int = 1
    counted: Callable[..., Launched] | None = None


def _norm_act_drop(args, outs) -> Launched:
    """One kernel that reads h twice: for its moments, and to apply them."""
    h, told = args[0], args[3]
    copies = [t for t in (h,) if not _is_dense(t)]
    moved = 2 * nbytes(h) + sum(map(nbytes, (*outs, *tensors(told))))
    return _with_copies(1, moved, copies)


def _norm_act_drop_backward(args, outs) -> Launched:
    """One kernel that reads h and dy twice, and one that sums over the batch."""
    dy, h, weight, told = args[0], args[1], args[2], args[4]
    copies = [t for t in (h, dy) if not _is_dense(t)]
    of_images = 2 * 4 * len(h) * weight.numel()  # weight's and bias's parts, float32
    moved = 2 * (nbytes(dy) + nbytes(h)) + sum(map(nbytes, (*outs, *tensors(told))))
    return _with_copies(2, moved + 2 * of_images, copies)


def _is_dense(t: Tensor) -> bool:
    return t.is_contiguous() or t.is_contiguous(memory_format=torch.channels_last)


def _with_copies(kernels: int, moved: int, copied: list[Tensor]) -> Launched:
    extra = sum(2 * nbytes(t) for t in copied)
    return Launched(kernels + len(copied), moved + extra, len(copied), extra)


OWN = {
    "scoreflow::philox_draw": Own("noise"),
    "scoreflow::norm_act_drop": Own("norms", counted=_norm_act_drop),
    "scoreflow::norm_act_drop_backward": Own("norms", counted=_norm_act_drop_backward),
}
"""By "scoreflow::name": each op of ours that is one launch on CUDA is stated here."""


def nbytes(t: Tensor) -> int:
    """Bytes of a tensor in memory: what is broadcast lies there once."""
    sizes = [size for size, stride in zip(t.shape, t.stride(), strict=True) if stride]
    return math.prod(sizes) * t.element_size() if t.numel() else 0


def launched(func, args, kwargs, out) -> Launched:
    """What a call launches on CUDA; nothing, if nothing in it lies on the device."""
    name, given, outs = name_of(func), tensors(args, kwargs), tensors(out)
    if not any(t.device.type == NAME for t in (*given, *outs)):
        return NOTHING
    if name.startswith("scoreflow::"):
        return _of_own(name, args, given, outs)
    if name in FREE or func.is_view:
        return NOTHING
    if name in ("_to_copy", "copy_") and len({t.device.type for t in (*given, *outs)}) > 1:
        return NOTHING  # the copy engine's
    if name == "convolution":
        return _convolution(args, outs[0])
    if name == "convolution_backward":
        return _convolution_backward(args)
    if name == "native_group_norm":
        return _relaid(name, 2 * nbytes(args[0]) + nbytes(outs[0]), args[:1])
    if name == "native_group_norm_backward":
        return _relaid(name, 2 * nbytes(args[0]) + 3 * nbytes(args[1]), args[:2])
    if name.startswith(("_foreach", "_fused_adam")):
        return _multi_tensor(name, args)
    moved = sum(map(nbytes, given)) + sum(
        nbytes(t) for t in outs if not any(t is g for g in given)
    )
    if func._schema.is_mutable:
        moved += nbytes(outs[0]) if outs else 0
    return Launched(MANY.get(name, 1), moved)


def _of_own(name: str, args, given: list[Tensor], outs: list[Tensor]) -> Launched:
    assert name in OWN, f"tests/device/rules.py: OWN does not say how many kernels {name} launches"
    own = OWN[name]
    fresh = [t for t in outs if not any(t is g for g in given)]
    if own.counted:
        return own.counted(args, outs)
    return Launched(own.kernels, sum(map(nbytes, (*given, *fresh))))


def _relaid(name: str, moved: int, inputs) -> Launched:
    """A norm over groups: CUDA's wants its inputs contiguous and copies the others."""
    return _with_copies(MANY[name], moved, [t for t in inputs if not t.is_contiguous()])


def _layout(operands: list[Tensor], passes: int, moved: int) -> tuple[int, int]:
    """Copies into the format that cuDNN computes in: kernels and bytes.

    Args:
        operands: of the convolution.
        passes: how many convolutions it is.
        moved: their bytes.
    """
    x, w = operands[-2:]
    if in_channels_last(x, w):
        copied = [t for t in operands if not t.is_contiguous(memory_format=torch.channels_last)]
        return len(copied), sum(2 * nbytes(t) for t in copied)
    half = x.dtype in (torch.bfloat16, torch.float16)
    return (3 * passes, 2 * moved) if half else (0, 0)  # cuDNN's own nchwToNhwc and back


def _convolution(args, out: Tensor) -> Launched:
    x, w, bias = args[:3]
    own = nbytes(x) + nbytes(w) + nbytes(out)
    kernels, moved = _layout([x, w], 1, own)
    with_bias = bias is not None
    total = own + moved + 2 * nbytes(out) * with_bias
    return Launched(1 + with_bias + kernels, total, kernels, moved)


def _convolution_backward(args) -> Launched:
    (dy, x, w), mask = args[:3], args[-1]
    own, passes = nbytes(dy) + nbytes(w) + nbytes(x), mask[0] + mask[1]
    kernels, moved = _layout([dy, x, w], passes, passes * own)
    total = own * passes + nbytes(dy) * bool(mask[2]) + moved
    return Launched(sum(map(bool, mask)) + kernels, total, kernels, moved)


def _alike(lists: list[list[Tensor]]) -> bool:
    """Whether the first tensors of the lists have one form, and so have the second ones, ...

    Strides along a dimension of size 1 are left out: here they are not always as on CUDA.
    """
    forms = [[(t.shape, _strides(t), t.dtype) for t in each] for each in lists]
    return all(each == forms[0] for each in forms)


def _strides(t: Tensor) -> list[int]:
    return [stride for stride, size in zip(t.stride(), t.shape, strict=True) if size > 1]


def _multi_tensor(name: str, args) -> Launched:
    """Launches over lists of tensors: so many tensors, and blocks of 65536 numbers, in each."""
    lists = [x for x in args if isinstance(x, list | tuple) and x and isinstance(x[0], Tensor)]
    if not lists:
        return NOTHING
    fused = name.startswith("_fused")
    depth = 4 if fused else max(1, min(len(lists), 5))
    most = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}[depth]  # MultiTensorApply.cuh
    chunks = [math.ceil(t.numel() / 65536) for t in lists[0]]
    kernels = max(math.ceil(sum(chunks) / 320), math.ceil(len(chunks) / most)) + ("norm" in name)
    if not fused and not _alike(lists):  # ForeachUtils.h: then it is a loop over the tensors
        kernels = len(chunks)
    written = [*lists[0], *lists[2], *lists[3]] if fused else lists[0]
    read = [t for each in lists[:4] for t in each]
    return Launched(kernels, sum(map(nbytes, read)) + sum(map(nbytes, written)))
