"""The two-sample test on laws that are equal, far apart and copied; what needs no model."""

import math

import pytest
import torch

from scoreflow.evaluation import distances
from scoreflow.evaluation.nearest_neighbours import (
    histogram_bits_per_dim,
    nearest_classes,
    nearest_labels,
    precision_recall,
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


def test_wide_noise_has_the_ideal_accuracy_and_the_worst_rate():
    """Noise lies closer to the data than to itself, and the data closer to themselves."""
    generator = torch.Generator().manual_seed(0)
    real, noise = (scale * torch.randn(100, 256, generator=generator) for scale in (1.0, 4.0))
    found = two_sample_accuracy(noise, real)
    assert (found["samples_recognised"], found["real_recognised"]) == (0.0, 1.0)
    assert found["accuracy"] == 0.5
    assert found["told_apart"] == 0.5
    assert found["told_apart_error"] == pytest.approx(rate_error(1.0, 100))


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


# ---- in blocks


def levels_of(n, seed):
    """Images of few levels, so that many are equally near."""
    drawn = torch.randint(3, (n, 2, 3, 4), generator=torch.Generator().manual_seed(seed))
    return (100 * drawn).to(torch.uint8)


class OnDisk:
    """Images of which only slices are in memory: the most elements that were at a time."""

    def __init__(self, values):
        self.values, self.shape, self.most = values, values.shape, 0

    def __len__(self):
        return len(self.values)

    def __getitem__(self, rows):
        found = self.values[rows]
        self.most = max(self.most, found.numel())
        return found


def whole_distances(x, y):
    """Between all pairs, from integers, without rounding but for the root."""
    x, y = (z.long().flatten(1) for z in (x, y))
    return (x[:, None] - y[None]).square().sum(2).double().sqrt()


@pytest.mark.parametrize("elements", [1, 7 * 24, 1 << 21])
def test_blocks_of_any_size_find_what_the_whole_matrix_has(elements, monkeypatch):
    monkeypatch.setattr(distances, "BLOCK_ELEMENTS", elements)
    x, y, labels = levels_of(23, 0), levels_of(61, 1), torch.arange(61) % 7
    apart = whole_distances(x, y)
    found, index = distances.nearest(x, y)
    assert torch.equal(found, apart.min(1).values)
    assert torch.equal(index, apart.argmin(1))  # the first of equals
    assert torch.equal(nearest_labels(x, y, labels), labels[apart.argmin(1)])
    own = whole_distances(y, y).fill_diagonal_(math.inf)
    found, index = distances.nearest(y, y, apart=True)
    assert torch.equal(found, own.min(1).values)
    assert torch.equal(index, own.argmin(1))


@pytest.mark.parametrize("elements", [1, 7 * 24, 1 << 21])
def test_precision_and_recall_in_blocks(elements, monkeypatch):
    monkeypatch.setattr(distances, "BLOCK_ELEMENTS", elements)
    x, y = levels_of(23, 2), levels_of(31, 3)
    apart = whole_distances(x, y)
    reach_x, reach_y = (whole_distances(z, z).sort(1).values[:, 3] for z in (x, y))
    found = precision_recall(x, y)
    assert found["precision"] == float((apart <= reach_y[None]).any(1).double().mean())
    assert found["recall"] == float((apart <= reach_x[:, None]).any(0).double().mean())


def test_no_more_of_a_data_set_is_in_memory_than_a_block(monkeypatch):
    monkeypatch.setattr(distances, "BLOCK_ELEMENTS", 10 * 24)
    there, labels = OnDisk(levels_of(400, 4)), torch.arange(400) % 3
    samples = levels_of(5, 5)
    alike = nearest_classes(samples, there.values, labels)
    assert nearest_classes(samples, there, labels) == alike
    assert there.most == 10 * 24
    bits = histogram_bits_per_dim(there.values, there.values[:3], 256)
    assert histogram_bits_per_dim(OnDisk(there.values), there.values[:3], 256) == bits
