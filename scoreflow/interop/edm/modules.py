"""The modules of a record, and their tensors by the dotted names that the original gave them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scoreflow.interop.edm.records import Record
from scoreflow.interop.torch_files import printable

DEEPEST = 20
"""Modules within modules; the original has five."""


class MisfitError(Exception):
    """A network that cannot be had, or a file that contradicts itself; the text says what."""


@dataclass(frozen=True)
class Module:
    """A module, with what is asked of it.

    Attributes:
        name: its dotted name, "" for the outermost.
        record: as it lay in the file.
    """

    name: str
    record: Record

    @property
    def kind(self) -> str:
        """The name of its class, fit for a terminal."""
        return printable(self.record.class_name)

    def has(self, name: str) -> bool:
        """Whether it has an attribute of its own that is not None."""
        return self.record.state.get(name) is not None

    def flag(self, name: str) -> bool:
        """An attribute that is true or false."""
        return bool(self._of_kind(name, (bool,)))

    def whole(self, name: str) -> int:
        """An attribute that is a whole number."""
        return int(self._of_kind(name, (int,)))

    def real(self, name: str) -> float:
        """An attribute that is a number."""
        return float(self._of_kind(name, (int, float)))

    def arguments(self) -> "Arguments":
        """What it was constructed with.

        Raises:
            MisfitError: not by names alone.
        """
        if self.record.state.get("_init_args") != ():
            raise MisfitError(f"{self.kind} was not constructed by named arguments")
        return Arguments(self.kind, self._dict("_init_kwargs"))

    def tensors(self) -> dict[str, Tensor]:
        """Its own parameters and buffers that are not None."""
        both = {**self._dict("_parameters"), **self._dict("_buffers")}
        return {str(k): value for k, value in both.items() if isinstance(value, Tensor)}

    def children(self) -> Iterator["Module"]:
        """The modules directly inside."""
        for name, record in self._dict("_modules").items():
            if isinstance(record, Record):
                yield Module(f"{self.name}.{name}".removeprefix("."), record)

    def _dict(self, name: str) -> dict[Any, Any]:
        found = self.record.state.get(name)
        if type(found) is not dict:
            raise MisfitError(f"{self._where()} has no {name}")
        return found

    def _of_kind(self, name: str, kinds: tuple[type, ...]) -> Any:  # noqa: ANN401
        value = self.record.state.get(name)
        if type(value) not in kinds:
            raise MisfitError(f"{self._where()} has no {kinds[-1].__name__} {name}")
        return value

    def _where(self) -> str:
        return f"{self.kind} {printable(self.name)}".rstrip()


@dataclass(frozen=True)
class Arguments:
    """Named arguments of a constructor.

    Attributes:
        kind: the class that was constructed.
        values: by their names.
    """

    kind: str
    values: dict[Any, Any]

    def whole(self, name: str, default: int | None = None) -> int:
        """A count; MisfitError where it is none, or is missing without default."""
        return self._whole(name, self.values.get(name, default))

    def wholes(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """A list of counts."""
        found = self.values.get(name, default)
        if type(found) not in (list, tuple):
            raise MisfitError(f"{self.kind}'s argument {name} is no list")
        return tuple(self._whole(name, each) for each in found)

    def share(self, name: str, default: float) -> float:
        """A number in [0, 1)."""
        found = self.values.get(name, default)
        if type(found) not in (int, float) or not 0 <= found < 1:
            raise MisfitError(f"{self.kind}'s argument {name} is no number in [0, 1)")
        return float(found)

    def choice(self, name: str, default: str, had: tuple[str, ...]) -> str:
        """One of the names that can be had."""
        found = self.values.get(name, default)
        if found not in had:
            got = printable(found) if isinstance(found, str) else type(found).__name__
            raise MisfitError(f"{self.kind} with {name} = {got} cannot be had ({', '.join(had)})")
        return str(found)

    def _whole(self, name: str, value: object) -> int:
        if type(value) is not int or not 0 <= value < 2**31:
            raise MisfitError(f"{self.kind}'s argument {name} is no count")
        return value


def all_modules(outermost: Record) -> dict[str, Module]:
    """Every module by its dotted name, from the outermost, "", inwards.

    Raises:
        MisfitError: a module lies in two places, or in itself: no file of the original has that,
            and its tree would have no end.
    """
    found: dict[str, Module] = {}
    seen: set[int] = set()

    def visit(module: Module, depth: int) -> None:
        if id(module.record) in seen or depth > DEEPEST:
            raise MisfitError(f"its module {printable(module.name)} lies in more than one place")
        seen.add(id(module.record))
        found[module.name] = module
        for child in module.children():
            visit(child, depth + 1)

    visit(Module("", outermost), 0)
    return found


def all_tensors(modules: dict[str, Module]) -> dict[str, Tensor]:
    """Their tensors by dotted names."""
    return {
        f"{name}.{own}".removeprefix("."): tensor
        for name, module in modules.items()
        for own, tensor in module.tensors().items()
    }
