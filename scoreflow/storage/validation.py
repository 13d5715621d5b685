"""JSON from a file that anybody may have written: parsed within limits, read into a dataclass.

A schema is a frozen dataclass. Its annotations are the types, exactly (true is no number, 1.0 no
whole number, 1 may stand for 1.0); `Annotated[int, Range(0)]` adds a rule; a field with a default
may be missing; a null needs `| None`. Fields that a schema does not name are passed over, for a
newer version may write them. A field `as_` reads the name "as", which Python keeps for itself.

    @dataclass(frozen=True)
    class Row:
        image: Annotated[int, Range(0)]
        nats: Annotated[tuple[float, ...], Length(1)]
        status: Literal["done", "failed"] = "done"

    row = parse_as(line, Row)

The types: bool, int, float, str, None, Literal, X | None, list[X], tuple[X, ...], tuple[X, Y],
dict[str, X], a schema, and object (any JSON value). `storage.atomic_files.load_object` reads a
file so.
"""

import errno
import json
import math
import os
import reprlib
import stat
from codecs import BOM_UTF8
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    BinaryIO,
    Literal,
    Protocol,
    TypeVar,
    Union,
    get_args,
    get_origin,
)
from typing import get_type_hints as hints_of

DEEPEST = 64
"""Levels of lists and objects in each other; the files of a run have fewer than ten."""
LARGEST = 2**28
"""Bytes of a file that is read as one JSON value."""
_TO_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
WIDEST = 2**64
"""Whole numbers are smaller than this, without their sign: no file of a run has larger ones."""
WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    NoneType: "null",
}

T = TypeVar("T")
V_contra = TypeVar("V_contra", contravariant=True)
Read = Callable[[object, str], Any]
"""A JSON value and the name of its place in the file -> the value of the schema's type."""


class InvalidError(ValueError):
    """A value is not what its place in a file asks for; the text is one line, without the file."""


class Rule(Protocol[V_contra]):
    """What must hold of a value besides its type."""

    def wrong(self, value: V_contra) -> str:
        """What it must be, where it is not; "" where it is."""
        ...


@dataclass(frozen=True)
class Range:
    """Numbers from a least one to a greatest, both included."""

    low: float = -math.inf
    high: float = math.inf

    def wrong(self, value: int | float) -> str:
        """The rule, for a number outside."""
        if self.low <= value <= self.high:
            return ""
        most = f" and at most {self.high:g}" if self.high < math.inf else ""
        return f"at least {self.low:g}{most}"


@dataclass(frozen=True)
class Length:
    """Lists, texts and objects with so many items, both limits included."""

    low: int = 0
    high: float = math.inf

    def wrong(self, value: str | list[object] | tuple[object, ...] | dict[str, object]) -> str:
        """The rule, for a shorter or longer one."""
        if self.low <= len(value) <= self.high:
            return ""
        most = f" and at most {self.high:g}" if self.high < math.inf else ""
        return f"of at least {self.low}{most} items"


def parse_json(data: bytes) -> object:
    """The JSON value in the bytes of a file or line.

    NaN and infinities are refused, and so are a name that stands twice in one object (which of the
    two values counts depends on who reads it), numbers of more than 64 bits and values more than
    `DEEPEST` levels deep.

    Raises:
        InvalidError: it is none.
    """
    try:
        text = data.removeprefix(BOM_UTF8).decode("utf-8")  # an editor's mark
    except UnicodeDecodeError as error:
        raise InvalidError(f"byte {error.start} is not UTF-8") from error
    try:
        value: object = _DECODER.decode(text)
    except RecursionError as error:
        raise InvalidError(f"it is nested more than {DEEPEST} deep") from error
    except InvalidError:
        raise
    except json.JSONDecodeError as error:
        raise InvalidError(f"it is not JSON: {error}") from error
    except (ValueError, OverflowError) as error:  # a whole number of thousands of digits
        raise InvalidError(f"it is not JSON: {error}") from error
    if data.count(b"[") + data.count(b"{") > DEEPEST and _deeper(value, DEEPEST):
        raise InvalidError(f"it is nested more than {DEEPEST} deep")
    return value


def parse_as(data: bytes, kind: type[T]) -> T:
    """The JSON object in bytes, as a schema.

    Raises:
        InvalidError: it is none, or not of this schema.
    """
    return conform(parse_json(data), kind)


def conform(value: object, kind: type[T]) -> T:
    """A JSON value as a schema.

    Args:
        value: as `parse_json` gives it.
        kind: a frozen dataclass, or another of the types above.

    Raises:
        InvalidError: it is not of this schema; the text names the place, as "rows[2]: nats".
    """
    hashable: Any = kind
    read: T = _reader(hashable)(value, "")
    return read


def read_bytes(path: Path) -> bytes:
    """The content of a regular file; others (a pipe, a device) could keep the reader waiting.

    Raises:
        OSError: it cannot be read.
        InvalidError: it is no regular file, or larger than `LARGEST`.
    """
    with open_to_read(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST:
            raise InvalidError(f"it has {size:,} bytes, more than {LARGEST:,}")
        return file.read()


def open_to_read(path: Path) -> BinaryIO:
    """A regular file of any size, at its beginning; links to one are followed.

    Raises:
        OSError: it cannot be read.
        InvalidError: it is no regular file.
    """
    try:
        number = os.open(path, _TO_READ)
    except ValueError as error:  # a null byte in the name
        raise InvalidError(str(error)) from error
    if not stat.S_ISREG(mode := os.fstat(number).st_mode):
        os.close(number)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise InvalidError("it is no regular file")
    return open(number, "rb")


def shown(value: object) -> str:
    """A value for a message, at most some 60 letters long."""
    text = _SHORT.repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def in_words(kind: object) -> str:
    """What a value must be, by its type."""
    if kind in WORDS:
        return WORDS[kind]
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return in_words(parts[0])
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin in (Union, UnionType):
        return " or ".join(map(in_words, parts))
    return "a list" if origin in (list, tuple) else "an object"


@cache
def _reader(kind: object) -> Read:
    """The reader of a type, made once."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind is object or kind is Any:
        return lambda value, where: value
    if kind in WORDS:
        return _plain(kind)
    if origin is Annotated:
        return _ruled(_reader(parts[0]), parts[1:])
    if origin is Literal:
        return _chosen(kind, parts)
    if origin in (Union, UnionType):
        return _either(kind, parts)
    if origin in (list, tuple):
        if origin is tuple and parts[-1] is not ...:
            return _row(tuple(map(_reader, parts)))
        return _list(_reader(parts[0]), origin)
    if origin is dict:
        return _dict(_reader(parts[1]))
    assert isinstance(kind, type), f"no type of a schema: {kind!r}"
    return _object(kind)


def _place(where: str, inside: str) -> str:
    if inside.startswith("["):
        return f"{where}{inside}"
    return f"{where}: {inside}" if where else inside


def _refusal(where: str, must: str, value: object) -> InvalidError:
    return InvalidError(f"{where or 'it'} must be {must}, got {shown(value)}")


def _plain(kind: type) -> Read:
    def read(value: object, where: str) -> object:
        if type(value) is kind:
            return value
        if kind is float and type(value) is int:
            return float(value)  # less than WIDEST
        raise _refusal(where, WORDS[kind], value)

    return read


def _ruled(inner: Read, rules: tuple[Rule[Any], ...]) -> Read:
    def read(value: object, where: str) -> object:
        found = inner(value, where)
        for rule in rules:
            if must := rule.wrong(found):
                raise _refusal(where, must, value)
        return found

    return read


def _chosen(kind: object, choices: tuple[object, ...]) -> Read:
    allowed = {(type(each), each) for each in choices}

    def read(value: object, where: str) -> object:
        if isinstance(value, list | dict) or (type(value), value) not in allowed:
            raise _refusal(where, in_words(kind), value)
        return value

    return read


def _either(kind: object, parts: tuple[Any, ...]) -> Read:
    readers = [_reader(part) for part in parts if part is not NoneType]
    null = NoneType in parts

    def read(value: object, where: str) -> object:
        if value is None and null:
            return None
        if len(readers) == 1 and value is not None:
            return readers[0](value, where)  # its message says more: which item is wrong
        for reader in readers:
            try:
                return reader(value, where)
            except InvalidError:
                continue
        raise _refusal(where, in_words(kind), value)

    return read


def _list(item: Read, make: type[list[Any]] | type[tuple[Any, ...]]) -> Read:
    def read(value: object, where: str) -> object:
        if not isinstance(value, list):
            raise _refusal(where, "a list", value)
        return make(item(each, f"{where}[{k}]") for k, each in enumerate(value))

    return read


def _row(items: tuple[Read, ...]) -> Read:
    def read(value: object, where: str) -> object:
        if not isinstance(value, list) or len(value) != len(items):
            raise _refusal(where, f"a list of {len(items)} items", value)
        pairs = enumerate(zip(items, value, strict=True))
        return tuple(item(each, f"{where}[{k}]") for k, (item, each) in pairs)

    return read


def _dict(item: Read) -> Read:
    def read(value: object, where: str) -> object:
        if not isinstance(value, dict):
            raise _refusal(where, "an object", value)
        return {key: item(each, _place(where, key)) for key, each in value.items()}

    return read


def _object(kind: type[Any]) -> Read:
    """The reader of a dataclass, whose fields may be dataclasses in turn."""
    hints = hints_of(kind, include_extras=True)
    parts: list[tuple[str, Read, bool]] = []

    def read(value: object, where: str) -> object:
        if not isinstance(value, dict):
            raise _refusal(where, "an object", value)
        if not parts:  # made at first use: a schema may hold itself
            parts.extend((f.name, _reader(hints[f.name]), _needed(f)) for f in fields(kind))
        found = {}
        for field, reader, needed in parts:
            name = field.rstrip("_")
            if name in value:
                found[field] = reader(value[name], _place(where, name))
            elif needed:
                raise InvalidError(f"{where or 'it'} lacks {name!r}")
        return kind(**found)

    return read


def _needed(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _deeper(value: object, most: int) -> bool:
    """Whether lists and objects lie more than so many levels deep in each other."""
    layer = [value]
    for _ in range(most + 1):
        inner = [each for each in layer if isinstance(each, list | dict)]
        if not inner:
            return False
        layer = [x for each in inner for x in (each.values() if isinstance(each, dict) else each)]
    return True


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for k, name in enumerate(names) if name in names[:k])
        raise InvalidError(f"{shown(twice)} stands twice in one object")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InvalidError(f"{shown(text)} is too large a number")
    return value


def _whole(text: str) -> int:
    value = int(text) if len(text) <= 21 else WIDEST
    if not -WIDEST < value < WIDEST:
        raise InvalidError(f"a whole number of {len(text)} digits is too large")
    return value


def _no_number(text: str) -> float:
    raise InvalidError(f"{text} is no finite number")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_once, parse_float=_finite, parse_int=_whole, parse_constant=_no_number
)
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 50
