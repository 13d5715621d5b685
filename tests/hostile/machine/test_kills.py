"""Trainings that are killed (SIGKILL), and go on: at the end nothing tells that they were.

Each training is forked from a process that has torch in it, so that a kill costs no import. Chosen
instants are calls that reach the disk (fsync, rename, remove, make a folder), in turn; the others
come at any time. All values of both folders must be equal, and the checkpoints' bytes.
"""

import json
import random
import signal
import time
from pathlib import Path

import pytest

SCRIPT = """
import json, os, signal, sys, time
import scoreflow as sf
from scoreflow.cli.main import main

CALLS = ("fsync", "replace", "unlink", "mkdir")

def killing(at):
    '''Count the calls that reach the disk, and die at the beginning of one of them.'''
    found = [0]
    def counted(kept):
        def call(*arguments, **named):
            found[0] += 1
            if found[0] == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return kept(*arguments, **named)
        return call
    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    return found

def kill_within(seconds):
    '''By another process, at any time.'''
    victim = os.getpid()
    if os.fork() == 0:
        time.sleep(seconds)
        if os.getppid() == victim:
            os.kill(victim, signal.SIGKILL)
        os._exit(0)

request = json.loads(sys.argv[1])
if request["within"]:
    kill_within(request["within"])
found, status = killing(request["at"]), 0
if "flags" in request:
    status = main(["run.py", *request["flags"]])
else:
    for _ in sf.train("toy", request["folder"], request["config"], device="cpu"):
        pass
open(request["counts"], "w").write(str(found[0]))
sys.exit(status)
"""
TOY = {
    "model.width": 8,
    "training.num_steps": 8,
    "training.log_every": 1,
    "training.checkpoint_every": 2,
    "training.batch_size": 8,
    "training.warmup_steps": 1,
}
SMALL = [
    "--config=digits",
    "--config.training.num_steps=30",
    "--config.training.batch_size=8",
    "--config.training.log_every=5",
    "--config.training.checkpoint_every=5",
    "--config.model.channels=8",
    "--config.model.num_groups=4",
    "--config.sampling.num_images=4",
    "--config.sampling.steps=2",
    "--config.sampling.tolerance=0.1",
    "--config.likelihood.num_images=6",
    "--config.likelihood.checked=1",
    "--config.likelihood.nodes=8",
    "--config.likelihood.batch_size=2",
]
VOLATILE = {"seconds", "date", "images_per_second"}
"""Keys of results that tell when and how fast, and may differ."""
NOT_COMPARED = ("tensorboard", "env.json", "report.html", "lock", "lock.pid")


class Trainings:
    """Trainings in processes of their own, one after another."""

    def __init__(self, forked, folder: Path) -> None:
        self.forked, self.counts, self.script = forked, folder / "counts", folder / "script.py"
        self.script.write_text(SCRIPT)

    def run(self, at: int = 0, within: float | None = None, **request: object) -> int:
        """The exit status of a training, killed at a call, or some seconds after its beginning."""
        told = {"at": at, "within": within, "counts": str(self.counts), **request}
        return self.forked(1, self.script, json.dumps(told)).returncode


@pytest.fixture(scope="module")
def trainings(tmp_path_factory, forked):
    return Trainings(forked, tmp_path_factory.mktemp("kills"))


@pytest.fixture(scope="module")
def undisturbed(trainings, tmp_path_factory):
    """A whole training of the toy data, and how many calls of it reach the disk."""
    folder = tmp_path_factory.mktemp("kills") / "run"
    assert trainings.run(folder=str(folder), config=TOY) == 0
    return folder, int(trainings.counts.read_text())


def values(folder):
    """What a run's folder holds, without what tells when and how fast it was made."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or name.split("/")[0] in NOT_COMPARED or path.name.endswith(".tmp"):
            continue
        if path.suffix == ".json":
            found[name] = lasting(json.loads(path.read_text()))
        elif path.suffix == ".jsonl":
            rows = [lasting(json.loads(line)) for line in path.read_text().splitlines()]
            found[name] = sorted(rows, key=json.dumps) if "results" in name else rows
        else:
            found[name] = path.read_bytes()
    return found


def lasting(value):
    if isinstance(value, dict):
        return {key: lasting(each) for key, each in value.items() if key not in VOLATILE}
    return [lasting(each) for each in value] if isinstance(value, list) else value


def assert_equal(folder, other):
    found, wanted = values(folder), values(other)
    assert found.keys() == wanted.keys()
    assert [name for name in found if found[name] != wanted[name]] == []


def kill_and_go_on(trainings, folder, at):
    """A training that dies at a call; the same command again; whether it died."""
    died = trainings.run(at=at, folder=str(folder), config=TOY) == -signal.SIGKILL
    assert trainings.run(folder=str(folder), config=TOY) == 0
    return died


def test_a_training_that_is_killed_goes_on_to_the_same_folder(trainings, undisturbed, tmp_path):
    folder, calls = undisturbed
    for at in (calls // 3, calls - 3):  # the last is while the last checkpoint is made
        assert kill_and_go_on(trainings, tmp_path / f"run{at}", at)
        assert_equal(tmp_path / f"run{at}", folder)


@pytest.mark.slow
def test_kills_at_every_call_that_reaches_the_disk(trainings, undisturbed, tmp_path, capsys):
    folder, calls = undisturbed
    kills = 0
    for at in range(1, calls + 1):
        kills += kill_and_go_on(trainings, tmp_path / f"run{at}", at)
        assert_equal(tmp_path / f"run{at}", folder)
    assert kills >= 40
    with capsys.disabled():
        print(f"\n{kills} of {kills} kills at chosen instants: the same folder")


@pytest.mark.slow
def test_kills_at_any_time_of_the_whole_mode(trainings, tmp_path, capsys):
    """--mode train with its samples, likelihood and report, killed again and again."""
    flags = ["--mode=train", "--device=cpu", *SMALL]
    begun = time.monotonic()
    assert trainings.run(flags=[*flags, f"--workdir={tmp_path / 'whole'}"]) == 0
    length, draw, kills = time.monotonic() - begun, random.Random(0), 0
    for number in range(12):
        folder = tmp_path / f"run{number}"
        for _ in range(4):
            status = trainings.run(
                within=draw.uniform(0.02, length), flags=[*flags, f"--workdir={folder}"]
            )
            assert status in (0, -signal.SIGKILL)
            kills += status != 0
        assert trainings.run(flags=[*flags, f"--workdir={folder}"]) == 0
        assert_equal(folder, tmp_path / "whole")
    with capsys.disabled():
        print(f"\n{kills} of {kills} kills at any time: the same folder")
