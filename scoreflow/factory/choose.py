"""A choice by its name, or a refusal that lists the names."""

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from scoreflow.errors import RequestError


def choose(what: str, name: str, options: Any) -> Any:  # noqa: ANN401
    """options[name], or a refusal that lists the names and the nearest one."""
    if name in options:
        return options[name] if isinstance(options, dict) else name
    names: Iterable[str] = list(options)
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise RequestError(f"{what} must be one of {', '.join(names)}, got {name!r}{hint}")


def refusing(build: Callable[[Any], Any], c: Any, section: str = "") -> Any:  # noqa: ANN401
    """build(c), its ValueError turned into a refusal."""
    try:
        return build(c)
    except ValueError as error:
        prefix = f"{section}: " if section and not str(error).startswith(section) else ""
        raise RequestError(f"{prefix}{error}") from error
