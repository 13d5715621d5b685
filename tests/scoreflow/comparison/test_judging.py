"""What a row of samples depends on."""

from types import SimpleNamespace

from scoreflow.comparison import judging
from scoreflow.schema.config import KEYS
from scoreflow.schema.resolve import resolve

OF_0_2 = (
    "batch_size churn clip corrections corrector dynamic_threshold eta final grid guidance guide "
    "label max_evaluations method order predictor snr step variance"
)
"""Keys of a row's heading in version 0.2, whose rows must be found again."""


def heading(monkeypatch, **keys):
    monkeypatch.setattr(judging, "build_guidance", lambda *_: SimpleNamespace(asked=-1))
    values = {name: key.default for name, key in KEYS.items()}
    config = resolve({**values, **{f"sampling.{k}": v for k, v in keys.items()}}, "a test")
    return judging.sampling_of(config, None, None)


def test_rows_that_are_older_than_a_key_have_its_default(monkeypatch):
    assert sorted(heading(monkeypatch)) == OF_0_2.split()


def test_samples_of_a_shifted_grid_are_others(monkeypatch):
    assert heading(monkeypatch, shift=3.0) == {**heading(monkeypatch), "shift": 3.0}
