"""The two-sample test on laws that are equal, far apart and copied; what needs no model."""

import math

import pytest
import torch

from scoreflow.evaluation.nearest_neighbours import (
    histogram_bits_per_dim,
    nearest_classes,
    two_sample_accuracy,
)
from scoreflow.uncertainty import rate_error


def gaussian(n, seed, shift=0.0):
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(seed)) + shift


def test_equal_laws_cannot_be_told_apart():
    found = two_sample_accuracy(gaussian(600, 0), gaussian(600, 1))
    assert abs(found["accuracy"] - 0.5) < 4 * found["standard_error"]
    assert found["standard_error"] == pytest.approx((0.25 / 1200) ** 0.5, rel=0.02)
    assert found["num_each"] == 600


def test_laws_far_apart_are_told_apart():
    found = two_sample_accuracy(gaussian(50, 0), gaussian(50, 1, shift=100.0))
    assert found["accuracy"] == found["samples_recognised"] == found["real_recognised"] == 1
    assert found["standard_error"] == rate_error(1.0, 100)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_rate_of_none_or_all_is_not_certain(rate):
    assert rate_error(rate, 2) == pytest.approx(math.sqrt(2 / 6 * 4 / 6 / 6))
    assert 0 < rate_error(rate, 10_000) < 2e-4


def test_a_histogram_knows_each_pixel_alone():
    train = torch.tensor([[[0, 2]], [[0, 1]], [[1, 2]]], dtype=torch.uint8)  # two pixels, L = 4
    test = torch.tensor([[[0, 2]], [[3, 0]]], dtype=torch.uint8)
    value, error = histogram_bits_per_dim(train, test, 4)
    first, second = -math.log2(3 / 7), -math.log2(1 / 7)  # levels had twice, and never
    assert value == pytest.approx((first + second) / 2)
    assert error == pytest.approx(abs(first - second) / 2)


def test_a_histogram_of_much_uniform_data_has_the_bits_of_a_uniform_law():
    levels = torch.randint(8, (9000, 1, 2, 2), generator=torch.Generator().manual_seed(0))
    value, error = histogram_bits_per_dim(levels[:5000], levels[5000:], 8)
    assert value == pytest.approx(3, abs=4e-3)
    assert error < 1e-3
    assert histogram_bits_per_dim(levels[:5000], levels[5000:5001], 8)[1] == 0  # unknown of one


def test_copies_of_the_data_are_found_out():
    real = gaussian(50, 0)
    assert two_sample_accuracy(real + 1e-6, real)["accuracy"] == 0


def test_collapsed_samples_are_recognised_and_real_ones_not():
    real = gaussian(400, 0)
    found = two_sample_accuracy(0.01 * gaussian(400, 1), real)
    assert found["samples_recognised"] > 0.99


def test_integer_levels_and_images_are_compared_as_numbers():
    levels = torch.tensor([[[[0, 250]]], [[[255, 3]]]], dtype=torch.uint8)
    assert two_sample_accuracy(levels, levels + 0.1)["accuracy"] == 0


def test_unequal_numbers_are_refused():
    with pytest.raises(ValueError, match="got 3 and 4"):
        two_sample_accuracy(gaussian(3, 0), gaussian(4, 0))


def test_nearest_classes():
    real = torch.tensor([[0.0], [1.0], [10.0], [20.0]])
    labels = torch.tensor([0, 0, 2, 4])
    samples = torch.tensor([[0.4], [0.9], [9.0], [11.0], [100.0], [-5.0]])
    assert nearest_classes(samples, real, labels) == [3, 0, 2, 0, 1]
