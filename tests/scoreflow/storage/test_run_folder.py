import errno
import fcntl
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch

from scoreflow.errors import RequestError, RunError
from scoreflow.storage import atomic_files
from scoreflow.storage.locks import run_lock
from scoreflow.storage.run_folder import RunDir, write_atomic

CONFIG = {"sde": {"name": "vp", "num_steps": 1000}, "betas": (1e-4, 0.02), "clip": None}
PLAIN = {"sde": {"name": "vp", "num_steps": 1000}, "betas": [1e-4, 0.02], "clip": None}


def make(path):
    return RunDir.create(path / "run", CONFIG, {"python": "3"})


def state(step):
    generator = torch.Generator().manual_seed(step)
    return {
        "step": step,
        "model": {"w": torch.randn(50, 7, generator=generator)},
        "lr": [0.1, None],
    }


def refuse(warning):
    raise AssertionError(f"unexpected warning: {warning}")


def assert_state(loaded, step):
    assert loaded.keys() == {"step", "model", "lr"}
    assert loaded["step"] == step
    assert loaded["lr"] == [0.1, None]
    assert torch.equal(loaded["model"]["w"], state(step)["model"]["w"])


def in_child_killed_at(point, action):
    """Run action in a fork that kills itself -9 before its point-th disk call; was it killed?"""
    pid = os.fork()
    if pid == 0:
        calls = 0

        def deadly(function):
            def call(*args, **kwargs):
                nonlocal calls
                if calls == point:
                    os.kill(os.getpid(), signal.SIGKILL)
                calls += 1
                return function(*args, **kwargs)

            return call

        try:
            for name in ("fsync", "replace", "unlink"):
                setattr(os, name, deadly(getattr(os, name)))
            action()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


# ---- whole files


def test_atomic_write_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "file"
    for data in (b"first", b"the second", b""):
        write_atomic(path, data)
        assert path.read_bytes() == data
    assert os.listdir(tmp_path) == ["file"]


def test_atomic_write_killed_at_any_point_leaves_the_old_or_the_new(tmp_path):
    path, seen, point = tmp_path / "file", [], 0
    while True:
        path.write_bytes(b"old")
        killed = in_child_killed_at(point, lambda: write_atomic(path, b"new"))
        seen.append(path.read_bytes())
        if not killed:
            break
        point += 1
    # before the fsync, the rename, the cleaning up, the folder's fsync; not killed
    assert seen == [b"old", b"old", b"new", b"new", b"new"]


def test_atomic_write_that_fails_keeps_the_old_and_cleans_up(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"cannot write .*file .No space left on device"):
        write_atomic(path, b"new")
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_bytes() == b"old"


def test_files_are_fsynced_before_the_rename_and_the_folder_after(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(descriptor):
        calls.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", lambda *a: (calls.append("rename"), replace(*a)))
    write_atomic(tmp_path / "file", b"x")
    assert re.fullmatch(rf"\.file\.{os.getpid()}\.[0-9a-f]{{16}}\.tmp", calls[0])
    assert calls[1:] == ["rename", tmp_path.name]


# ---- making and opening


def test_config_is_sorted_indented_and_comes_back(tmp_path):
    with make(tmp_path) as run:
        assert run.config == PLAIN
        text = (run.path / "config.json").read_text()
        assert text == json.dumps(PLAIN, indent=2, sort_keys=True) + "\n"
        assert json.loads((run.path / "env.json").read_text()) == {"python": "3"}
        run.write_env({"python": "4"})
    again = RunDir.open(tmp_path / "run")
    assert again.config == PLAIN
    assert json.loads((again.path / "env.json").read_text()) == {"python": "4"}


def test_creating_twice_is_refused_and_changes_nothing(tmp_path):
    make(tmp_path).close()
    with pytest.raises(RequestError, match="holds a run already"):
        RunDir.create(tmp_path / "run", {"other": 1}, {})
    with RunDir.open(tmp_path / "run", training=True) as run:  # the refusal let go of the lock
        assert run.config == PLAIN


def test_checkpoints_without_a_config_are_not_mixed_with_a_new_run(tmp_path):
    make(tmp_path).close()
    (tmp_path / "run" / "config.json").unlink()
    with pytest.raises(RequestError, match=r"no config\.json, which it needs\): put that back"):
        make(tmp_path)
    with pytest.raises(RequestError, match=r"holds a run without its config\.json: put that file"):
        RunDir.open(tmp_path / "run")


def test_a_folder_that_cannot_be_made_or_a_config_that_is_no_json(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match=r"cannot make a run in .*file/run"):
        RunDir.create(tmp_path / "file" / "run", {}, {})
    with pytest.raises(RequestError, match="config: a: b must be finite, got inf"):
        RunDir.create(tmp_path / "run", {"a": {"b": float("inf")}}, {})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no run .*: make one with --mode train"),
        ('{"sde": ', "config.json cannot be read .*: restore it, or train anew"),
        (b"\xff\x00", "config.json cannot be read .*: restore it"),
        ("[1]", "config.json must hold a JSON object, got .1.: restore it"),
    ],
)
def test_open_names_what_is_wrong_in_one_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / "config.json").write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
    with pytest.raises(RequestError, match=message) as refusal:
        RunDir.open(tmp_path)
    assert "\n" not in str(refusal.value)


def test_open_of_a_missing_folder_or_of_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("nothing", "file"):
        with pytest.raises(RequestError, match="holds no run"):
            RunDir.open(tmp_path / name)


# ---- the lock, and a kill -9 while saving

CHILD = """
import sys, torch
from scoreflow.storage.run_folder import RunDir
run = RunDir.open(sys.argv[1], training=True)
print("ready", flush=True)
step = 0
while True:
    step += 1
    run.log(step, 0.0, loss=float(step))
    run.save_checkpoint(step, {"w": torch.full((500_000,), float(step))})
"""


def test_one_training_at_a_time_until_a_kill_while_saving(tmp_path):
    make(tmp_path).close()
    path = tmp_path / "run"
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), path], stdout=subprocess.PIPE
    )
    try:
        assert child.stdout.readline() == b"ready\n"
        with pytest.raises(RequestError, match=f"being trained by process {child.pid}: wait") as e:
            RunDir.open(path, training=True)
        assert "\n" not in str(e.value)
        RunDir.open(path).write_result("likelihood", {"value": 1.0})  # results need no lock
        while len(RunDir.open(path).checkpoint_steps()) < 2:
            time.sleep(0.005)
        time.sleep(0.1)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    with RunDir.open(path, training=True) as run:
        step, loaded = run.load_checkpoint(warn=refuse)
        assert torch.equal(loaded["w"], torch.full((500_000,), float(step)))
        assert step - run.last_logged_step in (0, -1)
        assert [row["loss"] for row in run.read_metrics()[:step]] == list(range(1, step + 1))


def test_the_lock_is_let_go_on_close_and_a_reader_takes_none(tmp_path):
    run = make(tmp_path)
    with pytest.raises(RequestError, match=f"process {os.getpid()}"):
        RunDir.open(run.path, training=True)
    run.close()
    reader = RunDir.open(run.path)
    with RunDir.open(run.path, training=True):
        assert reader.read_metrics() == []


OF_0_1 = """
import fcntl, os, sys
lock = open(sys.argv[1] + "/lock", "a+")
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
lock.truncate(0)
lock.write(f"{os.getpid()}\\n")
lock.flush()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.name == "nt", reason="0.1 could not lock there")
def test_a_training_by_0_1_is_respected_and_its_folder_opens_afterwards(tmp_path):
    make(tmp_path).close()
    path = tmp_path / "run"
    (path / "lock.pid").unlink(missing_ok=True)
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(OF_0_1), path],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
    )
    with child:
        assert child.stdout.readline() == b"ready\n"
        with pytest.raises(RequestError, match=f"being trained by process {child.pid}: wait"):
            RunDir.open(path, training=True)
        child.kill()
    RunDir.open(path, training=True).close()


def raising(number):
    def fail(*_args):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.EACCES, errno.EISDIR, errno.EINVAL])
def test_where_a_folder_cannot_be_opened_its_names_are_left_to_the_system(
    number, tmp_path, monkeypatch
):
    monkeypatch.setattr(atomic_files.os, "open", raising(number))
    atomic_files.fsync_folder(tmp_path)
    monkeypatch.setattr(atomic_files.os, "open", raising(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        atomic_files.fsync_folder(tmp_path)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP])
def test_where_nothing_can_be_flushed_files_are_written_all_the_same(
    number, tmp_path, monkeypatch
):
    monkeypatch.setattr(atomic_files.os, "fsync", raising(number))
    with make(tmp_path) as run:
        run.log(2, 0.5, loss=1.0)
        run.save_checkpoint(2, {"step": 2})
        run.write_result("one", {"value": 1})
        assert run.load_checkpoint() == (2, {"step": 2})
    monkeypatch.setattr(atomic_files.os, "fsync", raising(errno.EIO))
    with pytest.raises(RunError, match=r"cannot write .*Input/output"):
        run.write_result("two", {"value": 2})


def test_on_windows_a_file_that_is_being_read_is_replaced_a_moment_later(tmp_path, monkeypatch):
    path, replace, refusals = tmp_path / "a", os.replace, [errno.EACCES] * 3

    def busy(*names):
        if refusals:
            raise PermissionError(refusals.pop(), "in use")
        replace(*names)

    monkeypatch.setattr(atomic_files.os, "replace", busy)
    monkeypatch.setattr(atomic_files.time, "sleep", lambda _seconds: None)
    with pytest.raises(RunError, match="in use"):  # elsewhere it means what it says
        atomic_files.write_atomic(path, b"1")
    monkeypatch.setattr(atomic_files, "WINDOWS", True)
    atomic_files.write_atomic(path, b"2")
    assert (path.read_bytes(), refusals) == (b"2", [])
    refusals += [errno.EACCES] * atomic_files.REPLACES
    with pytest.raises(RunError, match="what it held stays"):
        atomic_files.write_atomic(path, b"3")
    assert path.read_bytes() == b"2"


# ---- where the system has no locks


@pytest.fixture(params=["no fcntl", errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS])
def without_locks(request, monkeypatch):
    """A platform or a file system without locks."""
    if request.param == "no fcntl":
        monkeypatch.setitem(sys.modules, "fcntl", None)
    else:
        monkeypatch.setattr(fcntl, "flock", raising(request.param))


def test_a_file_stands_for_a_lock_and_a_line_says_so(without_locks, tmp_path, capfd):
    with make(tmp_path) as run:
        marker = run.path / run_lock.MARKER
        line = capfd.readouterr().err
        assert line.count("\n") == 1
        assert f"{run.path} has no locks (" in line
        assert "from two machines" in line
        assert marker.read_text().split()[:2] == [str(os.getpid()), socket.gethostname()]
        with pytest.raises(RequestError) as refused:
            RunDir.open(run.path, training=True)
        host = socket.gethostname()
        assert str(refused.value) == (
            f"{run.path} is being trained by process {os.getpid()} on {host}: wait for it, or "
            "choose another folder"
        )
        run.log(2, 0.5, loss=1.0)
    assert not marker.exists()
    RunDir.open(run.path, training=True).close()


def test_a_file_of_a_killed_process_is_known_on_its_own_machine_alone(
    without_locks, tmp_path, capfd
):
    with make(tmp_path) as run:
        path = run.path
    marker = path / run_lock.MARKER
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    marker.write_text(f"{child.pid}\n{socket.gethostname()}\n")
    RunDir.open(path, training=True).close()
    assert not marker.exists()
    marker.write_text("7\nanother.example\n")
    with pytest.raises(RequestError) as refused:
        RunDir.open(path, training=True)
    assert str(refused.value).endswith(
        f"is being trained by process 7 on another.example: wait for it, or choose another "
        f"folder; if that process has ended, remove {marker}"
    )


def test_other_failures_of_a_lock_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", raising(errno.EIO))
    with pytest.raises(RequestError, match=r"cannot lock .* \(Input/output error\): choose"):
        make(tmp_path)


# ---- folders of somebody else


def test_a_folder_that_cannot_be_written_is_refused_with_the_remedy(tmp_path, monkeypatch):
    with make(tmp_path) as run:
        before = sorted(run.path.rglob("*"))
        run.check_writable()
        assert sorted(run.path.rglob("*")) == before
        monkeypatch.setattr(atomic_files, "temporary_file", denied)
        with pytest.raises(RequestError) as refused:
            run.check_writable()
    assert str(refused.value) == (
        f"cannot write into {run.path} (Permission denied), where the result belongs: copy the "
        "run to a folder of your own, and name that by --workdir"
    )


def denied(*_arguments):
    raise PermissionError(errno.EACCES, "Permission denied")


# ---- metrics


def test_rows_come_back_in_order_and_tensors_become_numbers(tmp_path):
    with make(tmp_path) as run:
        assert run.last_logged_step is None
        run.log(0, 0.5, loss=torch.tensor(1.5))
        run.log(10, 1.0, loss=np.float32(0.25), lr=1e-4)
        run.log(10, 1.5, test_loss=2.0)  # another kind of row of the same step
        expected = [
            {"step": 0, "seconds": 0.5, "loss": 1.5},
            {"step": 10, "seconds": 1.0, "loss": 0.25, "lr": 1e-4},
            {"step": 10, "seconds": 1.5, "test_loss": 2.0},
        ]
        assert run.read_metrics() == expected
        assert run.last_logged_step == 10


def test_a_resumed_run_adds_only_rows_that_are_not_there(tmp_path):
    with make(tmp_path) as run:
        for step in range(0, 50, 10):
            run.log(step, 1.0, loss=float(step))
        before = (run.path / "metrics.jsonl").read_bytes()
    with RunDir.open(tmp_path / "run", training=True) as run:
        assert run.last_logged_step == 40
        for step in range(20, 50, 10):
            run.log(step, 9.0, loss=float(step))
        assert (run.path / "metrics.jsonl").read_bytes() == before
        run.log(40, 9.0, test_loss=1.0)  # the kill fell between the two rows of step 40
        run.log(50, 9.0, loss=50.0)
        assert [row["step"] for row in run.read_metrics()] == [0, 10, 20, 30, 40, 40, 50]


def test_every_cut_of_the_last_line_is_read_over_and_then_removed(tmp_path):
    with make(tmp_path) as run:
        run.log(1, 1.0, loss=1.0)
        run.log(2, 2.0, loss=2.0)
    path = tmp_path / "run" / "metrics.jsonl"
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        rows = 0 if cut < first else 1
        reader = RunDir.open(tmp_path / "run")
        assert [row["step"] for row in reader.read_metrics()] == [1][:rows]
        assert path.read_bytes() == whole[:cut]  # reading changes nothing
        with RunDir.open(tmp_path / "run", training=True) as run:
            run.log(1, 1.0, loss=1.0)
            run.log(2, 2.0, loss=2.0)
        assert path.read_bytes() == whole


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    make(tmp_path).close()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(RequestError, match=r"metrics.jsonl line 2 is damaged .*: got .* remove"):
        RunDir.open(tmp_path / "run")


def test_a_loss_that_is_not_finite_is_not_logged(tmp_path):
    with make(tmp_path) as run:
        with pytest.raises(RunError, match="metrics of step 7: loss must be finite, got nan"):
            run.log(7, 1.0, loss=torch.tensor(float("nan")))
        assert run.read_metrics() == []


# ---- checkpoints


def test_checkpoints_come_back_exactly_and_old_ones_go(tmp_path):
    with make(tmp_path) as run:
        for step in (5, 10, 15, 20):
            assert run.save_checkpoint(step, state(step)).name == f"{step:08d}.pt"
        assert run.checkpoint_steps() == [15, 20]
        assert sorted(os.listdir(run.path / "checkpoints")) == [
            "00000015.pt",
            "00000015.pt.sha256",
            "00000020.pt",
            "00000020.pt.sha256",
        ]
        step, loaded = run.load_checkpoint(warn=refuse)
        assert step == 20
        assert_state(loaded, 20)
        assert_state(run.load_checkpoint(step=15, warn=refuse)[1], 15)
        with pytest.raises(RequestError, match="no checkpoint of step 5, it has 15, 20"):
            run.load_checkpoint(step=5)
        run.save_checkpoint(25, state(25), keep=1)
        assert run.checkpoint_steps() == [25]


def test_the_sidecar_is_what_sha256sum_checks(tmp_path):
    with make(tmp_path) as run:
        path = run.save_checkpoint(3, state(3))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert (path.parent / f"{path.name}.sha256").read_text() == f"{digest}  00000003.pt\n"


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path):
    path.write_bytes(b"")


def no_sidecar(path):
    path.with_name(f"{path.name}.sha256").unlink()


def empty_sidecar(path):
    path.with_name(f"{path.name}.sha256").write_bytes(b"")


DAMAGE = [truncate, flip, empty, no_sidecar, empty_sidecar]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(tmp_path, damage, capsys):
    with make(tmp_path) as run:
        first, second = (run.save_checkpoint(step, state(step)) for step in (1, 2))
        damage(second)
        warnings = []
        step, loaded = run.load_checkpoint(warn=warnings.append)
        assert step == 1
        assert_state(loaded, 1)
        assert len(warnings) == 1
        assert "00000002.pt" in warnings[0]
        run.load_checkpoint()  # without a callback it goes to standard error
        assert "00000002.pt" in capsys.readouterr().err
        with pytest.raises(RequestError, match=r"no whole checkpoint .*00000002\.pt"):
            run.load_checkpoint(step=2)
        damage(first)
        with pytest.raises(RequestError, match=r"00000002\.pt.*00000001\.pt.*train again") as e:
            run.load_checkpoint(warn=warnings.append)
        assert "\n" not in str(e.value)


def test_none_yet(tmp_path):
    with make(tmp_path) as run, pytest.raises(RequestError, match="there is none"):
        run.load_checkpoint()


def test_a_resume_behind_a_damaged_one_never_prunes_what_it_writes(tmp_path):
    with make(tmp_path) as run:
        run.save_checkpoint(10, state(10))
        flip(run.save_checkpoint(20, state(20)))
        run.save_checkpoint(15, state(15), keep=1)  # a run resumed from 10, stopped at 15
        assert run.load_checkpoint(warn=lambda _: None)[0] == 15
        run.save_checkpoint(20, state(20))
        assert run.load_checkpoint(warn=refuse)[0] == 20


def test_only_tensors_and_plain_values_are_loaded(tmp_path):
    with make(tmp_path) as run:
        run.save_checkpoint(1, state(1))
        run.save_checkpoint(2, {"path": tmp_path})  # an object: weights_only refuses to build it
        warnings = []
        assert run.load_checkpoint(warn=warnings.append)[0] == 1
        assert "more than tensors and plain values" in warnings[0]


def test_a_kill_at_any_point_of_saving_loses_at_most_that_save(tmp_path):
    make(tmp_path).close()
    folder, point, steps = tmp_path / "run" / "checkpoints", 0, []

    def save_third():
        RunDir.open(tmp_path / "run", training=True).save_checkpoint(3, state(3))

    while True:
        for path in folder.iterdir():
            path.unlink()
        with RunDir.open(tmp_path / "run", training=True) as run:
            run.save_checkpoint(1, state(1))
            run.save_checkpoint(2, state(2))
        killed = in_child_killed_at(point, save_third)
        for path in folder.glob("*.pt"):
            assert path.with_name(f"{path.name}.sha256").exists()
        with RunDir.open(tmp_path / "run", training=True) as run:
            step, loaded = run.load_checkpoint(warn=refuse)
            assert_state(loaded, step)
            steps.append(step)
            assert not list(folder.glob(".*"))
            assert len(list(folder.glob("*.sha256"))) == len(list(folder.glob("*.pt")))
            run.save_checkpoint(3, state(3))
            assert run.checkpoint_steps() == [2, 3]
        if not killed:
            break
        point += 1
    assert point >= 9
    assert steps == sorted(steps)
    assert {2, 3} == set(steps)


def test_logged_rows_reach_the_disk_before_the_checkpoint(tmp_path, monkeypatch):
    with make(tmp_path) as run:
        synced = []
        fsync = os.fsync

        def spy(descriptor):
            synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
            fsync(descriptor)

        monkeypatch.setattr(atomic_files.os, "fsync", spy)
        run.save_checkpoint(1, state(1))
        assert synced[0] == "metrics.jsonl"
        assert ".sha256." in synced[1]


# ---- results


def test_results_come_back_with_tensors_as_numbers(tmp_path):
    with make(tmp_path) as run:
        result = {
            "value": torch.tensor(1.25, dtype=torch.float64),
            "per_image": torch.arange(3),
            "budget": {"probes": np.float64(0.1), "rows": [{"nfe": np.int64(7)}, (True, None)]},
        }
        path = run.write_result("likelihood", result)
        assert path == run.path / "results" / "likelihood.json"
    expected = {
        "value": 1.25,
        "per_image": [0, 1, 2],
        "budget": {"probes": 0.1, "rows": [{"nfe": 7}, [True, None]]},
    }
    assert RunDir.open(tmp_path / "run").read_result("likelihood") == expected


@pytest.mark.parametrize(
    ("result", "place"),
    [
        ({"budget": {"probes": float("nan")}}, "budget: probes must be finite, got nan"),
        ({"rows": [1.0, float("inf")]}, r"rows\[1\] must be finite, got inf"),
        ({"per_image": torch.tensor([0.0, -torch.inf])}, r"per_image\[1\] must be finite"),
        ({"value": np.float32("nan")}, "value must be finite"),
        ({"value": 1j}, "value must be a number"),
    ],
)
def test_a_number_that_is_none_is_refused_and_the_old_result_stays(tmp_path, result, place):
    with make(tmp_path) as run:
        run.write_result("compare", {"value": 1})
        with pytest.raises(RunError, match=f"results/compare.json: {place}"):
            run.write_result("compare", result)
        assert run.read_result("compare") == {"value": 1}


def test_a_missing_or_damaged_result_names_the_command(tmp_path):
    with make(tmp_path) as run:
        with pytest.raises(RequestError, match="no result 'compare': make it again"):
            run.read_result("compare")
        path = run.write_result("compare", {"value": 1})
        path.write_text('{"value"')
        with pytest.raises(RequestError, match=r"cannot be read .*: make it again"):
            run.read_result("compare")


def test_pictures(tmp_path):
    with make(tmp_path) as run:
        path = run.sample_path(500, "ode")
        assert path == run.path / "samples" / "00000500-ode.png"
        run.write_image(path, b"png")
        assert path.read_bytes() == b"png"


# ---- whose data the weights are of


def test_an_imported_run_is_of_its_data_from_the_first_step_on(tmp_path):
    """Also where the training was stopped before it logged anything."""
    with make(tmp_path) as run:
        assert run.bound
        run.save_checkpoint(4000, state(4000))
        run.write_result("import", {"step": 4000, "format": "edm"})
        assert not run.bound
        run.save_checkpoint(4001, state(4001))
        assert run.bound
    (run.path / "results" / "import.json").write_text('{"format": "edm"}')  # it told no step
    assert not RunDir.open(run.path).bound
