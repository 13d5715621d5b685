"""Scores learn from the reference alone, and are what they say."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from scoreflow.likelihood.detection import table
from scoreflow.likelihood.detection.scores import Score


def columns(seed, n, shift=0.0, names="ab"):
    drawn = np.random.default_rng(seed).normal(shift, 1.0, (len(names), n))
    return {name: torch.from_numpy(drawn[k]) for k, name in enumerate(names)}


def test_a_value_is_itself_and_a_distance_has_no_direction():
    known, other = columns(0, 50), columns(1, 20)
    assert torch.equal(Score("x", ("a",), "value").learned(known)(other), other["a"])
    found = Score("x", ("a",), "distance").learned(known)(other)
    assert torch.equal(found, (other["a"] - known["a"].mean()).abs())
    mirrored = {name: 2 * known[name].mean() - other[name] for name in other}
    again = Score("x", ("a",), "distance").learned(known)(mirrored)
    torch.testing.assert_close(again, found)


def test_a_mean_of_z_is_in_deviations_of_the_reference():
    known = columns(0, 60)
    far = {name: known[name].mean() + 3 * known[name].std()[None] for name in known}
    found = Score("x", ("a", "b"), "mean z").learned(known)(far)
    assert float(found) == pytest.approx(3.0, abs=1e-9)


def test_a_density_is_that_of_the_gaussian_which_the_reference_has():
    """Of 50 images one component is all that their number allows, whose density scipy knows."""
    known, other = columns(0, 50), columns(1, 9)
    found = Score("x", ("a", "b"), "density").learned(known)(other)
    matrix = torch.stack(list(known.values()), 1).numpy()
    mean, spread = matrix.mean(0), matrix.std(0, ddof=1)
    standard = (matrix - mean) / spread
    covariance = np.cov(standard.T, bias=True) + 1e-3 * np.eye(2)
    law = multivariate_normal(standard.mean(0), covariance)
    asked = (torch.stack(list(other.values()), 1).numpy() - mean) / spread
    np.testing.assert_allclose(found.numpy(), -law.logpdf(asked), rtol=1e-9)


def test_two_groups_are_seen_as_two():
    """Between the groups of a reference lies nothing ordinary, though its mean lies there."""
    groups = torch.cat([torch.randn(200, generator=torch.Generator().manual_seed(k)).double() * 0.1
                        + place for k, place in enumerate((-1.0, 1.0))])  # fmt: skip
    judge = Score("x", ("a",), "density").learned({"a": groups})
    middle, inside = judge({"a": torch.tensor([0.0, 1.0], dtype=torch.float64)}).tolist()
    assert middle > inside + 5


def test_a_column_that_never_moves_is_left_out():
    known = {**columns(0, 40, names="a"), "b": torch.full((40,), 2.0).double()}
    other = {"a": torch.zeros(3).double(), "b": torch.tensor([2.0, 5.0, -9.0]).double()}
    found = Score("x", ("a", "b"), "density").learned(known)(other)
    assert found.isfinite().all()
    assert torch.equal(found, found[:1].expand(3))
    alone = Score("x", ("b",), "density").learned(known)(other)
    assert torch.equal(alone, torch.zeros(3).double())


SCORES = (
    Score("value", ("a",), "value"),
    Score("distance", ("a",), "distance"),
    Score("z", ("a", "b"), "mean z"),
    Score("density", ("a", "b"), "density"),
)


@pytest.mark.parametrize("score", SCORES, ids=lambda each: each.by)
def test_no_score_depends_on_another_set(score):
    """Other sets in another order, fewer, or negated: what is known of a set stays the same.

    Nor on the test set, but for what it is held against.
    """
    known, test = columns(0, 80), columns(1, 40)
    one, two = columns(2, 30, 1.0), columns(3, 30, -1.0)
    row, values = table.judged(score, known, test, {"one": one, "two": two})
    other = {name: -each for name, each in two.items()}
    swapped, again = table.judged(score, known, test, {"three": other, "one": one})
    assert swapped["sets"]["one"] == row["sets"]["one"]
    assert swapped["shift"] == row["shift"]
    for name in ("", "one"):
        assert torch.equal(values[name], again[name])
    _, alone = table.judged(score, known, columns(4, 25, 2.0), {"one": one})
    assert torch.equal(alone["one"], values["one"])
    assert row["worst"]["auroc"] == min(each["auroc"] for each in row["sets"].values())


def test_a_shift_between_reference_and_test_set_is_seen_by_images_that_taught_nothing():
    """A density fitted on few images of many dimensions knows those, and no others, too well."""
    names = "abcdefghijklmnop"
    score = Score("density", tuple(names), "density")
    known, test = columns(0, 60, names=names), columns(1, 200, names=names)
    same = table.judged(score, known, test, {"x": columns(2, 20, names=names)})[0]["shift"]
    assert abs(same["auroc"] - 0.5) < 2 * same["standard_error"]
    fooled = score.learned(known)
    taught = {name: values[1::2] for name, values in known.items()}
    found, error = table.auroc(fooled(taught), fooled(test))
    assert found - 0.5 > 3 * error
    moved = columns(1, 200, 2.0, names)
    apart = table.judged(score, known, moved, {"x": test})[0]
    assert apart["shift"]["auroc"] > 0.8
    assert table.shifted([apart]) == [apart]


def test_a_histogram_has_all_of_each_set_and_no_outlier_hides_it():
    scores = {"": torch.linspace(0, 1, 101).double(), "far": torch.tensor([0.5, 1e9]).double()}
    drawn = table.histogram(scores)
    assert max(drawn["middles"]) < 10
    for shares in drawn["shares"].values():
        assert sum(shares) == pytest.approx(1.0)
    assert drawn["shares"]["far"][-1] == 0.5
    alike = table.histogram({"": torch.ones(3).double(), "x": torch.ones(2).double()})
    assert sum(alike["shares"]["x"]) == pytest.approx(1.0)
