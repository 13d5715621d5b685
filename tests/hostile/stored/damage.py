"""Damaged copies of a file: what a torn write, a bad disk, an editor or another tool leaves."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Hurt = Callable[[Path], None]
"""Damages the file at a path."""
TOO_LARGE = "1" + "0" * 400
DEEP = 200_000
MARK = "THE MARK OF A VALUE"
FATAL = ("empty", "torn", "garbage", "not UTF-8", "folder", "null", "list", "text", "deep")
"""Damages of a whole file after which no JSON object is left of it."""


def _bytes(make: Callable[[bytes], bytes]) -> Hurt:
    return lambda path: path.write_bytes(make(path.read_bytes())) and None


def _becomes(data: bytes) -> Hurt:
    return lambda path: path.write_bytes(data) and None


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


WHOLE: dict[str, Hurt] = {
    "empty": _bytes(lambda data: b""),
    "torn": _bytes(lambda data: data[: len(data) // 2]),
    "garbage": _bytes(lambda data: bytes(k * 73 % 256 for k in range(len(data)))),
    "not UTF-8": _bytes(lambda data: data[:9] + b"\xff\xfe" + data[9:]),
    "folder": _folder,
    "gone": Path.unlink,
    "null": _bytes(lambda data: b"null\n"),
    "list": _bytes(lambda data: b"[1, 2]\n"),
    "text": _bytes(lambda data: b'"text"\n'),
    "deep": _bytes(lambda data: b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"\n"),
    "twice": _bytes(lambda data: data + data),
}
"""By name; what any file may suffer."""
LINES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "a line twice": lambda lines: [*lines[:2], *lines[1:]],
    "lines in another order": lambda lines: [lines[0], *reversed(lines[1:])],
    "a line missing": lambda lines: [lines[0], *lines[2:]],
    "a line empty": lambda lines: [*lines[:1], b"\n", *lines[1:]],
    "a line torn": lambda lines: [*lines[:1], lines[1][: len(lines[1]) // 2] + b"\n", *lines[2:]],
    "a line of null": lambda lines: [*lines[:1], b"null\n", *lines[2:]],
    "a line a list": lambda lines: [*lines[:1], b"[1]\n", *lines[2:]],
    "the last line cut off": lambda lines: [*lines[:-1], lines[-1][:-5]],
    "a deep line": lambda lines: [*lines[:1], b"[" * DEEP + b"]" * DEEP + b"\n", *lines[2:]],
}
"""By name; what a file of lines may suffer."""


def _values(old: object) -> dict[str, str]:
    """By name, what may stand in the place of a value, as JSON."""
    found = {
        "null": "null",
        "NaN": "NaN",
        "too large": TOO_LARGE,
        "1e999": "1e999",
        "a list": "[[1]]",
        "an object": '{"a": {}}',
        "deep": "[" * DEEP + "]" * DEEP,
        "a half character": '"\\ud800"',
    }
    if isinstance(old, str):
        return {**found, "a number": "7"}
    if isinstance(old, bool):
        return {**found, "a text": '"x"'}
    if isinstance(old, int | float):
        return {**found, "a text": '"x"', "true": "true", "negative": "-3", "a fraction": "0.37"}
    return {**found, "a number": "7", "a text": '"x"', "empty": "[]"}


def places(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place in a JSON value; of a list its first item."""
    if path:
        yield path
    inside: Any = ()
    if isinstance(value, dict):
        inside = value.items()
    elif isinstance(value, list):
        inside = list(enumerate(value))[:1]
    for key, each in inside:
        yield from places(each, (*path, key))


def _text(whole: Any, place: tuple[str | int, ...], new: str | None) -> bytes:
    """JSON with another value at a place; None removes it."""
    whole = json.loads(json.dumps(whole))
    holder = whole
    for key in place[:-1]:
        holder = holder[key]
    if new is None:
        del holder[place[-1]]
        return json.dumps(whole).encode()
    holder[place[-1]] = MARK
    return json.dumps(whole).replace(f'"{MARK}"', new).encode()


def of_json(whole: Any) -> Iterator[tuple[str, bytes]]:
    """Name and content of every damage of one value in a JSON object."""
    for place in places(whole):
        where, old = ": ".join(map(str, place)), whole
        for key in place:
            old = old[key]
        yield f"{where} missing", _text(whole, place, None)
        for name, new in _values(old).items():
            yield f"{where} {name}", _text(whole, place, new)


def of_file(path: Path) -> Iterator[tuple[str, Hurt]]:
    """Name and doing of every damage of a file."""
    yield from WHOLE.items()
    if path.suffix == ".json":
        for name, data in of_json(json.loads(path.read_bytes())):
            yield name, _becomes(data)
    elif path.suffix == ".jsonl":
        lines = path.read_bytes().splitlines(keepends=True)
        if len(lines) > 2:
            for name, change in LINES.items():
                yield name, _becomes(b"".join(change(lines)))
        for name, data in of_json(json.loads(lines[-1])):
            yield name, _becomes(b"".join([*lines[:-1], data + b"\n"]))
