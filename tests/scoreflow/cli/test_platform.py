"""The command line on platforms, terminals and names that are not those of its developers."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from scoreflow.cli import command_line
from scoreflow.cli.main import main
from scoreflow.errors import RequestError
from scoreflow.runtime import distributed
from scoreflow.storage import atomic_files
from scoreflow.storage.locks import run_lock
from tests.scoreflow.cli.test_main import TINY, TOY, train_toy, tree

ROOT = Path(__file__).parents[3]


def environment(**values):
    """Of a process of its own, in which UTF-8 is not assumed."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHON"))}
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "OMP_NUM_THREADS": "1"}
    return {**kept, **plain, "PYTHONPATH": str(ROOT), **values}


def command(*flags):
    return [sys.executable, ROOT / "run.py", *flags]


def run(*flags, **values):
    return subprocess.run(
        command(*flags), env=environment(**values), capture_output=True, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def accented(tmp_path_factory):
    """A run trained in an ASCII terminal, in a folder with accents, on a system without fcntl."""
    folder = tmp_path_factory.mktemp("platform")
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['fcntl'] = None\n")
    workdir = folder / "digits-\u00fcn\u00ef"
    # tensorboard's writer and ours, names in messages, JSON and the report: all see the path
    done = run(
        "--mode=train",
        f"--config={TOY}",
        *TINY,
        b"--workdir=" + os.fsencode(workdir),
        PYTHONPATH=f"{ROOT}{os.pathsep}{folder}",
        PYTHONIOENCODING="ascii",
        RANK="1",
    )
    return workdir, done


def test_an_ascii_terminal_without_locks_and_with_a_stray_rank(accented):
    workdir, done = accented
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"RANK = 1 without WORLD_SIZE is ignored: this process works alone\n" in done.stderr
    assert b"has no locks (import of fcntl halted" in done.stderr
    assert b"UserWarning" not in done.stderr
    escaped = "".join(
        f"\\udc{byte:02x}" if byte > 127 else chr(byte) for byte in workdir.name.encode()
    )
    assert f"{escaped}/report.html\n".encode() in done.stdout
    assert (workdir / "checkpoints" / "00000004.pt").exists()
    assert list((workdir / "tensorboard").glob("events.*"))
    kept = json.loads((workdir / "env.json").read_bytes())["command"]
    assert os.fsencode(workdir) in os.fsencode(kept)
    assert not (workdir / run_lock.MARKER).exists()


def test_a_name_that_is_no_utf_8_and_a_pipe_that_is_closed(accented, tmp_path):
    workdir = os.fsencode(tmp_path) + b"/bad\xff"
    shutil.copytree(os.fsencode(accented[0]), workdir)
    reader, writer = os.pipe()
    os.close(reader)
    flags = ["--mode=sample", "--device=cpu", "--sampler=ddim", b"--workdir=" + workdir]
    done = subprocess.run(
        command(*flags),
        env=environment(),
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=120,
        check=False,
    )
    os.close(writer)
    assert done.returncode == 128 + 13
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    assert os.path.exists(workdir + b"/results/samples-ddim.json")


def test_help_into_a_closed_pipe_ends_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command("--help"), env=environment(), stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + 13, b"")


def test_an_unbuffered_pipe_that_is_closed_ends_quietly():
    """Nothing is left to flush when the error comes."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command("--help"),
        env=environment(PYTHONUNBUFFERED="1"),
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + 13, b"")


@pytest.mark.parametrize("buffered", ["", "1"])
def test_output_that_takes_nothing_is_one_line(buffered):
    if not os.path.exists("/dev/full"):
        pytest.skip("no device that is full")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command("--help"),
            env=environment(PYTHONUNBUFFERED=buffered),
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    told = b"run.py: cannot write to standard output (No space left on device)"
    assert done.returncode == 1
    assert done.stderr.startswith(told)
    assert done.stderr.count(b"\n") == 1


def test_output_that_is_closed_is_one_line():
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" "$@" >&-', *map(str, command("--version"))],
        env=environment(),
        stderr=subprocess.PIPE,
        check=False,
    )
    assert (done.returncode, done.stderr.count(b"\n")) == (0, 1)
    assert done.stderr.startswith(b"standard output is closed")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"WORLD_SIZE": "4", "RANK": "0"}, "MASTER_ADDR and MASTER_PORT are not set"),
        ({"WORLD_SIZE": "four"}, "WORLD_SIZE must be a whole number from 1, got 'four'"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK must be a whole number in 0..1"),
    ],
)
def test_processes_that_cannot_be_are_refused_in_a_line(values, told, monkeypatch, capfd):
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    for mode in ("train", "sample", "classifier"):
        assert main(["run.py", f"--mode={mode}", "--workdir=nowhere"]) == 2
        out, err = capfd.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert told in err


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"RANK": "3"}, "RANK = 3 without WORLD_SIZE is ignored"),
        ({"RANK": "3", "WORLD_SIZE": "1"}, "RANK = 3 beside WORLD_SIZE = 1 is ignored"),
        ({"RANK": "0"}, ""),
        ({"RANK": "0", "WORLD_SIZE": "1"}, ""),
    ],
)
def test_the_rank_of_a_process_alone_is_ignored_and_said(values, told, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert distributed.placement() == distributed.Shard()
    assert (distributed.remark() or "").startswith(told)
    assert (distributed.remark() is None) == (not told)


def test_a_system_without_locks_trains_and_a_leftover_of_another_machine_is_told(
    tmp_path, monkeypatch, capfd
):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    assert train_toy(tmp_path / "run", "--config.training.num_steps=2") == 0
    assert capfd.readouterr().err.count("has no locks") == 1
    marker = tmp_path / "run" / run_lock.MARKER
    marker.write_text(f"1\nnot-{socket.gethostname()}\n")
    again = ["run.py", "--mode=train", "--device=cpu", f"--workdir={tmp_path / 'run'}"]
    assert main(again) == 2
    assert f"if that process has ended, remove {marker}" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["mnist", "mnist.py", "configs/mnist.py"])
def test_an_experiment_that_comes_with_us_is_found_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    request = command_line.parse(["run.py", "--mode=train", "--config", name])
    assert (request.experiment, request.config["data.path"]) == ("mnist", "ylecun/mnist")
    with pytest.raises(RequestError, match=r"no such config file: sub/mnist\.py; did you mean"):
        command_line.parse(["run.py", "--mode=train", "--config", "sub/mnist.py"])


# ---- whether the result can be written is tried before there is one

MODES = ("sample", "likelihood", "compare", "equivalence", "profile", "classifier", "train")


def denied(*_arguments):
    raise PermissionError(13, "Permission denied")


def work(*_arguments, **_named):
    raise AssertionError("the work has begun")


@pytest.mark.parametrize("mode", MODES)
def test_a_run_of_somebody_else_is_refused_before_any_work(
    mode, accented, tmp_path, monkeypatch, capfd
):
    run = tmp_path / "run"
    shutil.copytree(accented[0], run)

    monkeypatch.setattr(atomic_files, "temporary_file", denied)
    monkeypatch.setattr("scoreflow.factory.assembly.experiment", work)
    before = tree(run)
    assert main(["run.py", f"--mode={mode}", "--device=cpu", f"--workdir={run}"]) == 2
    told = f"cannot write into {run} (Permission denied), where the result belongs: "
    assert told in capfd.readouterr().err
    assert tree(run) == before


@pytest.mark.parametrize(
    ("flags", "place", "remedy"),
    [
        (["--mode=train", "--workdir=a/b"], ".", "choose another --workdir"),
        (["--mode=import", "--from=x.pt", "--workdir=a/b"], ".", "choose another --workdir"),
        (["--mode=equivalence"], ".", "work in a folder of your own"),
        (["--mode=profile"], ".", "work in a folder of your own"),
        (
            ["--mode=export", "--to=safetensors", "--out=a/b/c.pt", "--workdir=run"],
            ".",
            "choose another --out",
        ),
    ],
)
def test_a_place_that_cannot_be_made_is_refused_before_any_work(
    flags, place, remedy, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(atomic_files, "temporary_file", denied)
    monkeypatch.setattr("scoreflow.factory.assembly.experiment", work)
    assert main(["run.py", *flags]) == 2
    told = f"cannot write into {tmp_path / place} (Permission denied), where the result belongs"
    err = capfd.readouterr().err
    assert told in err
    assert remedy in err
    assert list(tmp_path.iterdir()) == []
