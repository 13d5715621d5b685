"""The benchmark of memory: its sets are of the size that it states, and are read as they are."""

import pytest

from benchmarks import large_data
from scoreflow.data.loading import load_images
from scoreflow.errors import RunError


def test_a_set_has_the_bytes_that_it_is_named_by(tmp_path, monkeypatch):
    monkeypatch.setattr(large_data, "PICTURES", 2)
    count = large_data.make_images(tmp_path / "images", 1e-3)
    assert count == 1_000_000 // (3 * 256 * 256) == 5
    data = load_images(str(tmp_path / "images"))
    assert len(data.train) + len(data.test) == count
    assert data.train.shape[1:] == (3, 256, 256)


def test_a_training_that_fails_is_said(tmp_path):
    with pytest.raises(RunError, match=r"the training failed: .*no such dataset path"):
        large_data.measured(tmp_path / "nowhere", tmp_path / "run", "", 2)


def test_the_spread_is_of_what_is_read_from_the_store():
    peaks = {"decoded into the store": 9.0, "from the store": 1.0, "in memory": 5.0}
    rows = [
        {"gigabytes": size, "images": 7, "kind": kind, "peak_gb": peak * (1 + size / 100)}
        | {"seconds_to_first_step": 1.0, "seconds_a_step": 0.5}
        for size in (0.0, 8.0)
        for kind, peak in peaks.items()
    ]
    assert "the greatest peak is 8.0 % above the least" in large_data._table(rows)
