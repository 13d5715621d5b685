"""The machine for pickles: plain values come out as Python's own unpickler gives them, and a
stream that asks for anything else is refused by name before anything happened.
"""

import copyreg
import io
import os
import pickle
import sys
from pathlib import Path

import pytest

from scoreflow.errors import RequestError
from scoreflow.interop.edm import restricted_pickle
from scoreflow.interop.edm.restricted_pickle import Buildable, load_pickle

ran: list[object] = []
WATCHED = ("os.", "subprocess.", "exec", "compile", "pickle.", "socket.", "ctypes.", "shutil.")
watching = False
seen: list[str] = []


def _watch(event: str, arguments: tuple) -> None:
    if watching and event.startswith(WATCHED):
        seen.append(event)


sys.addaudithook(_watch)
"".encode("raw-unicode-escape")  # its first use imports, and that is an event


def mark(*values: object) -> object:
    """What a hostile stream calls; nothing of it may ever run."""
    ran.append(values)
    return values


class Box(Buildable):
    """A listed name that takes a state."""

    def __init__(self) -> None:
        self.state: object = None

    def build(self, state: object) -> None:
        self.state = state


def pair(first: object, second: object = 2) -> tuple:
    return (first, second)


NAMES = {"listed Box": Box, "listed pair": pair}


def load(stream: bytes, folder: Path) -> object:
    """What the machine makes of a stream, and that Python's audit saw nothing happen."""
    global watching
    (folder / "a.pkl").write_bytes(stream)
    seen.clear()
    watching = True
    try:
        return load_pickle(folder / "a.pkl", NAMES)
    finally:
        watching = False
        assert ran == []
        assert seen == []


def refused(stream: bytes, folder: Path, pattern: str) -> str:
    with pytest.raises(RequestError, match=pattern) as caught:
        load(stream, folder)
    assert str(caught.value).isprintable(), "one line"
    assert len(str(caught.value)) < 400 + len(str(folder))
    return str(caught.value)


# A little assembler: what a stream pushes.


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + len(raw).to_bytes(4, "little") + raw


def a_global(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


BOX = a_global("listed", "Box")


# ---- what plain pickles hold --------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_are_those_of_pickle(tmp_path, protocol):
    shared = [1, 2]
    value = {
        "numbers": [0, -1, 255, 256, 65536, 2**31, -(2**63), 2**70, 1.5, -0.0, float("inf")],
        "texts": ("", "a", "ü\n'\"", "x" * 300),
        "constants": (None, True, False),
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "twice": [shared, shared],
        7: {"nested": {}},
    }
    if protocol >= 3:
        value["bytes"] = [b"", b"ab", b"c" * 300]
    if protocol >= 4:
        value["sets"] = [set(), {1, "a"}]
    found = load(pickle.dumps(value, protocol), tmp_path)
    assert found == value
    assert str(found["numbers"]) == str(value["numbers"])  # -0.0 as well, and ints as ints
    assert found["twice"][0] is found["twice"][1]


def test_a_value_may_contain_itself(tmp_path):
    value: list = []
    value.append(value)
    found = load(pickle.dumps(value), tmp_path)
    assert found[0] is found


def test_listed_names_become_what_they_stand_for(tmp_path):
    assert load(call(a_global("listed", "pair"), text("a")) + b".", tmp_path) == ("a", 2)
    assert load(b"clisted\npair\n(I1\nI5\ntR.", tmp_path) == (1, 5)
    box = load(BOX + b")\x81" + b"}" + text("k") + b"K\x01s" + b"b.", tmp_path)
    assert box.state == {"k": 1}


# ---- what is refused ----------------------------------------------------------------------------


class Reduced:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch WITNESS",), r"(posix|nt)\.system"),
        (eval, ("open('WITNESS', 'w')",), r"(builtins|__builtin__)\.eval"),
        (exec, ("open('WITNESS', 'w')",), r"(builtins|__builtin__)\.exec"),
        (open, ("WITNESS", "w"), r"_?io\.open"),
        (getattr, ({}, "clear"), r"(builtins|__builtin__)\.getattr"),
        (__import__, ("this",), r"(builtins|__builtin__)\.__import__"),
        (mark, (1,), r"[\w.]+\.mark"),
    ],
)
def test_a_function_to_be_called_is_refused_by_name(tmp_path, protocol, function, arguments, name):
    witness = tmp_path / "witness"
    put = [a.replace("WITNESS", str(witness)) if isinstance(a, str) else a for a in arguments]
    value = {"a": 1, "b": [Reduced(function, *put)]}
    message = refused(pickle.dumps(value, protocol), tmp_path, rf"asks for {name}, ")
    assert "nothing in the file was run" in message
    assert not witness.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("listed", "Box.__init__"),
        ("listed", "Box.build.__globals__"),
        ("listed", "Box "),
        ("listed ", "Box"),
        ("", "listed Box."),
        ("scoreflow.interop.edm.restricted_pickle", "load_pickle"),
        ("importlib", "import_module"),
        ("operator", "attrgetter"),
        ("functools", "partial"),
        ("types", "FunctionType"),
        ("builtins", "object"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("numpy", "load"),
        ("pickle", "loads"),
        ("copyreg", "_reconstructor"),
        ("_codecs", "encode"),
    ],
)
def test_every_other_name_is_refused(tmp_path, module, name):
    shown = f"{module} {name}".replace(" ", ".")
    for stream in (a_global(module, name), b"c" + f"{module}\n{name}\n".encode()):
        message = refused(b"\x80\x04" + stream + b".", tmp_path, "asks for .*, which is neither")
        assert f" asks for {shown}, " in message


def test_a_name_made_of_other_things_than_text(tmp_path):
    refused(b"K\x01K\x02\x93.", tmp_path, "name is no text")
    refused(text("listed") + b"]\x93.", tmp_path, "name is no text")


def test_a_name_cannot_write_on_the_terminal(tmp_path):
    refused(a_global("\x1b[2J\r\nall is well", "\u202egnp") + b".", tmp_path, r"asks for \\x1b")
    refused(a_global("a" * 100_000, "b") + b".", tmp_path, r"asks for a+\.\.\.,")


@pytest.mark.parametrize(
    ("stream", "name"),
    [
        (b"P1\n.", "PERSID"),
        (text("1") + b"Q.", "BINPERSID"),
        (b"(" + BOX + b"o.", "OBJ"),
        (BOX + b")}\x92.", "NEWOBJ_EX"),
        (b"\x96" + (3).to_bytes(8, "little") + b"abc.", "BYTEARRAY8"),
        (b"\x97.", "NEXT_BUFFER"),
        (text("a") + b"2.", "DUP"),
        (b"(K\x01\x91.", "FROZENSET"),
        (b"(1.", "POP_MARK"),
        (b"(ilisted\nBox\n.", "INST"),
    ],
)
def test_other_instructions_are_refused(tmp_path, stream, name):
    refused(stream, tmp_path, rf"asks for the instruction {name}, ")


def test_a_protocol_zero_instance_is_refused_by_its_name(tmp_path):
    witness = tmp_path / "witness"
    refused(f"(S'touch {witness}'\nios\nsystem\n.".encode(), tmp_path, r"asks for os\.system, ")
    assert not witness.exists()


def test_extension_codes_reach_nothing_though_they_are_registered(tmp_path):
    copyreg.add_extension(__name__, "mark", 240)
    try:
        assert pickle.loads(b"\x82\xf0.") is mark  # and in the cache, where no find_class looks
        codes = {b"\x82": 1, b"\x83": 2, b"\x84": 4}
        for code, length in codes.items():
            stream = code + (240).to_bytes(length, "little") + b")R."
            refused(stream, tmp_path, r"asks for the instruction EXT\d, ")
    finally:
        copyreg.remove_extension(__name__, "mark", 240)
        copyreg._extension_cache.pop(240, None)


@pytest.mark.parametrize(
    "function",
    [
        call(BOX),  # a record
        text("os.system"),
        b"K\x01",
        b"N",
        b"}",
        call(a_global("listed", "pair"), BOX),  # a tuple with a name inside
    ],
)
def test_only_a_listed_name_is_called(tmp_path, function):
    refused(function + b"(tR.", tmp_path, "a call of what is no listed name")
    refused(function + b")\x81.", tmp_path, "a call of what is no listed name")


def test_arguments_must_be_a_tuple_and_fit(tmp_path):
    refused(a_global("listed", "pair") + b"]R.", tmp_path, "a call of what is no listed name")
    refused(a_global("listed", "pair") + b")R.", tmp_path, "damaged one")
    refused(a_global("listed", "pair") + b"(K\x01K\x02K\x03tR.", tmp_path, "damaged one")


@pytest.mark.parametrize(
    "target",
    [
        BOX,  # the name itself: a state would set attributes of the class
        a_global("listed", "pair"),
        text("a"),
        b"}",
        b"]",
        b"N",
    ],
)
@pytest.mark.parametrize(
    "state",
    [
        b"}" + text("__defaults__") + b"Ns",
        b"N}" + text("__class__") + b"Ns\x86",  # (None, slots)
        b"}" + text("__setstate__") + b"Ns",
    ],
)
def test_a_state_changes_nothing_but_a_record(tmp_path, target, state):
    before = dict(vars(Box)), pair.__defaults__
    refused(target + state + b"b.", tmp_path, "the instruction BUILD")
    assert (dict(vars(Box)), pair.__defaults__) == before


def test_a_state_is_kept_as_it_is(tmp_path):
    state = b"}" + text("__class__") + text("x") + b"s" + text("__setstate__") + text("y") + b"s"
    box = load(call(BOX) + state + b"b.", tmp_path)
    assert type(box) is Box
    assert box.state == {"__class__": "x", "__setstate__": "y"}
    assert vars(box).keys() == {"state"}


# ---- streams that only cost ---------------------------------------------------------------------


def test_a_billion_laughs_are_a_few_lists(tmp_path):
    # Each list holds the one before ten times: 10^200 leaves, if anyone were to walk them.
    stream = b"]\x94" + b"".join(
        b"](" + 10 * (b"j" + k.to_bytes(4, "little")) + b"e\x94" for k in range(200)
    )
    found = load(b"\x80\x04" + stream + b".", tmp_path)
    assert len(found) == 10
    assert all(each is found[0] for each in found)


def test_a_place_in_the_memo_costs_what_it_holds(tmp_path):
    assert load(text("a") + b"r" + b"\xff" * 4 + b"0j" + b"\xff" * 4 + b".", tmp_path) == "a"
    assert load(text("a") + b"p" + b"9" * 4000 + b"\n.", tmp_path) == "a"
    refused(b"j" + b"\xff" * 4 + b".", tmp_path, "damaged one")


def test_deep_nesting_neither_overflows_nor_is_hashed(tmp_path):
    deep = b")" + b"\x85" * 300_000
    assert type(load(deep + b".", tmp_path)) is tuple
    refused(b"}" + deep + b"K\x01s.", tmp_path, "key that is no text or number but tuple")
    refused(b"\x8f(" + deep + b"\x90.", tmp_path, "key that is no text or number but tuple")
    assert type(load(b"]" * 300_000 + b"a" * 299_999 + b".", tmp_path)) is list
    refused(b"(" * 300_000 + b".", tmp_path, "damaged one")


def test_a_key_that_cannot_be_hashed(tmp_path):
    refused(b"}]K\x01s.", tmp_path, "but list")
    refused(b"}" + call(BOX) + b"K\x01s.", tmp_path, "but Box")


@pytest.mark.parametrize("code", [b"\x8e", b"\x8d"])  # BINBYTES8, BINUNICODE8
@pytest.mark.parametrize("length", [2**40, 2**62, 2**64 - 1])
def test_a_length_beyond_the_file_takes_no_memory(tmp_path, code, length):
    refused(code + length.to_bytes(8, "little") + b"abc.", tmp_path, "damaged one")


def test_numbers_of_a_million_digits(tmp_path):
    refused(b"I" + b"9" * 1_000_000 + b"\n.", tmp_path, "damaged one")
    refused(b"L" + b"9" * 1_000_000 + b"L\n.", tmp_path, "damaged one")


def test_instructions_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(restricted_pickle, "MOST_INSTRUCTIONS", 1000)
    assert load(b"N0" * 400 + b"N.", tmp_path) is None
    refused(b"N0" * 500 + b"N.", tmp_path, "more than 1000 instructions")


@pytest.mark.parametrize(
    "stream",
    [
        b".",  # nothing on the stack
        b"t.",
        b"e.",
        b"s.",
        b"K\x01s.",
        b"R.",
        b"\x93.",
        b"b.",
        b"\x94.",
        b"\x85.",
        b"K\x01\x86.",
        b"0.",
        b"h\x05.",
        b"K\x01(K\x01u.",
        b"}(K\x01u.",  # a key without value
        b"K\x01(K\x01e.",
        b"](K\x01\x90.",
        b"K\x01K\x02a.",
    ],
)
def test_streams_that_make_no_sense(tmp_path, stream):
    refused(stream, tmp_path, "no pickle of a network, or a damaged one")


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"hello", b"<html></html>", bytes(range(256)), b"\x00" * 1000, b"PK\x03\x04abc"],
)
def test_files_that_are_no_pickles(tmp_path, content):
    refused(content, tmp_path, r"a\.pkl is no pickle of a network, or a damaged one")


def test_every_truncation_is_refused(tmp_path):
    stream = pickle.dumps({"a": [1, 2.5, "x", b"y" * 300, (None, True)], "b": {3, 4}}, protocol=4)
    for length in range(len(stream)):
        refused(stream[:length], tmp_path, "damaged one")


def test_what_follows_the_end_is_not_read(tmp_path):
    stream = io.BytesIO()
    pickle.dump([1], stream)
    pickle.dump(Reduced(mark, 1), stream)
    assert load(stream.getvalue(), tmp_path) == [1]


def test_a_folder_and_a_missing_file(tmp_path):
    with pytest.raises(RequestError, match="cannot be read"):
        load_pickle(tmp_path, NAMES)
    with pytest.raises(RequestError, match="cannot be read"):
        load_pickle(tmp_path / "none.pkl", NAMES)
