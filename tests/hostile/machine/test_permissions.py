"""A run that may not be read or written is refused before the work, in a line.

The superuser may do anything, so that as one the commands run as nobody; elsewhere as they are.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
NOBODY = 65534
CALL = """
import importlib, os, sys
from scoreflow.cli import main
from scoreflow.factory import assembly

def work(*_arguments, **_named):
    raise AssertionError("the work has begun")

assembly.experiment = work
for mode in sys.argv[2].split():  # now: nobody may not read where they lie, perhaps
    importlib.import_module(f"scoreflow.cli.modes.{mode}")
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
for argv in eval(sys.argv[1]):
    print("exit", main.main(["run.py", *argv]), flush=True)
"""
MODES = ("sample", "likelihood", "compare", "classifier", "equivalence", "profile", "train")
CASES = [
    ("metrics.jsonl", 0o200, MODES, "cannot read {}/metrics.jsonl (Permission denied)"),
    ("config.json", 0o200, MODES, "config.json cannot be read"),
    ("results", 0o300, MODES, "cannot read {}/results (Permission denied)"),
    ("results", 0o500, MODES, "cannot write into {}/results (Permission denied)"),
    ("results/likelihood.json", 0o200, MODES, "cannot read {}/results/likelihood.json"),
    ("samples", 0o500, MODES, "cannot write into {}/samples (Permission denied)"),
    ("checkpoints", 0o600, MODES, "cannot read {}/checkpoints (Permission denied)"),
    ("checkpoints", 0o500, ("train",), "cannot write into {}/checkpoints (Permission denied)"),
    ("tensorboard", 0o500, ("train",), "cannot write into {}/tensorboard (Permission denied)"),
    ("metrics.jsonl", 0o400, ("train",), "cannot write {}/metrics.jsonl (Permission denied)"),
    (".", 0o500, MODES, "cannot write into {} (Permission denied)"),
]


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder that nobody can reach; pytest's own are of one user alone."""
    with tempfile.TemporaryDirectory(prefix="scoreflow-test-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def as_nobody(argvs: list[list[str]]) -> subprocess.CompletedProcess[str]:
    """Several commands in one process, without the superuser's rights."""
    return subprocess.run(
        [sys.executable, "-c", CALL, repr(argvs), " ".join(MODES)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_what_may_not_be_read_or_written_is_refused_before_the_work(
    trained: Path, elsewhere: Path
) -> None:
    argvs, told = [], []
    for number, (name, mode, modes, message) in enumerate(CASES):
        run = elsewhere / f"run-{number}"
        shutil.copytree(trained, run)
        if os.getuid() == 0:
            for path in (run, *run.rglob("*")):
                os.chown(path, NOBODY, NOBODY)
        os.chmod(run / name, mode)
        flags = ["--device=cpu", f"--workdir={run}"]
        for each in modes:
            more = ["--config.training.num_steps=61"] if each == "train" else []
            argvs.append([f"--mode={each}", *flags, *more])
            told.append(message.format(run))
    done = as_nobody(argvs)
    for path in (each for each in elsewhere.rglob("*") if each.is_dir()):
        os.chmod(path, 0o700)  # so that the folder can be removed
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("run.py: ")]
    assert done.stdout.split() == ["exit", "2"] * len(argvs)
    assert len(lines) == len(argvs)
    for line, expected, argv in zip(lines, told, argvs, strict=True):
        assert expected in line, argv
