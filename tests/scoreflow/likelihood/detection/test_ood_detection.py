"""AUROC against its definition and against scikit-learn, and the PNG code against what it is."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from scoreflow.likelihood.detection.ood_detection import auroc, detection, effort, png_bits_per_dim


def draws(n, shift, seed, ties=False):
    x = torch.from_numpy(np.random.default_rng(seed).normal(shift, 1, n))
    return x.round() if ties else x


@pytest.mark.parametrize("ties", [False, True])
def test_area_is_that_of_scikit_learn(ties):
    ordinary, other = draws(70, 0, 0, ties), draws(50, 0.7, 1, ties)
    labels = [0] * 70 + [1] * 50
    expected = roc_auc_score(labels, torch.cat([ordinary, other]).numpy())
    assert auroc(ordinary, other)[0] == pytest.approx(expected, abs=1e-12)
    assert auroc(other, ordinary)[0] == pytest.approx(1 - expected, abs=1e-12)


def test_scores_apart_are_told_and_equal_ones_are_not():
    one, ten = torch.arange(5.0), torch.arange(10.0, 16.0)
    assert auroc(one, ten) == (1.0, 0.0)
    assert auroc(ten, one) == (0.0, 0.0)
    assert auroc(torch.ones(4), torch.ones(3)) == (0.5, 0.0)


def test_the_stated_error_is_that_of_many_repetitions():
    found = [auroc(draws(60, 0, k), draws(40, 0.8, 1000 + k)) for k in range(400)]
    values, errors = np.array(found).T
    assert errors.mean() == pytest.approx(values.std(), rel=0.12)


def test_one_score_is_too_few():
    with pytest.raises(ValueError, match="1 and 3"):
        auroc(torch.ones(1), torch.ones(3))


def test_noise_takes_its_entropy_as_png_and_a_flat_image_next_to_nothing():
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 1, 32, 32), np.uint8))
    flat = torch.full((3, 3, 32, 32), 7, dtype=torch.uint8)
    assert png_bits_per_dim(noise, 256).numpy() == pytest.approx(8.3, abs=0.2)
    assert float(png_bits_per_dim(flat, 256).max()) < 0.15
    assert png_bits_per_dim(noise, 256).dtype == torch.float64


@pytest.mark.parametrize(("channels", "levels"), [(2, 256), (4, 256), (6, 256), (3, 65536)])
def test_noise_of_any_channels_and_levels_takes_its_entropy_as_png(channels, levels):
    noise = np.random.default_rng(0).integers(0, levels, (2, channels, 32, 32), np.int32)
    found = png_bits_per_dim(torch.from_numpy(noise), levels).numpy()
    assert found == pytest.approx(np.log2(levels), rel=0.05)


def test_effort_is_in_the_order_of_evaluations_and_then_of_errors():
    generator = np.random.default_rng(0)
    pairs = [(34.0, 0.0), (34.0, 1e-9), (66.0, 1e6), (66.0, 0.1), (9_999.0, 0.0)]
    pairs += zip(generator.choice([34.0, 66.0], 50), generator.exponential(size=50), strict=True)
    scores = effort(*torch.tensor(pairs, dtype=torch.float64).T)
    assert [pairs[k] for k in scores.argsort()] == sorted(pairs)


def test_every_score_is_judged():
    found = detection({"a": torch.arange(4.0)}, {"a": torch.arange(4.0) + 9})
    assert found == {"a": {"auroc": 1.0, "standard_error": 0.0}}
