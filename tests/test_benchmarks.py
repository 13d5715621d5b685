"""What the benchmarks conclude from their numbers."""

import pytest

from benchmarks import table2


def row(bound, two_sample, exact=2.0):
    each = [bound - 0.5, bound + 0.5] * 50
    return {
        "prediction": "eps", "objective": "simple", "variance": "beta",
        "bound": bound, "bound_error": 0.05, "bound_each": each,
        "exact": exact, "exact_error": 0.05, "exact_each": each,
        "two_sample": two_sample, "two_sample_error": 0.01,
    }  # fmt: skip


def test_published_orderings_are_judged_by_their_errors():
    rows = [row(2.5, 0.9), row(2.5, 0.8), row(2.5, 0.9), row(2.5, 0.8), row(2.0, 0.8)]
    rows += [row(2.1, 0.6), row(2.2, 0.6)]
    said = table2.verdicts(rows)
    assert "best samples: reproduced" in said[0]
    assert "equal samples: reproduced" in said[1]
    assert "worse samples: reproduced" in said[2]
    assert "(Table 1): reproduced" in said[3]  # in pairs, for the images' spread is common
    assert "Dhariwal): contradicted" in said[4]
    assert len(table2.table(rows).splitlines()) == 2 + len(table2.CELLS)


def test_differences_without_pairs_add_their_errors():
    gap, error = table2._difference(row(1.0, 0.9), row(1.0, 0.8), "two_sample")
    assert gap == pytest.approx(0.1)
    assert error == pytest.approx(0.01 * 2**0.5)


def test_a_flow_that_was_not_solved_is_no_verdict():
    rows = [row(2.0, 0.6, exact=None) for _ in table2.CELLS]
    assert any("not solved" in line for line in table2.verdicts(rows))
    assert "not solved" in table2.table(rows)
