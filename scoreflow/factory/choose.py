"""Choose an object by its name, or refuse the request with the names that there are.

An ODE method is tried on a trivial equation, for only its library knows its names.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar, overload

import torch

from scoreflow.errors import RequestError, did_you_mean
from scoreflow.schema.config import KEYS
from scoreflow.sde.ode import odeint

Argument = TypeVar("Argument")
Result = TypeVar("Result")


@overload
def choose(what: str, name: str, options: Mapping[str, Result]) -> Result: ...


@overload
def choose(what: str, name: str, options: Sequence[str]) -> Any: ...  # noqa: ANN401


def choose(what: str, name: str, options: Mapping[str, Any] | Sequence[str]) -> Any:
    """options[name] of a mapping, the name itself of a sequence.

    Args:
        what: the key or flag that gave the name, for the message.
        name: the choice.
        options: all that it may be.

    Raises:
        RequestError: it is none of them; the message lists them and names the nearest.
    """
    if name in options:
        return options[name] if isinstance(options, Mapping) else name
    hint = did_you_mean(name, options)
    after = f"; {hint}" if hint else ""
    raise RequestError(f"{what} must be one of {', '.join(options)}, got {name!r}{after}")


def choose_key(key: str, name: str) -> Any:  # noqa: ANN401  # of a Literal type that a class names
    """The value of a config key, if it is one of its choices; a RequestError otherwise."""
    return choose(key, name, KEYS[key].choices)


def as_request_error(
    build: Callable[[Argument], Result], argument: Argument, section: str = ""
) -> Result:
    """Call build(argument); re-raise ValueError as RequestError.

    Args:
        build: a constructor whose messages speak of its own arguments.
        argument: of it.
        section: put before the message, unless that begins with it.
    """
    try:
        return build(argument)
    except ValueError as error:
        prefix = f"{section}: " if section and not str(error).startswith(section) else ""
        raise RequestError(f"{prefix}{error}") from error


@cache  # what was found out once stays so
def try_solver(section: str, method: str, rtol: tuple[float, ...]) -> None:
    """Refuse an ODE method that does not exist, or does not take such tolerances.

    Args:
        section: whose `method` it is, for the message.
        method: "dopri5", "torchdiffeq:NAME" or "scipy:NAME".
        rtol: relative tolerances of the parts of a state.
    """
    state = tuple(torch.zeros(1, 1, dtype=torch.float64) for _ in rtol)

    def solve(method: str) -> None:
        odeint(lambda _t, x, _rows: x, state, 0.0, 1e-3, method=method, rtol=rtol, atol=1.0)

    as_request_error(solve, method, f"{section}.method")
