"""A small run, trained once, of which every hostile test gets a copy."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from scoreflow.cli.main import main

TINY = [
    "training.num_steps=60",
    "training.batch_size=8",
    "training.log_every=5",
    "training.checkpoint_every=10",
    "training.warmup_steps=5",
    "model.channels=8",
    "model.num_groups=4",
    "sampling.num_images=12",
    "sampling.batch_size=8",
    "sampling.steps=4",
    "likelihood.num_images=12",
    "likelihood.checked=2",
    "likelihood.batch_size=8",
]
FLAGS = [f"--config.{each}" for each in TINY]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all its files: never changed, see `run_copy`."""
    folder = tmp_path_factory.mktemp("hostile") / "run"
    status = main(["run.py", "--mode=train", "--device=cpu", f"--workdir={folder}", *FLAGS])
    assert status == 0
    return folder


@pytest.fixture
def run_copy(trained: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Name -> a fresh copy of the run, to be hurt."""

    def copy(name: str = "run") -> Path:
        return Path(shutil.copytree(trained, tmp_path / name))

    return copy
