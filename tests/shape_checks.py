"""jaxtyping's checks, made once for each kind of call.

Whether the arguments of a function and what it returns are of the shapes, number types and classes
that its annotations state depends on these properties alone, not on the numbers in the tensors. So
a call like one that was checked, and passed, is not checked again: in the samplers' loops, which
call the same small functions thousands of times, the checks took two thirds of the time.
"""

import dataclasses
import functools
import threading
from collections.abc import Callable, Hashable, Mapping, Set
from typing import Any

import jaxtyping
import numpy as np
import torch
from torch import Tensor

CHECK = jaxtyping.jaxtyped  # as the library has it, before `install`


class UnknownKindError(Exception):
    """A value whose check may depend on more than is cheap to look at."""


def refuse(value: Any) -> Hashable:
    """Mappings and sets: calls with them are checked each time."""
    raise UnknownKindError


def way(of: type) -> Callable[[Any], Hashable] | None:
    """How the kind of a value of class `of` is found; None where the class says all."""
    if of is Tensor:
        return lambda value: (value.dtype, value.shape)
    if issubclass(of, Tensor | np.ndarray):
        return lambda value: (of, value.dtype, value.shape)
    if issubclass(of, str):  # a Literal is checked by value
        return lambda value: value
    if issubclass(of, tuple | list):
        return lambda value: (of, *map(kind, value))
    if issubclass(of, type):
        return lambda value: (type, value)
    return refuse if issubclass(of, Mapping | Set) else None


class Ways(dict[type, Callable[[Any], Hashable] | None]):
    """`way` of each class, found once."""

    def __missing__(self, of: type) -> Callable[[Any], Hashable] | None:
        found = self[of] = way(of)
        return found


WAYS = Ways()


def kind(value: Any) -> Hashable:
    """All that beartype's check can depend on; raises UnknownKindError where that is too much."""
    found = WAYS[type(value)]
    return type(value) if found is None else found(value)


def checked_by_kind(function: Callable[..., Any], typechecker: Any) -> Callable[..., Any]:
    """`function`, checked by jaxtyping at its first call of each kind of arguments and result.

    The checkers are made when they are needed: of most functions a test process calls none.
    """

    @functools.cache
    def whole() -> Callable[..., Any]:
        return CHECK(function, typechecker=typechecker)

    results: list[Any] = []
    lock = threading.Lock()

    @functools.wraps(function)
    def give(*_: Any, **__: Any) -> Any:
        return results.pop()

    @functools.cache
    def giver() -> Callable[..., Any]:
        return CHECK(give, typechecker=typechecker)

    def check_result(out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        with lock:
            results.append(out)
            giver()(*args, **kwargs)

    passed: dict[Hashable, set[Hashable]] = {}  # kinds of arguments: kinds of their results
    is_compiling, ways = torch.compiler.is_compiling, WAYS

    # A test process comes here millions of times: `kind` is written out where a value is of the
    # commonest classes, as a call of it costs more than what it does.
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if is_compiling():  # what is traced is the function alone
            return function(*args, **kwargs)
        asked: list[Hashable] = []
        try:
            for value in args:
                of = type(value)
                if of is Tensor:
                    asked += (value.dtype, value.shape)
                else:
                    found = ways[of]
                    asked.append(of if found is None else found(value))
            if kwargs:
                asked += (tuple(kwargs), *map(kind, kwargs.values()))
        except UnknownKindError:
            return whole()(*args, **kwargs)
        key = tuple(asked)
        known = passed.get(key)
        out = (whole() if known is None else function)(*args, **kwargs)
        of = type(out)
        if of is Tensor:
            answered: Hashable = (out.dtype, out.shape)
        else:
            found = ways[of]
            try:
                answered = of if found is None else found(out)
            except UnknownKindError:
                answered = None
        if known is None:
            known = passed[key] = set()
        elif answered in known:
            return out
        else:
            check_result(out, args, kwargs)
        if answered is not None:
            known.add(answered)
        return out

    wrapped.__dict__["checked_by_kind"] = True
    return wrapped


def jaxtyped(target: Any = None, *, typechecker: Any) -> Any:
    """As `jaxtyping.jaxtyped`: for functions, methods, properties and dataclasses."""
    if target is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if isinstance(target, type):
        initialise = target.__init__
        if dataclasses.is_dataclass(target) and not hasattr(initialise, "checked_by_kind"):
            target.__init__ = checked_by_kind(initialise, typechecker)
        return target
    if isinstance(target, classmethod | staticmethod):
        return type(target)(checked_by_kind(target.__func__, typechecker))
    if isinstance(target, property):
        parts = (target.fget, target.fset, target.fdel)
        return property(*(part and checked_by_kind(part, typechecker) for part in parts))
    return checked_by_kind(target, typechecker)


def install(modules: list[str]) -> None:
    """Checks every annotated function of the `modules`, which must not have been imported."""
    jaxtyping.jaxtyped = jaxtyped  # the hook writes this name in front of each function
    jaxtyping.install_import_hook(modules, "beartype.beartype")
