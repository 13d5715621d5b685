"""A training step on a GPU: it mixes no devices, waits for none, and launches so many kernels."""

from dataclasses import replace

import pytest
import torch

from scoreflow.data.stored.images import RowFile, StoredImages
from scoreflow.schema.config import KEYS
from scoreflow.training import classifier_trainer, preview
from scoreflow.training.settings import ClassifierSettings
from scoreflow.training_run import trainer_of
from tests.device.pretend import pretending
from tests.device.watch import watching

pytestmark = pytest.mark.usefixtures("needs_python_device")

CPU = torch.device("cpu")

UNET = {
    "dropout, classes and flips": {
        "model__dropout": 0.2,
        "model__conditional": True,
        "training__label_dropout": 0.3,
        "training__flip": True,
    },
    "in parts, recomputed": {
        "training__micro_batches": 2,
        "training__recompute": True,
        "model__dropout": 0.2,
    },
    "learned variance": {"training__objective": "hybrid", "model__learned_variance": True},
    "variational": {"training__objective": "variational"},
    "importance": {"training__objective": "likelihood", "training__times": "importance"},
    "flow matching": {
        "sde__name": "rectified",
        "model__prediction": "u",
        "training__objective": "flow_matching",
        "training__times": "real",
        "training__shift": 2.0,
    },
    "EDM": {
        "sde__name": "edm",
        "model__prediction": "v",
        "model__data_std": 0.7,
        "training__objective": "edm",
        "training__times": "log_normal",
    },
    "VE, even times": {
        "sde__name": "ve",
        "model__prediction": "score",
        "training__times": "real",
        "training__low_discrepancy": True,
    },
    "velocity": {"training__objective": "velocity", "model__prediction": "v"},
    "sub-VP, mean": {"sde__name": "subvp", "model__prediction": "mean"},
    "score matching": {"training__objective": "score_matching", "model__prediction": "score"},
    "of means": {"training__objective": "mean"},
    "P2": {"training__objective": "p2", "model__prediction": "v"},
    "weighted, contiguous": {
        "training__objective": "min_snr",
        "training__dequantization": "centre",
        "training__channels_last": False,
    },
}


def of_second_step(experiment, keys, name):
    """(Rows of two steps on the CPU, the same on the device, how the second waited for it)."""
    expected = trainer_of(experiment(name, CPU, **keys)).advance(2)
    with pretending() as device, watching() as seen:
        trainer = trainer_of(experiment(name, device, **keys))
        first = trainer.advance(1)
        seen.clear()
        rows = torch.cat([first, trainer.advance(1)])
        waits = list(seen.waits)
        assert rows.device == device
        return expected, rows.cpu(), waits


def test_every_objective_is_among_them():
    asked = {keys.get("training__objective", "simple") for keys in UNET.values()}
    assert asked == set(KEYS["training.objective"].choices)


@pytest.mark.parametrize("name", UNET)
def test_a_step_of_a_unet_waits_for_nothing(name, experiment_of):
    expected, rows, waits = of_second_step(experiment_of, UNET[name], "digits")
    assert not waits
    torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_step_in_half_a_precision_waits_for_nothing(precision, experiment_of):
    keys = {"training__precision": precision, "model__dropout": 0.2}
    expected, rows, waits = of_second_step(experiment_of, keys, "digits")
    assert not waits
    # autocast of a GPU chooses other dtypes than the CPU's
    torch.testing.assert_close(rows, expected, rtol=0.03, atol=0.01)


def test_a_step_of_an_mlp_waits_for_nothing(experiment_of):
    expected, rows, waits = of_second_step(experiment_of, {}, "toy")
    assert not waits
    torch.testing.assert_close(rows, expected, rtol=1e-5, atol=1e-6)


def test_a_first_step_waits_for_nothing(experiment_of, device, seen):
    trainer = trainer_of(experiment_of("digits", device))
    seen.clear()
    trainer.advance(1)
    assert not seen.waits


def test_an_interval_waits_once(experiment_of, device, seen):
    keys = {"training__log_every": 3, "training__checkpoint_every": 3, "training__num_steps": 6}
    steps = trainer_of(experiment_of("digits", device, **keys)).run()
    next(steps)
    seen.clear()
    next(steps)
    assert [wait.partition(": ")[2].split(",")[0] for wait in seen.waits] == [
        "_to_copy pretend -> cpu"
    ]


def test_images_on_the_disk_are_not_waited_for(experiment_of, device, seen, tmp_path):
    """As far as a copy of less than 64 KB shows it: larger ones are from pinned memory on CUDA."""
    levels = experiment_of("digits", CPU).data.train[:64]
    (tmp_path / "0.rows").write_bytes(levels.numpy().tobytes())
    file = RowFile(tmp_path / "0.rows", (1, 8, 8), levels.numpy().dtype)
    stored = StoredImages(file, torch.arange(64).numpy(), device)
    found = []
    for data in (stored, levels.to(device)):
        made = experiment_of("digits", device)
        trainer = trainer_of(replace(made, data=replace(made.data, train=data)))
        first = trainer.advance(1)
        seen.clear()
        rows = torch.cat([first, trainer.advance(1)])
        assert not seen.waits
        found.append(rows.cpu())
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


def test_a_step_of_the_classifier_waits_for_nothing(experiment_of, device, seen, monkeypatch):
    data = experiment_of("digits", device).data
    plain = experiment_of("digits", CPU)
    settings = ClassifierSettings(3, 4, 1e-3, 8, False, "uniform", 0)
    read, at_step = classifier_trainer.BatchReader.read, []

    def noted(reader, batches, step, part):
        at_step.append(len(seen.waits))
        return read(reader, batches, step, part)

    monkeypatch.setattr(classifier_trainer.BatchReader, "read", noted)
    classifier_trainer.train_classifier(data, plain.model.sde, plain.objective, settings)
    assert at_step[1] == at_step[2]


def test_a_preview_mixes_no_devices(experiment_of, monkeypatch):
    for name in ("IMAGES", "STEPS", "HELD_OUT"):
        monkeypatch.setattr(preview, name, 3)
    keys = {"model__conditional": True}
    there = preview.preview(trainer_of(experiment_of("digits", CPU, **keys)))
    with pretending() as device, watching():
        here = preview.preview(trainer_of(experiment_of("digits", device, **keys)))
    assert here.loss == pytest.approx(there.loss, rel=1e-5)


def test_a_state_is_saved_and_loaded(experiment_of, device, seen):
    keys = {"training__log_every": 2, "training__checkpoint_every": 2}
    trainer = trainer_of(experiment_of("digits", device, **keys))
    trainer.advance(1)
    other = trainer_of(experiment_of("digits", device, **keys))
    other.load_state(trainer.state())
    assert torch.equal(other.advance(1).cpu(), trainer.advance(1).cpu())
