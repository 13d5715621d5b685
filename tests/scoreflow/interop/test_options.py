"""What a reader asks: which answers are taken, and which are refused."""

import math

import pytest

from scoreflow.errors import RequestError
from scoreflow.interop.openai import reader as openai
from scoreflow.interop.options import Asked, answers
from scoreflow.interop.score_sde.recipes import ASKED as SCORE_SDE

ASKED = (*openai.ASKED, *SCORE_SDE)


@pytest.mark.parametrize("asked", ASKED, ids=lambda each: each.name)
def test_a_default_may_be_said_as_well(asked):
    if asked.default is not None:
        assert answers("made", (asked,), {asked.name: asked.default}) == answers(
            "made", (asked,), {}
        )


def test_whole_numbers_are_numbers():
    found = Asked("dropout", float, "its dropout", 0.0).accept(0)
    assert (found, type(found)) == (0.0, float)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.5])
@pytest.mark.parametrize("default", [None, 0.0, 0.1])
def test_numbers_that_are_none_are_refused(value, default):
    with pytest.raises(RequestError, match="option beta must be a finite number") as refusal:
        Asked("beta", float, "its beta", default).accept(value)
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize(("kind", "default"), [(int, None), (int, 32), (float, 0.1)])
def test_zero_is_refused_where_it_is_not_the_default(kind, default):
    with pytest.raises(RequestError, match=r"above 0 \(its count\), got 0"):
        Asked("count", kind, "its count", default).accept(0)


@pytest.mark.parametrize("kind", [int, float])
def test_whole_numbers_that_no_double_is_are_refused(kind):
    with pytest.raises(RequestError, match=r"option count must be below 2\^53"):
        Asked("count", kind, "its count").accept(10**400)
