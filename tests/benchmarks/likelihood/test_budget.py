"""What is made of z-scores."""

import math

import pytest
import torch

from benchmarks.likelihood.budget.z_scores import _row, section


def test_students_law_is_taken_off_and_the_errors_are_those_of_normal_numbers():
    """Of n normal numbers: sd / sqrt(n) of the mean, sd / sqrt(2 n) of the standard deviation."""
    count, freedom = 20_000, 30
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(count, generator=generator, dtype=torch.float64)
    z = normal * math.sqrt(freedom / (freedom - 2))
    row = _row("solver", z.tolist(), freedom)
    assert abs(row["mean"]) < 4 * row["mean_error"]
    assert abs(row["sd"] - 1) < 4 * row["sd_error"]
    assert row["mean_error"] == pytest.approx(1 / math.sqrt(count), rel=0.03)
    assert row["sd_error"] == pytest.approx(1 / math.sqrt(2 * count), rel=0.05)
    assert f"| solver | {count} |" in "\n".join(section([row]))
