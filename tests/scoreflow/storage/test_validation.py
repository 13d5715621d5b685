"""JSON within limits, and schemas as dataclasses."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from scoreflow.errors import RequestError
from scoreflow.storage.atomic_files import load_json, load_object
from scoreflow.storage.validation import (
    DEEPEST,
    InvalidError,
    Length,
    Range,
    conform,
    parse_as,
    parse_json,
)


@dataclass(frozen=True)
class Inner:
    name: str
    share: Annotated[float, Range(0, 1)] = 0.5


@dataclass(frozen=True)
class Outer:
    step: Annotated[int, Range(0)]
    nats: Annotated[tuple[float, ...], Length(1)]
    inner: Inner
    status: Literal["done", "failed"] = "done"
    seen: bool | None = None
    mixed: int | str = 0
    pair: tuple[int, str] = (0, "")
    named: dict[str, list[int]] | None = None
    rest: object = None


WHOLE: dict[str, Any] = {"step": 3, "nats": [1, 2.5], "inner": {"name": "a"}}


def test_a_whole_object():
    found = conform({**WHOLE, "pair": [1, "b"], "named": {"x": [1]}, "newer": 5}, Outer)
    assert found == Outer(3, (1.0, 2.5), Inner("a"), pair=(1, "b"), named={"x": [1]})
    assert type(found.nats[0]) is float
    assert conform({**WHOLE, "mixed": "a", "seen": None, "rest": [{}]}, Outer).rest == [{}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": 3.0}, r"^step must be a whole number, got 3\.0$"),
        ({"step": True}, "^step must be a whole number, got True$"),
        ({"step": None}, "^step must be a whole number, got None$"),
        ({"step": -1}, "^step must be at least 0, got -1$"),
        ({"nats": [1.0, "x"]}, r"^nats\[1\] must be a number, got 'x'$"),
        ({"nats": [False]}, r"^nats\[0\] must be a number, got False$"),
        ({"nats": []}, r"^nats must be of at least 1 items, got \[\]$"),
        ({"nats": {}}, "^nats must be a list, got {}$"),
        ({"inner": [1]}, r"^inner must be an object, got \[1\]$"),
        ({"inner": {}}, "^inner lacks 'name'$"),
        ({"inner": {"name": "a", "share": 2}}, "^inner: share must be at least 0 and at most 1"),
        ({"status": "x"}, "^status must be 'done' or 'failed', got 'x'$"),
        ({"status": []}, "^status must be 'done' or 'failed'"),
        ({"seen": 1}, "^seen must be true or false, got 1$"),
        ({"mixed": 1.5}, r"^mixed must be a whole number or a text, got 1\.5$"),
        ({"pair": [1]}, r"^pair must be a list of 2 items"),
        ({"pair": [1, 2]}, r"^pair\[1\] must be a text, got 2$"),
        ({"named": {"x": [None]}}, r"^named: x\[0\] must be a whole number, got None$"),
    ],
)
def test_what_is_refused(change: dict[str, Any], message: str):
    with pytest.raises(InvalidError, match=message):
        conform({**WHOLE, **change}, Outer)


def test_a_missing_field():
    with pytest.raises(InvalidError, match=r"^it lacks 'step'$"):
        parse_as(b"{}", Outer)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is not JSON"),
        (b'{"a": ', "it is not JSON"),
        (b"\xff\x00", "byte 0 is not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "is not UTF-8"),
        (b'{"a": NaN}', "NaN is no finite number"),
        (b'{"a": -Infinity}', "-Infinity is no finite number"),
        (b'{"a": 1e999}', "'1e999' is too large a number"),
        (b'{"a": 1' + b"0" * 400 + b"}", "401 digits is too large"),
        (b'{"a": 1' + b"0" * 9000 + b"}", "9001 digits is too large"),
        (b'{"a": 18446744073709551616}', "20 digits is too large"),
        (b'{"a": 1, "a": 2}', "'a' stands twice"),
        (b"[" * 200_000 + b"]" * 200_000, "nested more than 64 deep"),
        (b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1), "nested more than 64 deep"),
        (b'{"a":' * 200_000, "nested more than 64 deep"),
    ],
)
def test_no_json(data: bytes, message: str):
    with pytest.raises(InvalidError, match=message) as caught:
        parse_json(data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_the_deepest_and_the_largest():
    data = b"[" * DEEPEST + b"]" * DEEPEST
    value = parse_json(data)
    for _ in range(DEEPEST - 1):
        (value,) = value
    assert value == []
    assert parse_json(b"[" + b"[1]," * 100 + b"[1]]") == [[1]] * 101
    assert parse_json(b"18446744073709551615") == 2**64 - 1
    assert parse_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}  # as some editors save it


def test_a_value_in_a_message_is_short():
    with pytest.raises(InvalidError) as caught:
        conform({**WHOLE, "step": [["x" * 1000] * 1000] * 1000}, Outer)
    assert len(str(caught.value)) < 120


def test_files(tmp_path: Path):
    path = tmp_path / "a.json"
    with pytest.raises(RequestError, match=r"^there is none$"):
        load_object(path, Inner, "there is none", "make it")
    path.write_text('{"name": 5}')
    with pytest.raises(
        RequestError, match=r"a\.json is damaged \(name must be a text, got 5\): make it$"
    ):
        load_object(path, Inner, "", "make it")
    path.write_text('{"name": "b"}')
    assert load_object(path, Inner, "", "") == Inner("b")
    assert load_json(path, "", "") == {"name": "b"}
    path.unlink()
    path.mkdir()
    with pytest.raises(RequestError, match=r"cannot be read \(Is a directory\): make it"):
        load_object(path, Inner, "", "make it")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders here")
def test_a_pipe_keeps_nobody_waiting(tmp_path: Path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(RequestError, match="it is no regular file"):
        load_json(tmp_path / "a.json", "", "make it")
