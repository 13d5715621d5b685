"""Config sections as frozen dataclasses, whose fields declare the keys.

A key has a default, a type, a range or choices, a meaning, modes, an age, and other keys that must
be set to certain values for it to have an effect.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, ClassVar, TypeVar, cast

from scoreflow.errors import RequestError, did_you_mean
from scoreflow.schema.ranges import AllBut, Range

T = TypeVar("T")
Value = bool | int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]
Condition = Mapping[str, tuple[Value, ...] | AllBut]
"""Dotted keys, each with the values of which it must have one."""

KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
}
"""What a value must be, by the type of the default."""
LISTS = {
    int: "whole numbers, as (1,2,2)",
    float: "numbers, as (0,1.5,3)",
    str: "names, as ('ddim','ode')",
}
"""The same for a tuple, by the type of its items."""
NUMBERS_AS_TEXT = ("data.size",)
"""Texts for which a whole number may stand: a size of 64 is "64"."""


FROM_A_STEP_ON = "resume"
"""A key of the weights that each step reads anew: it may change where a training goes on."""
WHERE_THE_DATA_FIT = "resume, and all modes, where the data are the same"
"""Where the data lie, which may be another place than they were trained on at."""
IN_ALL_MODES = "resume, and all modes"
"""A key of the weights that changes how fast they are asked, and nothing else."""
AUTO = "auto"
"""A value of keys that the device may decide."""
SWITCH: dict[str, Value] = {
    AUTO: AUTO,
    **dict.fromkeys(("true", "t", "1"), True),
    **dict.fromkeys(("false", "f", "0"), False),
}
"""Texts, in any case, of a truth value that the device may decide: those of a flag, and `AUTO`."""
CLASS = "a class, by its number or name; several, as 0,1,2; or one of the words in its meaning"
"""What a value must be that says classes."""


@dataclass(frozen=True)
class Key:
    """One key of a config.

    Attributes:
        name: dotted, "sampling.steps".
        default: its value where nothing else is given; its type is the type of every value.
        meaning: one line, with the unit.
        limits: the range of a number, or of each number of a tuple; None for other types.
        choices: the names that it may be; empty for any text. They are refused where an object is
            chosen by the name (`scoreflow.factory`), so that a name without effect may be wrong.
        only: conditions of which one must hold for the key to have an effect; none for one that
            always has. A key in a condition must have an effect itself.
        modes: the modes after training in which setting it has an effect; none for a key of the
            weights, which training fixes. Training takes every key, for it stores the config.
        instead: what to set instead, by a mode in which it has no effect.
        later: absent from the oldest runs; the default does what they did.
        changes: how a resumed training may give a key of the weights another value, in words;
            "" for never.
        classes: whether it says a class or several: a number, or a text (`as_classes`).
        filled: whether a list must have an entry.
        automatic: whether it may be `AUTO`, which leaves the choice to the device: a text, or a
            truth value where it has no choices.
    """

    name: str
    default: Value
    meaning: str
    limits: Range | None
    choices: tuple[str, ...]
    only: tuple[Condition, ...]
    modes: tuple[str, ...]
    instead: Mapping[str, str]
    later: bool
    changes: str = ""
    classes: bool = False
    filled: bool = False
    automatic: bool = False

    @property
    def section(self) -> str:
        """The section's name, "" for a key that stands in none."""
        return self.name.rpartition(".")[0]

    @property
    def option(self) -> str:
        """The name inside the section."""
        return self.name.rpartition(".")[2]

    @property
    def undecided(self) -> bool:
        """Whether it is true, false, or `AUTO`, where the device decides which."""
        return self.automatic and not self.choices

    @property
    def kind(self) -> str:
        """What a value must be, in words."""
        if isinstance(self.default, tuple):
            return LISTS[type(self.default[0])]
        if self.classes:
            return CLASS
        if self.undecided:
            return "true, false or auto"
        return KINDS[type(self.default)]

    @property
    def described(self) -> str:
        """Its meaning, behind the choices that it belongs to: "ve: noise scale at t = N"."""
        ways = [" and ".join(map(_in_words, way, way.values())) for way in self.only]
        return f"{', '.join(ways)}: {self.meaning}" if ways else self.meaning

    def wrong_kind(self, got: object) -> str:
        """The message about a value of another type."""
        return f"{self.name} must be {self.kind}, got {got!r}"

    def convert(self, value: object) -> Value:
        """The value in the key's type: 2 may stand for 2.0, and a list for a tuple.

        Raises:
            RequestError: it has another type.
        """
        if self.name in NUMBERS_AS_TEXT and type(value) is int:
            value = str(value)
        converted: Any
        if self.classes:
            converted = as_classes(value, self.wrong_kind(value))
        elif self.undecided:
            converted = _switched(value, self.wrong_kind(value))
        elif not isinstance(self.default, tuple):
            converted = _converted(value, type(self.default), self.wrong_kind(value))
        elif isinstance(value, list | tuple):
            kind, refusal = type(self.default[0]), self.wrong_kind(value)
            converted = tuple(_converted(item, kind, refusal) for item in value)
        else:
            raise RequestError(self.wrong_kind(value))
        return cast(Value, converted)

    def check(self, value: object) -> None:
        """Refuse a number, or a tuple with one, out of range."""
        if self.limits is None or isinstance(value, str):
            return
        for number in value if isinstance(value, list | tuple) else (value,):
            if number not in self.limits:
                raise RequestError(f"{self.name} must lie in {self.limits}, got {value}")

    def refuse_nonsense(self, value: object) -> None:
        """Refuse what no mode could use: a name that is none, a list without an entry.

        A config that is kept may have them, for a key without effect is never read: they are
        refused where they are asked for.
        """
        if self.filled and value in ([], ()):
            raise RequestError(f"{self.name} must have an entry at least, got none")
        for item in value if isinstance(value, list | tuple) else (value,):
            known = item in self.choices or item == self.default or not isinstance(item, str)
            if self.choices and not known:
                hint = did_you_mean(str(item), self.choices)
                raise RequestError(
                    f"{self.name} must be one of {', '.join(self.choices)}, got {item!r}"
                    + (f"; {hint}" if hint else "")
                )


def _in_words(name: str, values: tuple[Value, ...] | AllBut) -> str:
    """A condition as a meaning begins with it: "unet", "compile", "heads = 0"."""
    option = name.rpartition(".")[2]
    if isinstance(values, AllBut):
        numbers = not any(isinstance(each, str) for each in values.names)
        return f"{option} of {values}" if numbers else str(values)
    if values == (True,):
        return option
    texts = ", ".join(str(v).lower() if isinstance(v, bool) else str(v) for v in values)
    return texts if all(isinstance(value, str) for value in values) else f"{option} = {texts}"


def as_classes(value: object, refusal: str) -> int | str:
    """A class as a config keeps it: its number, or a text: a name, or several with commas between.

    Args:
        value: as a command line, a config file or Python has it: 2, "2", "cat", (0, 1, "cat").
        refusal: the message about anything else.
    """
    if isinstance(value, list | tuple) and value:
        return ",".join(str(as_classes(item, refusal)) for item in value)
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).strip():
        raise RequestError(refusal)
    text = str(value).strip()
    try:
        return int(text) if text == str(int(text)) else text  # a class may be called 007
    except ValueError:
        return text


def _switched(value: object, refusal: str) -> Value:
    """True, False or `AUTO`, of a value or of a text in any case; 1 and 0 as flags have them."""
    text = str(value).lower() if isinstance(value, bool | int | str) else ""
    if text not in SWITCH:
        raise RequestError(refusal)
    return SWITCH[text]


def _converted(value: object, kind: type, refusal: str) -> Any:  # noqa: ANN401
    if kind is float and type(value) is int:  # 2 is a number as 2.0 is
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise RequestError(refusal)
    return value


def key(
    default: T,
    meaning: str,
    limits: Range | None = None,
    *,
    choices: tuple[str, ...] = (),
    only: Condition | tuple[Condition, ...] = (),
    modes: tuple[str, ...] | None = None,
    instead: Mapping[str, str] | None = None,
    later: bool = False,
    changes: str = "",
    classes: bool = False,
    filled: bool = False,
    automatic: bool = False,
) -> T:
    """A field of a section's dataclass; the arguments are those of `Key`.

    Args:
        default: the value.
        meaning: one line, with the unit.
        limits: of a number.
        choices: of a name.
        only: one condition, or several of which one must hold.
        modes: None for those of the section.
        instead: by mode.
        later: absent from the oldest runs.
        changes: of a key of the weights, `FROM_A_STEP_ON` or another few words.
        classes: whether it says a class or several.
        filled: whether a list must have an entry.
        automatic: whether the device may decide.
    """
    about = {
        "meaning": meaning,
        "limits": limits,
        "choices": choices,
        "only": only if isinstance(only, tuple) else (only,),
        "modes": modes,
        "instead": instead or {},
        "later": later,
        "changes": changes,
        "classes": classes,
        "filled": filled,
        "automatic": automatic,
    }
    declared: T = field(default=default, metadata=about)
    return declared


@cache
def keys_of(section: Any, name: str, modes: tuple[str, ...]) -> tuple[Key, ...]:  # noqa: ANN401
    """The keys that a section's dataclass declares, in its order.

    Args:
        section: the dataclass, each field made by `key`.
        name: of the section in a config, "" for the keys that stand in none.
        modes: of a key that names none.
    """
    prefix = f"{name}." if name else ""
    return tuple(
        _key_of(prefix + each.name, each.default, modes, dict(each.metadata))
        for each in fields(section)
        if each.metadata
    )


def _key_of(name: str, default: Any, modes: tuple[str, ...], about: dict[str, Any]) -> Key:  # noqa: ANN401
    own = about.pop("modes")
    return Key(name=name, default=default, modes=modes if own is None else own, **about)


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section of a config; a number out of its range is refused when it is made.

    Attributes:
        NAME: of the section in a config.
        MODES: modes after training in which its keys have an effect; none for what belongs to the
            weights.
    """

    NAME: ClassVar[str] = ""
    MODES: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for key in self.declarations():
            key.check(vars(self)[key.option])

    @classmethod
    def declarations(cls) -> tuple[Key, ...]:
        """The declarations of its fields, in their order."""
        section: Any = cls  # mypy takes a class with __hash__ for one that cannot be hashed
        return keys_of(section, cls.NAME, cls.MODES)

    def to_dict(self) -> dict[str, Value]:
        """The values by their names, tuples as tuples."""
        values: dict[str, Any] = {
            key.option: vars(self)[key.option] for key in self.declarations()
        }
        return values
