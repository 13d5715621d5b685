"""Differences in pairs, against scipy's."""

import math

import pytest
import scipy.stats
import torch

from scoreflow.comparison.paired import Pair, chance_of_one, mark, of_all, pairs_of, to, turned


def values(count=40, shift=0.0):
    draws = torch.Generator().manual_seed(1)
    common = 3 * torch.randn(count, generator=draws, dtype=torch.float64)
    own = torch.randn(count, generator=draws, dtype=torch.float64)
    return {"a": common, "b": common + 0.1 * own + shift}


def test_the_error_is_that_of_a_paired_test():
    found = values(shift=0.2)
    (pair,) = pairs_of(found, {"a": 0.0, "b": 0.0})
    test = scipy.stats.ttest_rel(found["a"].numpy(), found["b"].numpy())
    assert pair.value / pair.standard_error == pytest.approx(test.statistic, rel=1e-12)
    apart = scipy.stats.ttest_ind(found["a"].numpy(), found["b"].numpy())
    assert abs(test.statistic) > 5 * abs(apart.statistic)  # what pairs are for


def test_a_difference_is_marked_beyond_two_errors_and_what_the_solvers_may_move():
    apart = torch.tensor([0.0, 1.0] * 8, dtype=torch.float64)  # mean 0.5
    error = float(apart.std() / 4)
    zero = torch.zeros(16, dtype=torch.float64)
    for solver, larger in ((0.0, True), (0.5 - 2 * error - 1e-9, True), (0.5 - 2 * error, False)):
        (pair,) = pairs_of({"a": apart, "b": zero}, {"a": solver, "b": 0.0})
        assert pair.solver == solver
        assert pair.larger == larger
        assert mark(pair) == ("**" if larger else "")  # one pair is all pairs


def test_the_threshold_of_all_pairs_keeps_the_chance_of_one():
    for data in (2, 8, 360):
        assert of_all(1, data) == pytest.approx(2, rel=1e-9)
        one = 2 * scipy.stats.t.sf(2, data - 1)
        assert chance_of_one(data) == pytest.approx(one, rel=1e-9)
        for count in (3, 10, 45):
            each = 2 * scipy.stats.t.sf(of_all(count, data), data - 1)
            assert count * each == pytest.approx(one, rel=1e-9)
    assert of_all(10, 10**7) == pytest.approx(scipy.stats.norm.isf(scipy.stats.norm.sf(2) / 10))


@pytest.mark.parametrize("data", [3, 6])
def test_few_data_mark_any_of_equal_models_no_more_often_than_one_pair(data):
    # five equal models, ten pairs: normal quantiles would mark more of them
    draws, trials = torch.Generator().manual_seed(3), 4000
    common = torch.randn(trials, 1, data, generator=draws, dtype=torch.float64)
    models = common + torch.randn(trials, 5, data, generator=draws, dtype=torch.float64)
    one = any_ = 0
    for each in models:
        found = pairs_of(dict(zip("abcde", each, strict=True)), dict.fromkeys("abcde", 0.0))
        one += found[0].larger
        any_ += any(pair.larger_of_all for pair in found)
    chance = chance_of_one(data)
    error = math.sqrt(chance * (1 - chance) / trials)
    assert one / trials == pytest.approx(chance, abs=4 * error)
    assert any_ / trials < chance + 4 * error


def test_one_pair_of_many_may_be_marked_alone():
    draws = torch.Generator().manual_seed(2)
    noise = torch.randn(400, generator=draws, dtype=torch.float64)
    noise = (noise - noise.mean()) / noise.std()
    common = torch.zeros_like(noise)
    found = {"a": common, "b": noise + 2.2 / 20, "c": common}  # 2.2 errors from a, of three pairs
    pairs = pairs_of(found, dict.fromkeys(found, 0.0))
    marks = {(pair.first, pair.second): mark(pair) for pair in pairs}
    assert marks == {("a", "b"): "*", ("a", "c"): "", ("b", "c"): "*"}


def test_a_pair_has_two_sides():
    pair = Pair("a", "b", 0.25, 0.1, 0.0, True, False)
    assert turned(pair).value == -0.25
    assert to("b", "a", [pair]) == pair
    assert to("a", "b", [pair]) == turned(pair)
    assert to("a", "a", [pair]) is None


def test_one_datum_knows_no_error():
    one = torch.ones(1, dtype=torch.float64)
    (pair,) = pairs_of({"a": one, "b": 2 * one}, {"a": 0.0, "b": 0.0})
    assert (pair.value, pair.standard_error, pair.larger) == (-1.0, None, False)


def test_other_numbers_of_data_are_no_pairs():
    with pytest.raises(ValueError, match="equal data"):
        pairs_of({"a": torch.zeros(3), "b": torch.zeros(4)}, {"a": 0.0, "b": 0.0})
