"""Pickles read by a machine of our own, which calls nothing that a pickle names.

A pickle is a program for a machine with a stack: its instructions build plain values, name a
global of any module, and call what they named. Python's unpickler obeys; leaving names out of its
`find_class` still lets a pickle change the functions that are left (their defaults, say), and its
extension codes pass `find_class` by. Here each instruction is carried out by a line below, a name
stands for a function that the caller gives, and whatever is not on the list is refused by name as
soon as it is met. What comes out are plain values, and the records that those functions make.
"""

import mmap
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn, cast

from scoreflow.errors import RequestError
from scoreflow.interop.torch_files import (
    ForbiddenNameError,
    first_line,
    open_file,
    printable,
    refusal,
)

MOST_INSTRUCTIONS = 5_000_000
"""Of one pickle. A network of a thousand tensors has fifty thousand; each makes an object."""

Maker = Callable[..., object]
"""What a name may stand for: plain arguments in, a plain value or a record out."""
_KEYS = (str, int, float, bytes, type(None))
_PUSHED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE"),
    *("BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
"""Instructions whose argument is the value."""
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_STORE = {"PUT", "BINPUT", "LONG_BINPUT"}
_FETCH = {"GET", "BINGET", "LONG_BINGET"}


class Buildable:
    """A record whose content comes by BUILD, after it was made."""

    def build(self, state: object) -> None:
        """Take the content; ValueError where it is none."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class _Name:
    """A name of the list, on the stack."""

    make: Maker


def load_pickle(path: str | Path, names: Mapping[str, Maker]) -> object:
    """What a pickle holds, nothing in it executed.

    Args:
        path: the file.
        names: the globals that it may ask for, "module name", and what is called in their place
            with the arguments of the pickle. They raise ForbiddenNameError or, on arguments that
            do not fit, any other exception.

    Returns:
        None, bool, int, float, str, bytes, list, tuple, set, dict, and what the makers return. It
        may contain itself, and the same object many times.

    Raises:
        RequestError: it cannot be read, is damaged or no pickle, or asks for anything else.
    """
    try:
        with open_file(path) as stream:
            return _run(stream, names)
    except ForbiddenNameError as error:
        raise RequestError(refusal(path, str(error))) from error
    except RequestError:
        raise
    except Exception as error:  # whatever pickletools and a maker raise on a damaged stream
        raise RequestError(
            f"{path} is no pickle of a network, or a damaged one ({first_line(error)}): compare "
            "its size with the original's, and download it again"
        ) from error


def _run(stream: IO[bytes], names: Mapping[str, Maker]) -> object:
    # A file that claims a string of 2^60 bytes gets what there is: mapped memory ends.
    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        machine = _Machine(names)
        for count, (opcode, argument, _) in enumerate(
            pickletools.genops(cast(IO[bytes], content))
        ):
            if opcode.name == "STOP":
                return machine.answer()
            if count >= MOST_INSTRUCTIONS:
                raise ValueError(f"more than {MOST_INSTRUCTIONS} instructions")
            machine.step(opcode.name, argument)
    raise AssertionError("genops ends at STOP, or raises")


class _Machine:
    """The stack, the stacks below each open mark, and the memo.

    Args:
        names: as for `load_pickle`.
    """

    def __init__(self, names: Mapping[str, Maker]) -> None:
        self.names = names
        self.stack: list[object] = []
        self.below: list[list[object]] = []
        self.memo: dict[int, object] = {}

    def answer(self) -> object:
        """The value on top at the end."""
        return self.stack.pop()

    def step(self, name: str, argument: object) -> None:
        """Carry out one instruction.

        Raises:
            ForbiddenNameError: it is none of those listed, or names a global that is not.
        """
        if name in _PUSHED:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            self._tuple(_TUPLES[name])
        elif name in _STORE or name == "MEMOIZE":
            key = len(self.memo) if name == "MEMOIZE" else _whole(argument)
            self.memo[key] = self.stack[-1]
        elif name in _FETCH:
            self.stack.append(self.memo[_whole(argument)])
        elif name in ("GLOBAL", "INST"):
            self._global(str(argument))
            if name == "INST":
                _forbid("the instruction INST")
        elif name in _OTHERS:
            _OTHERS[name](self)
        elif name not in ("PROTO", "FRAME"):
            _forbid(f"the instruction {name}")

    def _global(self, name: str) -> None:
        make = self.names.get(name)
        if make is None:
            _forbid(printable(name.replace(" ", ".")))
        self.stack.append(_Name(make))

    def _stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise ValueError("a global whose name is no text")
        self._global(f"{module} {name}")

    def _call(self) -> None:
        """REDUCE and NEWOBJ: what was named, of the arguments."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not _Name or type(arguments) is not tuple:
            raise ValueError("a call of what is no listed name")
        self.stack.append(function.make(*arguments))

    def _build(self) -> None:
        state, record = self.stack.pop(), self.stack[-1]
        if not isinstance(record, Buildable):
            _forbid("the instruction BUILD on what takes no state")
        record.build(state)

    def _mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def _since_mark(self) -> list[object]:
        """The values since the last mark, taken off with it."""
        found, self.stack = self.stack, self.below.pop()
        return found

    def _tuple(self, length: int) -> None:
        if len(self.stack) < length:
            raise ValueError("a tuple of more values than there are")
        self.stack[-length:] = [tuple(self.stack[-length:])]

    def _tuple_since_mark(self) -> None:
        values = tuple(self._since_mark())
        self.stack.append(values)

    def _list_since_mark(self) -> None:
        values = self._since_mark()
        self.stack.append(values)

    def _dict_since_mark(self) -> None:
        values = self._since_mark()
        self.stack.append({})
        self._set(values)

    def _extend(self, values: list[object]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise ValueError("values appended to what is no list")
        target.extend(values)

    def _set(self, values: list[object]) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            raise ValueError("items set in what is no dict")
        for key, value in zip(map(_plain, values[::2]), values[1::2], strict=True):
            target[key] = value

    def _add(self) -> None:
        values, target = self._since_mark(), self.stack[-1]
        if type(target) is not set:
            raise ValueError("values added to what is no set")
        target.update(map(_plain, values))

    def _set_one(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _pop(self) -> None:
        self.stack.pop()


_OTHERS: dict[str, Callable[[_Machine], None]] = {
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._call,
    "NEWOBJ": _Machine._call,
    "BUILD": _Machine._build,
    "MARK": _Machine._mark,
    "TUPLE": _Machine._tuple_since_mark,
    "LIST": _Machine._list_since_mark,
    "DICT": _Machine._dict_since_mark,
    "APPEND": lambda machine: machine._extend([machine.stack.pop()]),
    "APPENDS": lambda machine: machine._extend(machine._since_mark()),
    "SETITEM": _Machine._set_one,
    "SETITEMS": lambda machine: machine._set(machine._since_mark()),
    "ADDITEMS": _Machine._add,
    "POP": _Machine._pop,
}


def _forbid(name: str) -> NoReturn:
    raise ForbiddenNameError(name)


def _whole(argument: object) -> int:
    assert isinstance(argument, int), "pickletools makes it one"
    return argument


def _plain(key: object) -> object:
    """A key whose hash is at hand: that of a tuple a million deep would end the process."""
    if not isinstance(key, _KEYS):
        raise ValueError(f"a key that is no text or number but {type(key).__name__}")
    return key
