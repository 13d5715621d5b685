"""Each mode of the command line on a GPU: without mixing devices, and with the CPU's results."""

import json
import math
import shutil

import pytest
import torch

from scoreflow import trained_run, training_run
from scoreflow.cli.main import main

KEYS = {
    "model.channels": 8,
    "model.num_groups": 2,
    "model.conditional": True,
    "sde.num_steps": 20,
    "training.num_steps": 4,
    "training.batch_size": 4,
    "training.log_every": 2,
    "training.checkpoint_every": 2,
    "training.preview_every": 2,
    "training.channels_last": False,
    "sampling.num_images": 12,
    "sampling.steps": 2,
    "sampling.tolerance": 0.1,
    "likelihood.num_images": 2,
    "likelihood.probes": 1,
    "likelihood.nodes": 8,
}
OTHERWISE = (
    "seconds",
    "date",
    "hash",
    "device",
    "environment",
    "per_second",
    "png",
    "picture",
)


def flags(keys):
    return [f"--config.{key}={value}" for key, value in keys.items()]


def commanded(workdir, *args):
    """One command; a run's error ends the test."""
    assert main(["run.py", *args, "--workdir", str(workdir)]) in (0, None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small run of the digits, trained on the CPU."""
    folder = tmp_path_factory.mktemp("modes") / "run"
    commanded(folder, "--config=configs/digits.py", "--mode=train", "--device=cpu", *flags(KEYS))
    return folder


def same(mine, its, path):
    """Whether two results are the same to a float32 network's rounding."""
    if isinstance(its, dict):
        assert mine.keys() == its.keys(), path
        for key in its:
            if not any(word in key for word in OTHERWISE):
                same(mine[key], its[key], f"{path}.{key}")
    elif isinstance(its, list):
        assert len(mine) == len(its), path
        for k, (one, other) in enumerate(zip(mine, its, strict=True)):
            same(one, other, f"{path}[{k}]")
    elif isinstance(its, str) and its.endswith(".jsonl"):
        pass  # named after all settings, the device among them
    elif isinstance(its, float) and isinstance(mine, float):
        assert math.isclose(mine, its, rel_tol=1e-4, abs_tol=1e-5), f"{path}: {mine} and {its}"
    else:
        assert mine == its, path


EDIT = ("--mode=sample", "--config.control.image=test:0", "--config.control.count=2")
MODES = {
    "sample": ("--mode=sample", "--sampler=dpm", "--config.sampling.progressive=true"),
    "ode": ("--mode=sample", "--sampler=ode", "--config.sampling.label=all"),
    "optimal": (
        "--mode=sample",
        "--sampler=ancestral",
        "--config.sampling.variance=optimal",
        "--config.sampling.grid=least_cost",
    ),
    "inpaint": (*EDIT, "--config.sampling.task=inpaint"),
    "superresolve": (*EDIT, "--config.sampling.task=superresolve", "--config.control.method=dps"),
    "reconstruct": (*EDIT, "--config.sampling.task=reconstruct"),
    "ledger": (
        "--mode=likelihood",
        "--config.likelihood.ledger=true",
        "--config.likelihood.terms=2",
    ),
    "train's": ("--mode=likelihood", "--config.likelihood.data=train"),
    "raw": ("--mode=likelihood", "--config.likelihood.against=raw"),
    "classifier": (
        "--mode=classifier",
        "--config.classifier.num_steps=3",
        "--config.classifier.width=8",
    ),
    "compare": (
        "--mode=compare",
        "--config.compare.samplers=('ddim','ode')",
        "--config.compare.nfe=(2,)",
        "--config.compare.num_images=12",
        "--config.compare.guidance=(0.0,2.0)",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODES)
def test_a_mode_has_the_cpus_results(name, trained, tmp_path, monkeypatch, device, seen):
    there = {}
    for kind, place in (("cpu", torch.device("cpu")), ("device", device)):
        shutil.copytree(trained, tmp_path / kind)
        monkeypatch.setattr(trained_run, "build_device", lambda _name, place=place: place)
        commanded(tmp_path / kind, *MODES[name])
        files = (tmp_path / kind / "results").glob("**/*.json")
        there[kind] = {file.name: json.loads(file.read_text()) for file in files}
    new = {name: its for name, its in there["cpu"].items() if name in there["device"]}
    assert new
    for file, its in new.items():
        same(there["device"][file], its, file)


@pytest.mark.slow
def test_a_training_with_previews_has_the_cpus_losses(
    trained, tmp_path, monkeypatch, device, seen
):
    monkeypatch.setattr(training_run, "build_device", lambda _name: device)
    monkeypatch.setattr(trained_run, "build_device", lambda _name: device)
    keys = {**KEYS, "training.num_steps": 2}
    commanded(tmp_path / "run", "--config=configs/digits.py", "--mode=train", *flags(keys))
    commanded(tmp_path / "run", "--mode=train", "--config.training.num_steps=4")  # goes on
    rows = [
        [
            json.loads(line)["loss"]
            for line in file.read_text().splitlines()
            if "loss" in json.loads(line)
        ]
        for file in (trained / "metrics.jsonl", tmp_path / "run" / "metrics.jsonl")
    ]
    assert rows[1] == pytest.approx(rows[0], rel=1e-3)
