"""A disk that fails at any point: one line, what was there stays, the same command goes on."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from scoreflow.cli.main import main
from scoreflow.errors import RequestError, RunError
from scoreflow.runtime import termination
from scoreflow.runtime.curves import Curves
from scoreflow.storage.run_folder import RunDir
from tests.hostile.machine.faults import Disk, failing

ROOT = Path(__file__).parents[3]


# ---- what a run's folder does, at every call ----------------------------------------------------


def everything(path: Path) -> None:
    """Write all that a run has."""
    config = {"a": 1}
    there = (path / "config.json").exists()
    with RunDir.open(path, training=True) if there else RunDir.create(path, config, {}) as run:
        run.write_env({"b": 1})
        run.write_data({"c": 1})
        for step in (1, 2, 3):
            run.log(step, 0.0, loss=1.0 / step)
            run.save_checkpoint(step, {"step": step, "w": torch.ones(5)})
        run.write_image(run.preview_path(3), b"png")
        run.write_result("training", {"step": 3})
        for seed in (0, 1):
            run.keep_result("likelihood", {"value": 1.0, "step": 3}, {"seed": seed})
        run.forget_metrics_after(2)
        run.log(3, 0.0, loss=1.0 / 3)


def values(path: Path) -> dict[str, object]:
    """What a folder holds, but for dates."""
    run = RunDir.open(path)
    step, state = run.load_checkpoint(warn=lambda line: pytest.fail(line))
    found = {
        str(each.relative_to(path)): json.loads(each.read_bytes()) for each in path.rglob("*.json")
    }
    for result in found.values():
        result.get("kept", {}).pop("date", None)
    return {**found, "rows": run.read_metrics(), "step": step, "w": state["w"].tolist()}


def survived(place: Path, points: Callable[[int], range], number: int, lasting: int) -> int:
    """Failures of the disk after which a folder is made whole again; how many were tried."""
    with failing(Disk(place)) as disk:
        everything(place / "whole")
    expected, total = values(place / "whole"), len(disk.calls)
    assert total > 150
    for point in points(total):
        path = place / f"run-{point}"
        refused: Exception | None = None
        with failing(Disk(place, point, number, lasting)) as disk:
            try:
                everything(path)
            except (RequestError, RunError) as error:
                refused = error
        if refused is not None:
            assert "\n" not in str(refused)
            assert os.strerror(number) in str(refused)
        with failing(Disk(place)):  # all of it works again
            everything(path)
        assert values(path) == expected, disk.calls[point]
        assert not list(path.rglob(".*.tmp"))
        shutil.rmtree(path)
    return len(points(total))


def test_a_folder_survives_a_failure_of_some_calls(tmp_path):
    survived(tmp_path, lambda total: range(0, total, 9), errno.EIO, 1)


@pytest.mark.slow
def test_a_folder_survives_a_failure_of_any_call(tmp_path, capfd):
    tried = 0
    for number in (errno.EIO, errno.ENOSPC, errno.EROFS):
        for lasting in (1, 10**9):
            (place := tmp_path / f"{number}-{lasting}").mkdir()
            tried += survived(place, range, number, lasting)
    with capfd.disabled():
        print(f"\n{tried} of {tried} failures of the disk in a run's folder: one line, and whole")


def test_a_line_that_was_not_written_whole_is_taken_back(tmp_path, monkeypatch):
    """As by a disk that takes the first bytes alone."""
    with RunDir.create(tmp_path / "run", {}, {}) as run:
        run.log(1, 0.0, loss=1.0)
        file = run._metrics

        class Filling:
            fileno, truncate, close = file.fileno, file.truncate, file.close

            def write(self, data):
                if len(data) < 9:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return file.write(data[:8])

        run._metrics = Filling()
        with pytest.raises(RunError, match=r"metrics.jsonl \(No space left on device\)"):
            run.log(2, 0.0, loss=1.0)
        run._metrics = file
        run.log(3, 0.0, loss=1.0)
        assert [row["step"] for row in run.read_metrics()] == [1, 3]


# ---- what a mode does, at every call ------------------------------------------------------------

LESS = ["--device=cpu", "--config.sampling.num_images=2", "--config.sampling.steps=2"]
MODES = {
    "sample": ["--mode=sample", "--sampler=ddim", *LESS],
    "saved npz": ["--mode=sample", "--sampler=ddim", "--config.sampling.save=npz", *LESS],
    "saved pt": ["--mode=sample", "--sampler=ddim", "--config.sampling.save=pt", *LESS],
    "saved png": ["--mode=sample", "--sampler=ddim", "--config.sampling.save=png", *LESS],
    "likelihood": [
        "--mode=likelihood",
        "--device=cpu",
        "--config.likelihood.num_images=2",
        "--config.likelihood.checked=1",
        "--config.likelihood.nodes=8",
    ],
    "compare": [
        "--mode=compare",
        "--samplers=ddim",
        "--config.compare.nfe=(2,)",
        "--config.compare.num_images=8",
        "--device=cpu",
    ],
    "classifier": ["--mode=classifier", "--device=cpu", "--config.classifier.num_steps=2"],
    "profile": [
        "--mode=profile",
        "--device=cpu",
        "--config.profile.num_steps=1",
        "--config.profile.warmup=1",
    ],
    "resume": [
        "--mode=train",
        "--config.training.num_steps=62",
        "--config.sampling.tolerance=1e-1",
        "--config.likelihood.num_images=2",
        "--config.likelihood.checked=1",
        "--config.likelihood.nodes=8",
        *LESS,
    ],
    "diffusers": ["--mode=export", "--to=diffusers", "--out={}/out", "--device=cpu"],
    "safetensors": ["--mode=export", "--to=safetensors", "--out={}/out.pt", "--device=cpu"],
    "table": ["--mode=table", "{}/run", "--out={}/table.html"],
}
EXPORTS = ("diffusers", "safetensors")
NUMBERS = (errno.EIO, errno.ENOSPC)


def asked(mode: str, place: Path) -> list[str]:
    """The command, on the run in a folder."""
    flags = [flag.format(place) for flag in MODES[mode]]
    return ["run.py", *flags, *([] if mode == "table" else [f"--workdir={place / 'run'}"])]


def tried(mode: str, trained: Path, place: Path, point: int, number: int, capfd) -> list[str]:
    """A command whose point-th call fails, and the same again; the calls of the first."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(trained, place / "run")
    with failing(Disk(place, point, number, lasting=1 if number == errno.EIO else 40)) as disk:
        status = main(asked(mode, place))
    err = capfd.readouterr().err
    where = f"{mode}: {disk.calls[point] if point < len(disk.calls) else 'no failure'}"
    assert "Traceback" not in err, where
    if point < 0:
        assert status == 0, err
    if status:
        assert err.splitlines()[-1].startswith("run.py: "), where
        if mode in EXPORTS:  # which replace nothing, and may have been written before the failure
            shutil.rmtree(place / "out", ignore_errors=True)
            (place / "out.pt").unlink(missing_ok=True)
        assert main(asked(mode, place)) == 0, (where, capfd.readouterr().err)
        capfd.readouterr()
        assert not list(place.rglob(".*.tmp")), where
    RunDir.open(place / "run").load_checkpoint(warn=lambda line: pytest.fail(line))
    return disk.calls


@pytest.mark.parametrize("mode", ["sample", "safetensors"])
def test_a_mode_ends_in_a_line_where_the_disk_fails(mode, trained, tmp_path, capfd):
    total = len(tried(mode, trained, tmp_path / "all", -1, 0, capfd))
    for k, share in enumerate((0.0, 0.3, 0.9)):
        tried(mode, trained, tmp_path / "one", int(share * total), NUMBERS[k % 2], capfd)


def distinct(calls: list[str], seen: set[str]) -> list[int]:
    """The first and the last call of each kind on each file that was not seen; then it is."""
    kinds = [re.sub(r"[0-9a-f]{16}|[0-9]+", "N", call) for call in calls]
    first = {kind: k for k, kind in reversed(list(enumerate(kinds)))}
    last = {kind: k for k, kind in enumerate(kinds)}
    found = {ends[kind] for kind in first.keys() - seen for ends in (first, last)}
    seen.update(kinds)
    return sorted(found)


ALIKE = (
    ("sample", "saved npz", "saved pt", "saved png"),
    ("likelihood", "compare", "table"),
    ("classifier", "profile", "diffusers", "safetensors"),
    ("resume",),
)
"""Modes that write some files in one way, where it is enough to have these fail once."""


@pytest.mark.slow
@pytest.mark.parametrize("modes", ALIKE, ids=lambda modes: modes[0])
def test_a_mode_ends_in_a_line_wherever_the_disk_fails(modes, trained, tmp_path, capfd):
    number, seen = 0, set()
    for mode in modes:
        points = distinct(tried(mode, trained, tmp_path / "all", -1, 0, capfd), seen)
        for point in points:
            tried(mode, trained, tmp_path / "one", point, NUMBERS[point % 2], capfd)
        number += len(points)
    with capfd.disabled():
        told = ", ".join(modes)
        print(f"\n{number} of {number} failures of the disk in {told}: one line, and on")


def test_every_mode_that_is_tried_is_in_one_group():
    assert sorted(mode for modes in ALIKE for mode in modes) == sorted(MODES)


# ---- a folder that goes while it is written -----------------------------------------------------


def test_curves_go_on_where_their_folder_is_moved_and_end_in_a_line(tmp_path, capfd):
    folder, threads = tmp_path / "tensorboard", threading.active_count()
    with Curves(folder, 1) as curves:
        curves.scalar("loss", 1.0, 1)
        folder.rename(tmp_path / "moved")
        curves.scalar("loss", 0.5, 2)
        assert threading.active_count() == threads
    (written,) = (tmp_path / "moved").iterdir()
    assert written.stat().st_size > 150
    assert capfd.readouterr().err == ""
    (tmp_path / "file").write_bytes(b"")
    with Curves(tmp_path / "file" / "tensorboard", 1) as curves:
        curves.scalar("loss", 1.0, 1)
    told = capfd.readouterr().err
    assert told.count("\n") == 1
    assert "the training goes on without curves" in told


def test_what_tensorboard_reads_is_what_was_written(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Curves(tmp_path, 1) as curves:
        curves.scalar("loss", 1.0, 1)
        curves.scalar("loss", 0.25, 2)
        curves.text("changed", "a -> b", 2)
        curves.image("preview", np.zeros((4, 5, 3), np.uint8), 2)
    with Curves(tmp_path, 2) as curves:  # resumed at step 1
        curves.scalar("loss", 0.5, 2)
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    assert [(each.step, each.value) for each in read.Scalars("loss")] == [(1, 1.0), (2, 0.5)]
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 2


@pytest.mark.parametrize("way", ["moved", "removed"])
def test_a_folder_that_goes_while_it_trains_is_one_line(way, run_copy, monkeypatch, capfd):
    run, save = run_copy(), RunDir.save_checkpoint

    def saving(folder, *more):
        shutil.rmtree(run) if way == "removed" else run.rename(run.with_name("elsewhere"))
        return save(folder, *more)

    monkeypatch.setattr(RunDir, "save_checkpoint", saving)
    longer = ["--device=cpu", "--config.training.num_steps=61"]
    capfd.readouterr()
    assert main(["run.py", "--mode=train", f"--workdir={run}", *longer]) == 1
    err = capfd.readouterr().err
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("run.py: cannot write ")
    assert "(No such file or directory)" in err.splitlines()[-1]
    if way == "moved":
        with RunDir.open(run.with_name("elsewhere"), training=True) as folder:
            assert folder.load_checkpoint()[0] == 60


# ---- signals ------------------------------------------------------------------------------------


def modes() -> list[str]:
    """All that there are."""
    folder = ROOT / "scoreflow" / "cli" / "modes"
    names = {path.stem.removesuffix("_network") for path in folder.glob("[a-z]*.py")}
    return sorted(names - {"bounds"})


@pytest.mark.parametrize("name", termination.NAMES)
@pytest.mark.parametrize("mode", modes())
def test_a_signal_says_what_is_kept(mode, name, monkeypatch, capfd):
    number = getattr(signal, name)

    def work(*_arguments):
        signal.raise_signal(number)

    monkeypatch.setattr("scoreflow.cli.main._run", work)
    before = signal.getsignal(number)
    more = {
        "export": ["--to=diffusers", "--out=out"],
        "import": ["--from=x.pt"],
    }.get(mode, [])
    where = ["runs"] if mode == "table" else ["--workdir=run"]
    assert main(["run.py", f"--mode={mode}", *where, *more]) == 128 + number
    told = capfd.readouterr().err
    assert told.startswith(f"stopped by {name}; ")
    assert told.count("\n") == 1
    assert signal.getsignal(number) is before


def test_a_signal_that_is_ignored_stays_ignored(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with termination.as_interrupts(lambda _: None):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_of_two_signals_the_second_ends_at_once():
    came = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        with termination.as_interrupts(lambda _: None):
            with pytest.raises(termination.Terminated):
                signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
        assert came == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


STUCK = """
import ctypes
from scoreflow.runtime import termination
termination.PATIENCE = 0.2
lock, libc = ctypes.create_string_buffer(256), ctypes.CDLL(None)
try:
    with termination.as_interrupts(lambda end: print(end, flush=True)):
        print("ready", flush=True)
        libc.pthread_mutex_lock(lock)
        libc.pthread_mutex_lock(lock)  # waits for itself, and no signal wakes it
except termination.Terminated as end:  # it came before the wait
    print(end, flush=True)
    raise SystemExit(end.status)
"""


def test_a_process_that_does_not_answer_ends_all_the_same():
    """As one that waits for another process, inside a library."""
    child = subprocess.Popen(
        [sys.executable, "-c", STUCK], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout.readline() == "ready\n"
        child.terminate()
        assert child.stdout.readline() == "stopped by SIGTERM\n"
        assert child.wait(timeout=20) == 128 + signal.SIGTERM


LOST = """
import time
from scoreflow.runtime import termination
termination.PATIENCE = 0.2

class Forgiving:
    def __del__(self):
        print("ready", flush=True)
        time.sleep(20)

with termination.as_interrupts(lambda end: print(end, flush=True)):
    Forgiving()  # what is raised in there is lost
    time.sleep(20)
"""


def test_a_signal_that_is_lost_ends_the_process_all_the_same():
    child = subprocess.Popen(
        [sys.executable, "-c", LOST],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with child:
        assert child.stdout.readline() == "ready\n"
        child.terminate()
        assert child.stdout.readline() == "stopped by SIGTERM\n"
        assert child.wait(timeout=20) == 128 + signal.SIGTERM
