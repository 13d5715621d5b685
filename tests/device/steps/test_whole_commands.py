"""Whole commands on a GPU, from images to a report: none mixes devices."""

import json

import pytest

from scoreflow import imported_run, trained_run, training_run
from scoreflow.cli.main import main
from tests.device.conftest import SMALL

KEYS = {
    **SMALL["digits"],
    "model__conditional": True,
    "sde__num_steps": 20,
    "training__num_steps": 4,
    "training__batch_size": 8,
    "training__log_every": 2,
    "training__checkpoint_every": 2,
    "training__preview_every": 2,
    "sampling__num_images": 6,
    "sampling__batch_size": 4,
    "sampling__steps": 3,
    "sampling__tolerance": 1e-2,
    "likelihood__num_images": 3,
    "likelihood__tolerance": 1e-2,
    "classifier__num_steps": 3,
    "classifier__width": 8,
    "classifier__batch_size": 8,
}
FURTHER = (
    ("--mode=sample", "--sampler=ddim", "--config.sampling.label=all"),
    ("--mode=sample", "--sampler=ddim", "--config.sampling.grid=least_cost"),
    ("--mode=sample", "--sampler=ode", "--config.sampling.task=interpolate"),
    ("--mode=classifier",),
)


@pytest.mark.slow
def test_whole_commands_run_on_the_device(device, seen, tmp_path, monkeypatch):
    for room in (training_run, trained_run, imported_run):
        monkeypatch.setattr(room, "build_device", lambda _name: device)
    keys = [f"--config.{key.replace('__', '.')}={value}" for key, value in KEYS.items()]
    run = f"--workdir={tmp_path / 'run'}"
    assert main(["run.py", "--mode=train", "--config=digits", run, *keys]) == 0
    told = json.loads((tmp_path / "run/results/likelihood.json").read_text())
    assert told["num_images"] == 3
    for command in FURTHER:
        assert main(["run.py", *command, run]) == 0, command
