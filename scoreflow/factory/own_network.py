"""A network of the user's own, by its import path: model.name="package.module:factory"."""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from scoreflow.errors import RequestError, did_you_mean


def is_import_path(name: str) -> bool:
    """Whether a model.name is the user's own, and not one of the house."""
    return ":" in name


def own_network(name: str, shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """The network that the user's factory makes: a function or a class, of this or no argument.

    Args:
        name: "package.module:factory", in the current directory or installed.
        shape: of an image, (C, H, W), or of a vector, (D,); given to a parameter `shape`.
        num_classes: that it is to be conditioned on, 0 for none; given to one named like this.

    Raises:
        RequestError: there is no such module or factory, it asks for other arguments, or what it
            returns is no network or of other classes. An error of its own is not caught.
    """
    with _current_directory():
        factory = _imported(name)
        network = factory(**_arguments(name, factory, shape=shape, num_classes=num_classes))
    if not isinstance(network, nn.Module):
        raise RequestError(
            f"model.name = {name} must return a torch.nn.Module, got {type(network).__name__}"
        )
    if (known := getattr(network, "num_classes", 0)) != num_classes:
        raise RequestError(
            f"model.name = {name} must return a network whose num_classes is {num_classes}, as "
            f"model.conditional and the data say, got {known}"
        )
    return network


@contextmanager
def _current_directory() -> Iterator[None]:
    """The current directory searched first, as `python -m` does, whatever started this process."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _imported(name: str) -> Callable[..., object]:
    """The function or class of that name."""
    module_name, _, attribute = name.partition(":")
    if not (module_name and attribute.isidentifier()):
        raise RequestError(f"model.name must be package.module:factory, got {name!r}")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise RequestError(
            f"model.name = {name}: {error}; modules are looked for in {Path.cwd()} and among the "
            "installed packages"
        ) from error
    found = getattr(module, attribute, None)
    if found is None:
        makers = [each for each, value in vars(module).items() if callable(value)]
        hint = did_you_mean(attribute, makers, "name a function or class of it")
        raise RequestError(f"model.name = {name}: {module_name} has no {attribute}; {hint}")
    if isinstance(found, nn.Module) or not callable(found):
        raise RequestError(
            f"model.name = {name} must name a function or class that makes a network, for a run "
            f"may need two; it is a {type(found).__name__}"
        )
    return found  # type: ignore[no-any-return]


def _arguments(name: str, factory: Callable[..., object], **known: object) -> dict[str, Any]:
    """Those of the known arguments that the factory has parameters for."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:  # of something that is not written in Python
        return {}
    anything = any(each.kind is each.VAR_KEYWORD for each in parameters)
    named = {each.name for each in parameters if each.kind is not each.POSITIONAL_ONLY}
    needed = [
        each.name
        for each in parameters
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if unknown := [each for each in needed if each not in named & known.keys()]:
        raise RequestError(
            f"model.name = {name} is called with shape=(C, H, W) and num_classes=K at most, and "
            f"needs {', '.join(unknown)}: give these a default"
        )
    return {key: value for key, value in known.items() if key in named or anything}
