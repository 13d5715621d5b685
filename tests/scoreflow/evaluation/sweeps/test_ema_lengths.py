"""Averages told apart: differences in pairs, their errors, and what is called better."""

import math

import pytest
import torch

from scoreflow.evaluation.sweeps.ema_lengths import Scored, check_row, metric_of, summarised, table
from scoreflow.storage.validation import InvalidError

IMAGES = 16


def scored(name, nll, **metrics):
    length = None if name == "raw" else float(name)
    off = None if length is None else 0.01
    return Scored(name, length, off, "0" * 64, nll, {"case": name, "told_apart": 0.3, **metrics})


def spread():
    """Likelihoods of images that differ by far more than averages do."""
    return 3 + torch.arange(IMAGES, dtype=torch.float64)


def alternating(size):
    """Differences of mean 0: their mean's standard error is size / sqrt(n - 1)."""
    return size * torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(IMAGES // 2)


@pytest.mark.parametrize(("by", "verdict"), [(0.0101, "worse"), (0.0099, "not told apart")])
def test_likelihoods_are_told_apart_in_pairs(by, verdict):
    """The images' own spread, of error 1.2, is in none of it."""
    error = 0.005
    noise = alternating(error * math.sqrt(IMAGES - 1))
    best, other = scored("0.05", spread()), scored("0.1", spread() + by + noise)
    rows = summarised([other, best])
    assert [row["name"] for row in rows] == ["0.1", "0.05"]
    assert rows[0]["nll_difference"] == pytest.approx(by, rel=1e-9)
    assert rows[0]["nll_difference_error"] == pytest.approx(error, rel=1e-9)
    assert rows[0]["nll_verdict"] == verdict
    assert rows[1]["nll_verdict"] == "best"
    assert (rows[1]["nll_difference"], rows[1]["nll_difference_error"]) == (0.0, 0.0)
    of_images = float(spread().std()) / math.sqrt(IMAGES)
    assert rows[1]["nll_error"] == pytest.approx(of_images, rel=1e-12)


@pytest.mark.parametrize(("fid", "verdict"), [(20.6, "worse"), (20.4, "not told apart")])
def test_samples_are_told_apart_by_both_errors(fid, verdict):
    """2 sqrt(0.15^2 + 0.2^2) = 0.5."""
    rows = summarised(
        [
            scored("0.05", spread(), fid=20.0, fid_error=0.15),
            scored("raw", spread() + 1, fid=fid, fid_error=0.2),
        ]
    )
    assert rows[0]["sample_verdict"] == "best"
    assert rows[1]["sample_difference"] == pytest.approx(fid - 20)
    assert rows[1]["sample_difference_error"] == pytest.approx(0.25)
    assert rows[1]["sample_verdict"] == verdict
    assert (rows[1]["nll_verdict"], rows[1]["length"]) == ("worse", None)


def test_samples_are_ranked_by_the_first_metric_that_there_is():
    assert metric_of({"told_apart": 0.1, "feature_distance": None}).key == "told_apart"
    assert metric_of({"told_apart": 0.1, "feature_distance": 2.0}).key == "feature_distance"
    assert metric_of({"told_apart": 0.1, "fid": 9.0, "wasserstein": 0.2}).key == "wasserstein"


def test_the_table_has_a_line_each_and_errors_of_two_digits():
    rows = summarised(
        [scored("0.05", spread()), scored("raw", spread() + alternating(0.01) + 0.1)]
    )
    lines = table(rows, "bits/dim").splitlines()
    assert len(lines) == 3
    assert "bits/dim" in lines[0]
    assert "1.0%" in lines[1]
    assert "best" in lines[1]
    assert "0.1000 +- 0.0026" in lines[2]
    assert "worse" in lines[2]


def test_rows_are_held_against_their_schema():
    row = {
        "case": "0.05", "weights": "0" * 64, "sampler": "dpm", "budget": 5, "nfe": 5.0,
        "seconds": 1.0, "num_images": 8, "network": {"precision": "float32", "compiled": False},
    }  # fmt: skip
    check_row(row)
    for change in ({"weights": "0"}, {"nfe": -1.0}, {"told_apart": "much"}, {"budget": 0}):
        with pytest.raises(InvalidError):
            check_row({**row, **change})
