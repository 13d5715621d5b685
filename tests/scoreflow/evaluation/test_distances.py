"""Distances against closed forms, and their errors against the scatter over repeats."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from scoreflow.evaluation import distances
from scoreflow.evaluation.distances import (
    class_counts,
    energy_distance,
    frechet_distance,
    nearest_distances,
    total_variation,
    wasserstein,
)
from scoreflow.sde.noise import Noise, Stream
from scoreflow.uncertainty import jackknife, mean_and_error, ratio, standard_error


def normal(n, seed, dim=3):
    return Noise.of(seed, 0, n).normal(Stream.DATA, (dim,))


def test_the_jackknife_of_a_mean_is_its_standard_error():
    """One datum a block: the textbook formula of a mean of pairs, to rounding."""
    x, y = normal(40, 0, 1), 3 * normal(40, 1, 1)
    found = jackknife(lambda a, b: float(a.mean() - b.mean()), x, y, blocks=40)
    assert found == pytest.approx(math.sqrt(float((x - y).var()) / 40), rel=1e-9)


@pytest.mark.parametrize(
    ("statistic", "high"),
    [
        (frechet_distance, 1.25),
        (wasserstein, 1.5),  # Efron & Stein: too large in the mean, if anything
        (lambda x, y: total_variation(classes_of(x), classes_of(y)), 1.4),
    ],
)
def test_the_error_is_the_scatter_over_repeats(statistic, high):
    repeats = [(normal(200, k), 1.3 * normal(200, 1000 + k) + 0.5) for k in range(100)]
    scatter = np.std([statistic(x, y) for x, y in repeats], ddof=1)
    told = np.mean([jackknife(statistic, x, y) for x, y in repeats[:20]])
    assert 0.75 < told / scatter < high


def classes_of(x):
    return (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0.7).long()


def test_the_order_of_the_data_is_no_part_of_the_error():
    """Every tenth of one class: blocks that followed the order would each be a class."""
    x = normal(200, 0, 1) * 0.01 + 10.0 * (torch.arange(200) % 10)[:, None]
    found = jackknife(lambda a, b: float(a.mean()), x, x)
    assert found == pytest.approx(float(x.std()) / 200**0.5, rel=0.6)  # 9 degrees of freedom
    followed = torch.stack([x[torch.arange(200) % 10 != k].mean() for k in range(10)])
    assert float((0.9 * (followed - followed.mean()).square().sum()).sqrt()) > 3 * found


def test_energy_distance_is_zero_in_the_mean_for_equal_laws_and_known_for_others():
    """For N(0, 1) and N(m, 1), with X - Y ~ N(m, 2): 2 E|X - Y| - 2 E|X - X'| in closed form."""
    x, y = normal(4096, 0, 1), normal(4096, 1, 1)
    value, error = energy_distance(x, y)
    assert abs(value) < 4 * error
    m = torch.tensor(1.0, dtype=torch.float64)
    folded = (4 / torch.pi) ** 0.5 * torch.exp(-(m**2) / 4) + m * torch.erf(m / 2)
    expected = float(2 * folded - 2 * (4 / torch.pi) ** 0.5)
    value, error = energy_distance(x, y + 1)
    assert value == pytest.approx(expected, abs=4 * error)


@pytest.mark.parametrize("count", [4, 13, 25, 50, 57])
def test_energy_distance_has_an_error_whatever_the_count(count):
    """No block may be of one datum, which has no mate."""
    x, y = torch.randn(2, count, 3, generator=torch.Generator().manual_seed(0)).double()
    value, error = distances.energy_distance(x, y + 5, blocks=max(2, min(8, count // 2)))
    assert value > 1
    assert 0 < error < value


def test_wasserstein_of_a_shift_is_its_length():
    """Moving every point by one vector is optimal, in whatever order the points come."""
    x = normal(300, 0)
    shift = torch.tensor([0.3, -0.4, 1.2], dtype=torch.float64)
    assert wasserstein(x, x.flip(0) + shift) == pytest.approx(1.3, rel=1e-12)
    assert wasserstein(x, x.roll(7, 0)) == 0


def test_wasserstein_on_the_line_matches_the_sorted():
    x, y = normal(500, 0, 1), 2 * normal(500, 1, 1) + 1
    sorted_ = (x.sort(0).values - y.sort(0).values).square().mean().sqrt()
    assert wasserstein(x, y) == pytest.approx(float(sorted_), rel=1e-12)
    with pytest.raises(ValueError, match="equal sets, got 3 and 4"):
        wasserstein(x[:3], y[:4])


def test_wasserstein_tends_to_that_of_the_laws():
    """N(0, I) and N(m, s^2 I) in the plane: W2^2 = |m|^2 + 2 (s - 1)^2."""
    x, y = normal(512, 0, 2), 1.5 * normal(512, 1, 2) + 2
    expected = math.sqrt(2 * 2**2 + 2 * 0.5**2)
    assert wasserstein(x, y) == pytest.approx(expected, abs=4 * jackknife(wasserstein, x, y))


def test_frechet_distance_is_that_of_the_gaussians():
    """Against scipy's matrix square root on the sets' own moments."""
    x, y = (
        normal(50, 0, 5),
        normal(80, 1, 5)
        @ torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    )
    a, b = np.cov(x.numpy().T), np.cov(y.numpy().T)
    root = scipy.linalg.sqrtm(a @ b)
    apart = x.numpy().mean(0) - y.numpy().mean(0)
    expected = apart @ apart + np.trace(a + b - 2 * root.real)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)


def with_moments(n, seed, mean, covariance):
    """Data that have this mean and covariance exactly."""
    x = normal(n, seed, len(mean))
    whitened = torch.linalg.solve_triangular(
        torch.linalg.cholesky(x.T.cov()), (x - x.mean(0)).T, upper=False
    )
    return mean + (torch.linalg.cholesky(covariance) @ whitened).T


def test_frechet_distance_of_gaussians_whose_covariances_do_not_commute():
    """In the plane tr (C C')^(1/2) = (tr(C C') + 2 sqrt(det C det C'))^(1/2), Cayley-Hamilton."""
    one = torch.tensor([[2.0, 0.6], [0.6, 1.0]], dtype=torch.float64)
    other = torch.tensor([[0.5, -0.4], [-0.4, 3.0]], dtype=torch.float64)
    assert not torch.allclose(one @ other, other @ one)
    means = torch.tensor([[0.0, 1.0], [3.0, -1.0]], dtype=torch.float64)
    x, y = with_moments(40, 0, means[0], one), with_moments(60, 1, means[1], other)
    root = ((one @ other).trace() + 2 * (one.det() * other.det()).sqrt()).sqrt()
    expected = float(9 + 4 + one.trace() + other.trace() - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_of_fewer_data_than_features():
    """Covariances of rank 1 and 2: one axis against a plane, by hand; scipy's root has 1e-8."""
    x = torch.zeros(2, 6, dtype=torch.float64)
    x[:, 0] = torch.tensor([-1.0, 1.0])  # covariance 2 e_0 e_0^T
    y = torch.zeros(3, 6, dtype=torch.float64)
    y[:, 0] = torch.tensor([2.0, -1.0, -1.0])  # covariance diag(3, 1, 0, ...)
    y[:, 1] = torch.tensor([0.0, 1.0, -1.0])
    assert frechet_distance(x, y) == pytest.approx(2 + 3 + 1 - 2 * math.sqrt(6), rel=1e-12)
    few, many = normal(4, 0, 9), normal(7, 1, 9)
    a, b = np.cov(few.numpy().T), np.cov(many.numpy().T)
    apart = few.numpy().mean(0) - many.numpy().mean(0)
    root = np.sqrt(np.clip(np.linalg.eigvals(a @ b).real, 0, None)).sum()
    expected = apart @ apart + np.trace(a + b) - 2 * root
    assert frechet_distance(few, many) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_equal_sets_is_zero_and_of_a_shift_its_square():
    x = normal(100, 0, 4)
    assert frechet_distance(x, x.flip(0)) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(x, x + 2) == pytest.approx(16, rel=1e-9)
    few = normal(3, 0, 8)  # fewer data than features: singular covariances
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-12)


def test_nearest_distances_find_copies_in_any_block(monkeypatch):
    monkeypatch.setattr(distances, "BLOCK_ELEMENTS", 7 * 64)
    levels = torch.randint(256, (50, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    levels = levels.to(torch.uint8)
    changed = levels[:4].clone()
    changed[0, 0, 0, 0] ^= 4
    found = nearest_distances(changed, levels)
    assert found.tolist() == [4, 0, 0, 0]


def test_ratio_and_its_error():
    """Against the quotient of many noisy numbers."""
    a, b = 2 + 0.02 * normal(20_000, 0, 1), 4 + 0.08 * normal(20_000, 1, 1)
    value, error = ratio((2, 0.02), (4, 0.08))
    assert value == 0.5
    assert error == pytest.approx(float((a / b).std()), rel=0.03)
    assert ratio((1, 0.1), (0, 0)) is None
    mean, of_mean = mean_and_error(a.flatten())
    assert mean == pytest.approx(2, abs=4 * of_mean)
    assert of_mean == pytest.approx(0.02 / 20_000**0.5, rel=0.02)
    assert standard_error(a.flatten()) == of_mean
    assert standard_error(a[0]) is None


def test_total_variation():
    one, other = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 3, 3, 3, 3, 3])
    assert total_variation(one, other) == pytest.approx((0.375 + 0 + 0.25 + 0.625) / 2)
    assert total_variation(one, one.flip(0)) == 0
    assert total_variation(torch.zeros(3, dtype=int), torch.ones(5, dtype=int)) == 1


def test_too_few_for_an_error_is_refused():
    with pytest.raises(ValueError, match="two data of each set, got 1 and 9"):
        jackknife(frechet_distance, normal(1, 0), normal(9, 0))


def test_data_without_a_class_do_not_count():
    labels = torch.tensor([0, -1, 2, 2, -1])
    assert class_counts(labels) == [1, 0, 2]
    assert class_counts(labels, 5) == [1, 0, 2, 0, 0]
    assert total_variation(labels, torch.tensor([0, 2, 2])) == 0
    assert total_variation(labels, torch.tensor([0, 0, -1])) == pytest.approx(2 / 3)
