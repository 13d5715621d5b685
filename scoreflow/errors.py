"""The two ways in which a command can fail, hints at misspelt names, and what may be printed."""

import difflib
import sys
from collections.abc import Iterable


class RequestError(ValueError):
    """The request was wrong: nothing has been done (exit status 2)."""


class RunError(RuntimeError):
    """The run failed after it had begun (exit status 1)."""


class Stopped(KeyboardInterrupt):
    """A signal ended a training, and the step that it was at is saved.

    Args:
        step: that is saved.
        number: of the signal.
    """

    def __init__(self, step: int, number: int) -> None:
        super().__init__(
            f"stopped at step {step}, which is saved; the same command goes on from there"
        )
        self.status = 128 + number


def nearest(name: str, options: Iterable[str], cutoff: float = 0.4) -> str | None:
    """The option spelt most like a name.

    Args:
        name: in any case.
        options: in lower case.
        cutoff: least likeness, in [0, 1], as `difflib` measures it.

    Returns:
        None where none is so near.
    """
    found = difflib.get_close_matches(name.lower(), list(options), n=1, cutoff=cutoff)
    return found[0] if found else None


def did_you_mean(
    name: str, options: Iterable[str], otherwise: str = "", cutoff: float = 0.4
) -> str:
    """The hint of a message about a wrong name: the nearest option, or another text."""
    near = nearest(name, options, cutoff)
    return f"did you mean {near!r}?" if near is not None else otherwise


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its type where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def printable(text: str) -> str:
    r"""A text for a terminal: what could move its cursor, change its title or hide is escaped.

    File names, class names and what files say may hold any character, and a terminal obeys some.

    Args:
        text: lines; a line's end and a tab stay.

    Returns:
        The same with "\x1b", say, for the character of that number, as `repr` has it.
    """
    if text.isprintable():  # nearly always
        return text
    return "".join(
        each if each.isprintable() or each in "\n\t" else ascii(each)[1:-1] for each in text
    )


def warn(text: str) -> None:
    """The one place where lines go to standard error; what a terminal would obey is escaped."""
    print(printable(text), file=sys.stderr, flush=True)
