"""What a reader asks of the user because the file does not say it: names, kinds and defaults."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scoreflow.errors import RequestError, did_you_mean

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a name"}
"""What an answer must be, by its type."""
MOST = 2**53
"""Beyond what whole numbers are not all numbers of double precision."""


@dataclass(frozen=True)
class Asked:
    """One question.

    Attributes:
        name: of the option.
        kind: type of the answer.
        meaning: one line.
        default: the answer where none is given; None where there must be one.
        choices: the names that it may be; empty for any.
    """

    name: str
    kind: type
    meaning: str
    default: Any = None
    choices: tuple[str, ...] = ()

    def accept(self, value: object) -> Any:  # noqa: ANN401
        """The answer in its type.

        Raises:
            RequestError: it is of another type, no finite number, not above 0 where its default
                is not 0, below 0, or not among the choices.
        """
        if type(value) is int and abs(value) >= MOST:
            raise RequestError(f"option {self.name} must be below 2^53, got one beyond it")
        if self.kind is float and type(value) is int:
            value = float(value)
        if type(value) is not self.kind:
            raise RequestError(
                f"option {self.name} must be {KINDS[self.kind]} ({self.meaning}), got {value!r}"
            )
        if self.choices and value not in self.choices:
            raise RequestError(
                f"option {self.name} must be one of {', '.join(self.choices)}, got {value!r}"
            )
        if isinstance(value, int | float) and self.kind is not bool:
            self._refuse_out_of_range(value)
        return value

    def _refuse_out_of_range(self, value: float) -> None:
        """Refuse what is not finite, or below the least; a default of 0 may be said as well."""
        least = "0 or above" if self.default == 0 else "above 0"
        if not math.isfinite(value) or value < 0 or (value == 0 and self.default != 0):
            raise RequestError(
                f"option {self.name} must be a finite number {least} ({self.meaning}), got {value}"
            )


def answers(
    format: str, asked: tuple[Asked, ...], given: Mapping[str, object], otherwise: str = ""
) -> dict[str, Any]:
    """The answers to all questions.

    Args:
        format: that asks, for messages.
        asked: the questions.
        given: by the user, or by a recipe.
        otherwise: a second way to answer a question without a default, for its message.

    Raises:
        RequestError: an unknown option, a wrong answer, or one missing.
    """
    names = [each.name for each in asked]
    for name in given:
        if name not in names:
            hint = did_you_mean(name, names, f"they are {', '.join(names) or 'none'}")
            raise RequestError(f"the format {format} has no option {name!r}; {hint}")
    missing = [each for each in asked if each.default is None and each.name not in given]
    if missing:
        listed = "; ".join(f"{each.name}, {each.meaning}" for each in missing)
        example = ",".join(f"{each.name}=..." for each in missing)
        raise RequestError(
            f"the file does not say {listed}: add --set {example}{otherwise and f', {otherwise}'}"
        )
    return {
        each.name: each.accept(given[each.name]) if each.name in given else each.default
        for each in asked
    }
