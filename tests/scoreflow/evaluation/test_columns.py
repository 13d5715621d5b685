"""The best of a column is marked, with what chance does not tell from it."""

import pytest

from scoreflow.evaluation.columns import COLUMNS, GUIDANCE, LEAST, MOST, Column, told_apart
from scoreflow.uncertainty import rate_error


def best(target, values, errors=None):
    column = Column("it", "it", "it", target=target)
    rows = [{} if value is None else {"it": value} for value in values]
    for row, error in zip(rows, errors or [], strict=False):
        row["it_error"] = error
    return [k for k, marked in enumerate(column.best(rows)) if marked]


@pytest.mark.parametrize(
    ("target", "expected"), [(LEAST, [1]), (MOST, [2]), (0.5, [0]), (1.0, [2]), (None, [])]
)
def test_the_nearest_to_the_target_is_the_best(target, expected):
    assert best(target, [0.4, 0.1, 0.9, None]) == expected


def test_equal_ones_are_marked_together_but_not_all():
    assert best(LEAST, [1.0, 2.0, 1.0]) == [0, 2]
    assert best(LEAST, [1.0, 1.0]) == []
    assert best(LEAST, [1.0]) == []
    assert best(LEAST, [None, None]) == []


def test_ties_are_within_one_standard_error_of_the_difference():
    assert best(LEAST, [1.0, 1.49, 1.51, 2.0], [0.3, 0.4, 0.4, 0.0]) == [0, 1]
    assert best(LEAST, [1.0, 1.1], [None, None]) == [0]


def test_every_row_that_is_marked_has_a_value():
    assert best(LEAST, [None, 1.0, 2.0]) == [1]


def test_what_ranks_samplers_has_a_target():
    targets = {column.key: column.target for column in COLUMNS}
    assert all(targets[key] == LEAST for key in ("fid", "wasserstein", "feature_distance"))
    assert targets["told_apart"] == LEAST
    assert targets["two_sample"] is None  # noise has its ideal of 0.5
    assert {column.key for column in GUIDANCE if column.target is None} == {"nfe"}


def test_numbers_and_errors_as_text():
    column = Column("it", "it", "it", ".2f")
    assert column.text({"it": 1.234, "it_error": 0.056}, "±") == "1.23 ± 0.06"
    assert column.text({"it": 1.234}) == "1.23"
    assert column.text({"it": None}) == column.text({}) == ""
    assert Column("it", "it", "it", "").text({"it": 12.345, "it_error": 0.12}) == "12.35 +- 0.12"


def test_the_worse_rate_counts_also_in_results_older_than_it():
    noise = {"accuracy": 0.5, "samples_recognised": 0.0, "real_recognised": 1.0}
    assert told_apart(noise) == (0.5, None)
    sides = {"samples_recognised": 0.45, "real_recognised": 0.75, "num_each": 40}
    assert told_apart(sides) == (0.25, rate_error(0.75, 40))
    assert told_apart({**sides, "told_apart": 0.1, "told_apart_error": 0.2}) == (0.1, 0.2)
