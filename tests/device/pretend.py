"""A pretended GPU: tensors that lie on the device "pretend:0" for torch, their numbers on the CPU.

torch lets Python implement a kind of device (PrivateUse1; torch >= 2.10), and that one refuses,
converts and names devices as torch does for CUDA. A tensor here is a wrapper around an `inner` one
on the CPU, where each call is computed: results are the CPU's, to the bit. Around an inner tensor
on "meta" nothing is computed, only shapes: a step of a large network in seconds. What CUDA alone
would say to a call is in `rules`, and `watch` asks it.

    with pretending() as device, watching() as seen:
        ...

What is global in torch is undone at the end of `pretending`, but for the name of the device: a
process knows it from then on, as not available.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from unittest import mock

import torch
import torchgen
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_map

from scoreflow.sde.noise import kernels

NAME = "pretend"
CPU = torch.device("cpu")
OLDEST = (2, 10)
"""The first torch whose Python can be a device."""

aten = torch.ops.aten
_kept: list[object] = []  # registrations, as long as the process


class Pretended(Tensor):
    """A tensor on the pretended device.

    Args:
        inner: what has the numbers (on the CPU), or the shape alone (on meta).

    Attributes:
        of_number: whether torch made it of a number of Python's, as in `x[mask] = 2.0`.
    """

    inner: Tensor
    of_number = False
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Pretended":
        made: Pretended = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=torch.device(NAME, 0),
            requires_grad=False,
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return call(func, args, kwargs or {})

    def tolist(self):
        return self.cpu().tolist()

    def numpy(self, *, force=False):
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy")

    def __array__(self, *given, **named):
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy")

    def __format__(self, spec):
        return format(self.item() if self.dim() == 0 else self, spec)

    def __repr__(self, **_named):
        return f"Pretended({self.inner!r})"

    def __reduce_ex__(self, protocol):
        return self.inner.__reduce_ex__(protocol)  # a file has it as a tensor, to be put anywhere

    def __deepcopy__(self, memo):
        if id(self) in memo:
            return memo[id(self)]
        copied = self.detach().clone().requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copied._is_param = True
        memo[id(self)] = copied
        return copied


def tensors(*values: object) -> list[Tensor]:
    """All tensors among arguments."""
    found: list[Tensor] = []
    _gather(values, found)
    return found


def _gather(values, found: list[Tensor]) -> None:
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            _gather(value, found)
        elif isinstance(value, dict):
            _gather(value.values(), found)


def mapped(change: Callable[[object], object], value):
    """The value with all that it is made of changed: torch's tree_map, for calls, and faster."""
    kind = type(value)
    if kind is tuple or kind is list:
        return kind([mapped(change, each) for each in value])
    if kind is dict:
        return {key: mapped(change, each) for key, each in value.items()}
    return tree_map(change, value) if isinstance(value, tuple | list | dict) else change(value)


def inner(value):
    """What is inside a pretended tensor; anything else as it is."""
    return value.inner if isinstance(value, Pretended) else value


def shape_only(value):
    """A tensor's shape without its numbers, inside; anything else as it is."""
    return value.to("meta") if isinstance(value, Tensor) else value


def call(func, args, kwargs, bare: bool = False):
    """The call on the CPU, and its results where the device would have them.

    Args:
        func: the overload.
        args: of it.
        kwargs: of it.
        bare: whether what is made on the device, or comes to it, has a shape alone.
    """
    given, asked = tensors(args, kwargs), kwargs.get("device")
    here = any(isinstance(x, Pretended) for x in given)
    there = torch.device(asked).type == NAME if asked is not None else here
    if not there and not here:
        return func(*args, **kwargs)
    bare = bare or any(inner(x).is_meta for x in given)
    if func is aten.copy_.default:
        return _copied(args[0], args[1])
    real_args, real_kwargs = mapped(inner, args), mapped(inner, kwargs)
    if there and bare and here:
        real_args, real_kwargs = mapped(shape_only, (real_args, real_kwargs))
    real_kwargs.pop("non_blocking", None)
    if there and asked is not None:
        real_kwargs["device"] = torch.device("meta") if bare else CPU
    if asked is not None and bare and here and torch.device(asked) == CPU:
        raise RuntimeError("a pretended tensor of a shape alone has no numbers to be read")
    if func in _AS_CUDA and there:
        real_args = _AS_CUDA[func](*real_args)
    computed = _ON_CPU.get(func, func) if there else func
    out = computed(*real_args, **real_kwargs)
    if func is aten._to_copy.default and asked is not None and there != here and not bare:
        out = out.clone() if out.data_ptr() == real_args[0].data_ptr() else out
    if not there:
        return out
    wrapped = mapped(lambda x: Pretended(x) if type(x) is Tensor else x, out)
    if func is aten.scalar_tensor.default:
        wrapped.of_number = True
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if here else wrapped


def _copied(target: Tensor, source: Tensor) -> Tensor:
    numbers = inner(source)
    if numbers.is_meta and not inner(target).is_meta:
        raise RuntimeError("a pretended tensor of a shape alone has no numbers to be read")
    inner(target).copy_(numbers)
    return target


def _contiguous(count: int) -> Callable[..., tuple[object, ...]]:
    """CUDA's group norms make their first inputs contiguous, and so are their results."""

    def changed(*args):
        return (*(x.contiguous() for x in args[:count]), *args[count:])

    return changed


_AS_CUDA = {
    aten.native_group_norm.default: _contiguous(1),
    aten.native_group_norm_backward.default: _contiguous(2),
}


def _attend(query, key, value, mask=None, dropout=0.0, causal=False, *, scale=None, gqa=False):
    """Fused, as CUDA and the CPU choose where there is no mask (CUDA not in float64).

    Both want neighbours along the last axis.
    """
    spread = any(x.stride(-1) != 1 for x in (query, key, value))
    if spread or mask is not None or dropout or causal or gqa:
        given = (query, key, value, mask, dropout, causal)
        return aten._scaled_dot_product_attention_math(*given, scale=scale, enable_gqa=gqa)[0]
    return aten._scaled_dot_product_fused_attention_overrideable(query, key, value, scale=scale)[0]


def _attention(query, key, value, *_unused, scale=None):
    """The fused attention's forward pass: (answer, log of the sums, and what nothing reads)."""
    found = aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, scale=scale)
    none = query.new_empty(0)
    return (*found, none, none, 0, 0, none, none, none)


def _attention_back(grad, query, key, value, bias, mask, answer, sums, *_unused, scale=None):
    given = (grad, query, key, value, answer, sums, 0.0, False)
    found = aten._scaled_dot_product_flash_attention_for_cpu_backward(*given, scale=scale)
    return (*found, None)


def in_channels_last(x: Tensor, weight: Tensor) -> bool:
    """Whether cuDNN computes a convolution of these with channels side by side in memory."""
    return any(
        t.dim() == 4 and suggest_memory_format(t) == torch.channels_last for t in (x, weight)
    )


def _convolution(x, weight, *args):
    out = aten.convolution.default(x, weight, *args)
    last = in_channels_last(x, weight)
    return out.contiguous(memory_format=torch.channels_last) if last else out


def _convolution_back(grad, x, weight, *args):
    by_x, by_weight, by_bias = aten.convolution_backward.default(grad, x, weight, *args)
    if by_x is not None and in_channels_last(x, weight):
        by_x = by_x.contiguous(memory_format=torch.channels_last)
    return by_x, by_weight, by_bias


_ON_CPU = {
    aten.convolution.default: _convolution,  # of shapes alone torch loses the order in memory
    aten.convolution_backward.default: _convolution_back,
    aten._efficientzerotensor.default: aten.zeros.default,  # or it would lose its key inside
    aten._scaled_dot_product_fused_attention_overrideable.default: _attention,
    aten._scaled_dot_product_fused_attention_overrideable_backward.default: _attention_back,
}


class Mode(TorchDispatchMode):
    """A mode that does not load the compiler to hide from it."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class Machine(Mode):
    """Makes on the device what is asked for there; to be entered below `watch.Watch`.

    Args:
        bare: see `call`.
    """

    def __init__(self, bare: bool = False) -> None:
        super().__init__()
        self.bare = bare

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return call(func, args, kwargs or {}, self.bare)


class _Module:
    """torch.pretend, as torch.cuda is a module."""

    on = False

    def is_initialized(self) -> bool:
        return self.on

    def is_available(self) -> bool:
        return self.on

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def device_count(self) -> int:
        return int(self.on)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


MODULE = _Module()


@lru_cache(1)
def _register() -> None:
    """Give the process the device; once, and for good."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    class Hook(torch._C._acc.PrivateUse1Hooks):
        def is_available(self):
            return MODULE.on

        def has_primary_context(self, _index):
            return False

        def is_built(self):
            return True

    _setup_privateuseone_for_python_backend(rename=NAME, backend_module=MODULE, hook=Hook())
    attend = torch.library.Library("aten", "IMPL")
    attend.impl("scaled_dot_product_attention", _attend, "AutogradPrivateUse1")
    for name in _own_kernels():
        attend.impl(name, _unreached, "PrivateUse1")
    through = torch.library.Library("_", "IMPL")  # all else is as without autocast
    through.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    _kept.extend((attend, through, _autocast()))


def _unreached(*_given, **_named):
    raise AssertionError("a pretended tensor's calls end in __torch_dispatch__")


YAML = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"


def _own_kernels() -> list[str]:
    """Overloads that CUDA computes in one call and a device that torch does not know in several.

    silu_backward, for one. A kernel of the device's own keeps the call whole.
    """
    functions = re.split(r"^- func: ", YAML.read_text(), flags=re.MULTILINE)[1:]
    own = re.compile(r"^    .*\bCUDA\b.*: |^  structured_delegate", re.MULTILINE)
    found = [each for each in functions if own.search(each)]
    names = [each.partition("(")[0] for each in found if "CompositeImplicitAutograd: " in each]
    return [name for name in names if _overload(name) is not None]


HEADER = Path(torch.__file__).parent / "include/ATen/autocast_mode.h"
"""torch's own lists of what autocast computes in which precision, for CUDA and others alike."""


def _listed(name: str) -> list[str]:
    """Names of overloads in one of the header's lists."""
    found = re.search(rf"#define {name}\(_\)(.*?)\n\n", HEADER.read_text(), re.DOTALL)
    assert found is not None, f"{HEADER.name} has no {name}"
    pairs = re.findall(r"_\((\w+)(?:, (\w+))?\)", found[1])
    names = [f"{op}.{overload}" if overload else op for op, overload in pairs]
    return [name for name in names if _overload(name) is not None]


def _overload(name: str):
    packet, _, overload = name.partition(".")
    return getattr(getattr(aten, packet, None), overload or "default", None)


_casts: dict[int, tuple[Tensor, Tensor]] = {}
"""Weights that were cast in this autocast, by their ids: torch casts each once."""


def _autocast() -> torch.library.Library:
    """Autocast of the device as CUDA's; a kind of device that torch does not know has none."""
    library = torch.library.Library("aten", "IMPL")
    key = torch._C.DispatchKey.AutocastPrivateUse1
    without = torch._C.DispatchKeySet(key)

    def cast(value, dtype):
        if not isinstance(value, Pretended) or not value.is_floating_point():
            return value
        if value.dtype in (dtype, torch.float64):
            return value
        weight = value.is_leaf and value.requires_grad and dtype != torch.float32
        if not weight:
            return value.to(dtype)
        if id(value) not in _casts:
            _casts[id(value)] = (value, value.to(dtype))
        return _casts[id(value)][1]

    def lower(func):
        def casting(*args, **kwargs):
            with torch._C._ExcludeDispatchKeyGuard(without):
                dtype = torch.get_autocast_dtype(NAME)
                args, kwargs = mapped(lambda x: cast(x, dtype), (args, kwargs))
                return func(*args, **kwargs)

        return casting

    def single(func):
        def casting(*args, **kwargs):
            with torch._C._ExcludeDispatchKeyGuard(without):
                args, kwargs = mapped(lambda x: cast(x, torch.float32), (args, kwargs))
                return func(*args, **kwargs)

        return casting

    def into_single(func):
        def summing(*args, **kwargs):
            with torch._C._ExcludeDispatchKeyGuard(without):
                if args[0].is_floating_point() and args[0].dtype != torch.float64:
                    kwargs = {"dtype": torch.float32, **kwargs}
                return func(*args, **kwargs)

        return summing

    for names, policy in (
        ("AT_FORALL_LOWER_PRECISION_FP", lower),
        ("AT_FORALL_FP32", single),
        ("AT_FORALL_FP32_SET_OPT_DTYPE", into_single),
    ):
        for name in _listed(names):
            library.impl(name, policy(_overload(name)), key.name)
    return library


@contextmanager
def pretending(bare: bool = False) -> Iterator[torch.device]:
    """The pretended device is there, as CUDA may be.

    Args:
        bare: its tensors have shapes alone (but those made by `Pretended` itself).
    """
    _register()
    with ExitStack() as stack:
        stack.callback(setattr, MODULE, "on", False)
        MODULE.on = True
        stack.callback(torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors())
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(list, device=...): seen as a copy
        overwrite = torch.__future__.set_overwrite_module_params_on_conversion
        stack.callback(overwrite, torch.__future__.get_overwrite_module_params_on_conversion())
        overwrite(True)
        for change in _patches():
            stack.enter_context(change)
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(Machine(bare))
        stack.callback(_casts.clear)
        yield torch.device(NAME, 0)


def _patches() -> list[mock._patch]:
    """So that the optimiser takes its fused and foreach ways, as on CUDA, and autocast forgets."""
    from torch.optim import optimizer
    from torch.utils import _foreach_utils

    kinds = [torch.Tensor, torch.nn.Parameter, Pretended]
    forget = torch.clear_autocast_cache

    def forget_all() -> None:
        _casts.clear()
        forget()

    return [
        mock.patch.object(optimizer, "_foreach_supported_types", kinds),
        mock.patch.object(_foreach_utils, "_foreach_supported_types", kinds),
        mock.patch.object(torch, "clear_autocast_cache", forget_all),
        mock.patch.object(kernels, "FUSED", kernels.FUSED | {NAME}),
    ]
