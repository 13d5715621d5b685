"""Samples against the data: each number beside that of real data, with its error."""

import pytest
import torch

from scoreflow.data.dataset import Data
from scoreflow.data.levels import dequantize
from scoreflow.data.loading import load_digits
from scoreflow.data.toy import distribution, load
from scoreflow.evaluation.nearest_neighbours import nearest_labels
from scoreflow.evaluation.sample_quality import SampleQuality
from scoreflow.sde.noise import Noise

DIGITS = load_digits()
HALF = torch.tensor(0.5, dtype=torch.float64)


def drawn(levels):
    """Samples that have these levels."""
    return dequantize(levels, HALF, 17)


def digits_judge():
    def labels(values):
        return nearest_labels(values, DIGITS.train, DIGITS.train_labels)

    def features(values):
        return values.double().flatten(1)[:, 10:14]

    return SampleQuality(DIGITS, labels=labels, features=features)


def test_held_out_data_get_the_same_as_samples_or_by_the_other_door():
    """Test data given as samples: the numbers of test data, and a ratio of 1."""
    judge = digits_judge()
    as_samples = judge.of_samples(drawn(DIGITS.test))
    as_data = judge.of_test_data(len(DIGITS.test))
    assert as_data.items() <= as_samples.items()
    assert as_samples["nearest_ratio"] == pytest.approx(1, rel=1e-12)
    assert as_samples["copies"] == 0
    for name in as_data.keys() - {"copies", "classes"}:
        assert name.endswith("_error") or as_data[f"{name}_error"] > 0


def test_copies_and_a_missing_class_are_seen():
    judge = digits_judge()
    kept = DIGITS.train[DIGITS.train_labels != 3][:200]
    found = judge.of_samples(drawn(kept))
    assert found["copies"] == 200
    assert found["nearest_train_distance"] == found["nearest_ratio"] == 0
    assert found["classes"][3] == 0
    share = float((DIGITS.train_labels == 3).double().mean())
    assert found["class_distance"] >= share - 1e-12


def test_features_of_the_training_data_are_at_no_distance():
    found = digits_judge().of_samples(drawn(DIGITS.train))
    assert found["feature_distance"] == pytest.approx(0, abs=1e-9)
    assert found["class_distance"] == 0


def test_without_a_classifier_there_is_no_feature_distance():
    found = SampleQuality(DIGITS).of_samples(drawn(DIGITS.test[:50]))
    assert not {"feature_distance", "classes", "fid"} & found.keys()


def test_inception_is_asked_with_the_values():
    seen = []
    judge = SampleQuality(DIGITS, inception=lambda *given: seen.append(given) or {"fid": 1.0})
    assert judge.of_samples(drawn(DIGITS.test[:20]))["fid"] == 1
    assert torch.equal(seen[0][0], DIGITS.test[:20])
    assert torch.equal(seen[0][1], DIGITS.train)


def test_the_truth_is_at_its_floor_and_a_wrong_law_is_above_it():
    truth = distribution()
    judge = SampleQuality(load(), truth)
    floor = judge.floors(400)
    right = judge.of_samples(truth.sample(Noise.of(5, 0, 400)))
    allowed = 4 * (right["wasserstein_error"] ** 2 + floor["wasserstein_error"] ** 2) ** 0.5
    assert right["wasserstein"] == pytest.approx(floor["wasserstein"], abs=allowed)
    assert abs(right["energy_distance"]) < 4 * right["energy_distance_error"]
    wrong = judge.of_samples(1.3 * truth.sample(Noise.of(5, 0, 400)))
    assert wrong["wasserstein"] > floor["wasserstein"] + 4 * wrong["wasserstein_error"]
    assert SampleQuality(load()).floors(400) == {}


def test_duplicates_among_the_held_out_leave_no_ratio():
    same = Data("same", DIGITS.train, DIGITS.train[:50], 17, None, None)
    assert "nearest_ratio" not in SampleQuality(same).of_samples(drawn(DIGITS.test[:50]))
