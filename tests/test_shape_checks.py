"""The checks of shapes that are made once a kind of call refuse what jaxtyping's own refuse."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jaxtyping
import pytest
import torch
from beartype import beartype
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from scoreflow.samplers.ddim import DDIM
from scoreflow.sde.processes.vp import VPSDE
from tests import shape_checks

ONE, TWO, PLANE = torch.zeros(1), torch.zeros(2), torch.zeros(2, 3)


def add(
    x: Float[Tensor, "batch *event"], y: Float[Tensor, "batch *event"], way: Literal["a", "b"]
) -> Float[Tensor, "batch *event"]:
    return x + y


def answer(x: Float[Tensor, "batch"], out: Any) -> Float64[Tensor, "batch"]:
    return out


def pair(x: Float[Tensor, "batch"], out: Any) -> tuple[Int64[Tensor, "batch"], str | None]:
    return out


def several(xs: Sequence[Float[Tensor, "batch"]], limit: float = 1.0, *, n: int = 0) -> None:
    return None


def named(xs: Mapping[str, Float[Tensor, "batch"]], of: type[Tensor]) -> None:
    return None


def counted(x: Float[Tensor, "batch"]) -> Iterator[float]:
    yield from x.tolist()


CALLS: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = [
    (add, (TWO, TWO, "a"), {}),
    (add, (TWO, TWO), {"way": "b"}),
    (add, (TWO, TWO, "c"), {}),
    (add, (TWO, ONE, "a"), {}),
    (add, (PLANE, PLANE, "a"), {}),
    (add, (PLANE, PLANE.T, "a"), {}),
    (add, (TWO.long(), TWO, "a"), {}),
    (add, (TWO.double(), TWO, "a"), {}),
    (add, (TWO.numpy(), TWO, "a"), {}),
    (add, (torch.nn.Parameter(TWO), TWO, "a"), {}),
    (answer, (TWO, TWO.double()), {}),
    (answer, (TWO, TWO), {}),
    (answer, (TWO, ONE.double()), {}),
    (answer, (TWO, None), {}),
    (answer, (TWO,), {"out": TWO.double()}),
    (pair, (TWO, (TWO.long(), "a")), {}),
    (pair, (TWO, (TWO.long(), None)), {}),
    (pair, (TWO, (TWO.long(), 1)), {}),
    (pair, (TWO, (TWO, "a")), {}),
    (pair, (TWO, (ONE.long(), "a")), {}),
    (pair, (TWO, [TWO.long(), "a"]), {}),
    (pair, (TWO, (TWO.long(), "a", "a")), {}),
    (several, ([TWO, TWO],), {}),
    (several, ((TWO,), 2.0), {"n": 1}),
    (several, ([TWO], "2"), {}),
    (several, ([TWO],), {"n": 1.0}),
    (several, ([TWO], 2.0), {"limit": 1.0}),
    (several, ([PLANE],), {}),
    (several, ([],), {}),
    (named, ({"a": TWO}, Tensor), {}),
    (named, ({"a": PLANE}, Tensor), {}),
    (named, ({1: TWO}, Tensor), {}),
    (named, ({"a": TWO}, float), {}),
    (counted, (TWO,), {}),
    (counted, (PLANE,), {}),
]


def outcome(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    try:
        function(*args, **kwargs)
    except (jaxtyping.TypeCheckError, TypeError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "passes"


def test_what_jaxtyping_refuses_is_refused_at_every_call_and_in_its_words():
    """Three times over, so that each call comes before and after every other."""
    functions = {function for function, _, _ in CALLS}
    whole = {each: shape_checks.CHECK(each, typechecker=beartype) for each in functions}
    once = {each: shape_checks.jaxtyped(each, typechecker=beartype) for each in functions}
    expected = [outcome(whole[each], args, kwargs) for each, args, kwargs in CALLS]
    assert expected.count("passes") == 14
    for _ in range(3):
        for (each, args, kwargs), told in zip(CALLS, expected, strict=True):
            assert outcome(once[each], args, kwargs) == told


def test_a_call_is_checked_once_a_kind(monkeypatch: pytest.MonkeyPatch):
    checks: list[str] = []

    def count(function: Callable[..., Any], typechecker: Any) -> Callable[..., Any]:
        def checked(*args: Any, **kwargs: Any) -> Any:
            checks.append(function.__name__)
            return function(*args, **kwargs)

        return checked

    monkeypatch.setattr(shape_checks, "CHECK", count)
    once = shape_checks.jaxtyped(answer, typechecker=beartype)
    for _ in range(5):  # ten calls of one kind
        assert [once(torch.ones(3), each) for each in (1, 2)] == [1, 2]
    assert len(checks) == 1
    for _ in range(5):  # the same arguments but for another result
        once(torch.ones(3), 1.0)
        once(torch.ones(4), 1)
    assert len(checks) == 3
    for _ in range(5):  # a dictionary is looked at each time
        once(torch.ones(3), {})
    assert len(checks) == 8


def test_methods_properties_and_dataclasses_are_checked():
    checked = shape_checks.jaxtyped(typechecker=beartype)

    @checked
    @dataclass(frozen=True)
    class Held:
        x: Float[Tensor, "batch"]

        @classmethod
        @checked
        def of(cls, x: Float[Tensor, "batch"]) -> int:
            return len(x)

        @staticmethod
        @checked
        def size(x: Float[Tensor, "batch"]) -> int:
            return len(x)

        @property
        @checked
        def half(self) -> Float[Tensor, "batch"]:
            return self.x if len(self.x) > 1 else self.x[0]

    @checked
    class Longer(Held):
        pass

    for each in (Held, Longer):
        good = each(TWO)
        assert each.of(TWO) == each.size(TWO) == len(good.half) == 2
        for wrong in (
            lambda of=each: of(PLANE),
            lambda of=each: of.of(PLANE),
            lambda of=each: of.size(PLANE),
            lambda of=each: of(ONE).half,
        ):
            with pytest.raises(jaxtyping.TypeCheckError):
                wrong()


def test_the_processes_and_the_samplers_are_checked():
    """In every test, after calls that passed: by the hook that tests/conftest.py installs."""
    process = VPSDE.linear(200)
    assert process.alpha(torch.ones(3, dtype=torch.float64)).shape == (3,)
    for wrong in (1.0, torch.ones(3, 2), torch.ones(3, dtype=torch.complex64)):
        with pytest.raises(jaxtyping.TypeCheckError):
            process.alpha(wrong)
    with pytest.raises(jaxtyping.TypeCheckError):
        DDIM(eta="0")
