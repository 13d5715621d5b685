"""Links in a run's folder: nothing outside it is changed, whatever they are named like."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scoreflow.cli.main import main
from scoreflow.errors import RequestError, RunError
from scoreflow.storage import regular_files
from scoreflow.storage.atomic_files import write_atomic
from scoreflow.storage.image_files import NpzFile, PngFolder, TensorFile
from scoreflow.storage.run_folder import FOLDERS, RunDir

PRECIOUS = b"one\ntwo, without a newline"
FILES = (
    "lock",
    "lock.pid",
    "lock.soft",
    "metrics.jsonl",
    "env.json",
    "data.json",
    "report.html",
    "results/.profile-trace.json.gz",
    "results/profile.json",
    "results/training.json",
    "results/likelihood.json",
    "results/likelihood.jsonl",
    "results/samples-ddim.json",
    "samples/00000060-ddim.json",
    "samples/00000060-ddim.png",
    "previews/00000070.png",
    "checkpoints/00000070.pt",
    "checkpoints/00000070.pt.sha256",
)
SHORT = ["--device=cpu", "--config.sampling.num_images=4", "--config.sampling.steps=2"]


class Outside:
    """A file and a folder beside a run that nothing may change."""

    def __init__(self, folder: Path) -> None:
        self.file, self.folder = folder / "precious.txt", folder / "precious"
        self.folder.mkdir()
        for path in (self.file, self.folder / ".a.tmp", self.folder / "b.pt.sha256"):
            path.write_bytes(PRECIOUS)
        (self.folder / f".env.json.{2**22 + 1}.tmp").write_bytes(PRECIOUS)
        (self.folder / "00000000.png").write_bytes(PRECIOUS)
        self.before = self.now()

    def now(self) -> dict[str, bytes]:
        paths = [self.file, *self.folder.rglob("*")]
        return {str(path): path.read_bytes() for path in paths}


@pytest.fixture
def outside(tmp_path):
    (tmp_path / "outside").mkdir()
    found = Outside(tmp_path / "outside")
    yield found
    assert found.now() == found.before


def linked(run: Path, name: str, target: Path) -> Path:
    path = run / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(target)
    return path


def in_a_line(argv, status, capfd):
    """The exit status, and a last line on standard error that is the only one of its kind."""
    capfd.readouterr()
    assert main(["run.py", *argv]) == status
    err = capfd.readouterr().err
    assert "Traceback" not in err
    return err.splitlines()[-1] if err else ""


@pytest.mark.parametrize("name", FILES)
def test_a_link_in_place_of_a_file_is_not_followed(name, run_copy, outside, capfd):
    run = run_copy()
    about = json.loads((run / "data.json").read_bytes())
    linked(run, name, outside.file)
    here = [f"--workdir={run}", *SHORT]
    if name in ("lock", "lock.soft", "metrics.jsonl"):
        longer = ["--device=cpu", "--config.training.num_steps=61"]
        told = in_a_line(["--mode=train", f"--workdir={run}", *longer], 2, capfd)
        assert f"{run / name}" in told
        assert "it is a link" in told
        return
    with RunDir.open(run, training=True) as folder:  # all that is written, without the work
        folder.write_env({"a": 1})
        folder.write_data(about)
        folder.log(70, 0.0, loss=1.0)
        folder.save_checkpoint(70, {"step": 70}, keep=0)
        folder.write_image(folder.preview_path(70), b"png")
        folder.write_result("training", {"a": 1})
        folder.write_result("profile", {"a": 1})
        folder.write_result("likelihood", {"a": 1})
        with folder.rows("likelihood", {"a": 1}) as rows:
            rows.append([{"image": 0}])
    for step in (".pt", ".pt.sha256"):
        (run / "checkpoints" / f"00000070{step}").unlink()
    if name.startswith(("samples", "results/samples", "report")):
        in_a_line(["--mode=sample", "--sampler=ddim", *here], 0, capfd)
    if "trace" in name:  # as earlier versions wrote it, and as it is named in the end
        linked(run, "results/profile-trace.json.gz", outside.file)
        in_a_line(["--mode=profile", "--config.profile.num_steps=1", *here[:2]], 0, capfd)


@pytest.mark.parametrize("name", [*FOLDERS, "samples/00000060-ddim"])
def test_a_link_in_place_of_a_folder_is_refused(name, run_copy, outside, capfd):
    run = run_copy()
    linked(run, name, outside.folder)
    asked = [["--mode=sample", "--sampler=ddim", "--config.sampling.save=png", *SHORT]]
    asked += [["--mode=train", "--device=cpu", "--config.training.num_steps=61"]]
    for argv in asked:
        told = in_a_line([*argv, f"--workdir={run}"], 2, capfd)
        assert f"{run / name} is a link, and nothing is written through links" in told


def test_the_runs_own_folder_may_be_a_link(run_copy, tmp_path):
    run, link = run_copy(), tmp_path / "link"
    link.symlink_to(run, target_is_directory=True)
    with RunDir.open(link, training=True) as folder:
        folder.write_result("one", {"a": 1})
    assert (run / "results" / "one.json").exists()


@pytest.mark.parametrize("kind", ["pipe", "folder"])
@pytest.mark.parametrize("name", ["lock", "metrics.jsonl"])
def test_what_is_no_regular_file_is_refused(name, kind, run_copy, capfd):
    """A pipe would wait for its other end."""
    run = run_copy()
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name) if kind == "pipe" else (run / name).mkdir()
    if name == "metrics.jsonl":
        with pytest.raises(OSError, match="it is a folder" if kind == "folder" else "no regular"):
            regular_files.open_regular(run / name, os.O_RDWR)
        return
    with pytest.raises(RequestError, match=f"{run / name}: it is ") as refused:
        RunDir.open(run, training=True)
    assert "\n" not in str(refused.value)


def test_metrics_with_a_second_name_are_left_to_it(run_copy, tmp_path):
    """Of a copy made by `cp -al`, say."""
    run, other = run_copy(), tmp_path / "metrics-of-the-original.jsonl"
    os.link(run / "metrics.jsonl", other)
    with open(other, "ab") as file:
        file.write(b'{"step": 7')
    before = other.read_bytes()
    with RunDir.open(run, training=True) as folder:
        folder.log(99, 0.0, loss=1.0)
        assert folder.last_logged_step == 99
    assert other.read_bytes() == before


def test_a_name_that_is_guessed_is_not_used(tmp_path, outside, monkeypatch):
    """Not even with its token: the file must be new."""
    tokens = iter(["0" * 16, "0" * 16])
    monkeypatch.setattr(regular_files.secrets, "token_hex", lambda _: next(tokens))
    path = tmp_path / "report.html"
    (tmp_path / f".report.html.{os.getpid()}.tmp").symlink_to(outside.file)
    (tmp_path / f".report.html.{os.getpid()}.{'0' * 16}.tmp").symlink_to(outside.file)
    with pytest.raises(RunError, match="File exists"):
        write_atomic(path, b"page")
    assert not path.exists()


@pytest.mark.parametrize("kind", ["npz", "pt", "png"])
def test_saved_samples_write_through_no_link(kind, tmp_path, outside):
    folder = tmp_path / "samples"
    folder.mkdir()
    images = np_images()
    for name in ("samples.npz.part", "samples.pt.part", "samples.pt.frame", "00000000.tmp"):
        (folder / name).symlink_to(outside.file)
    for name in ("samples.npz", "samples.pt", "00000000.png"):
        (folder / name).symlink_to(outside.file)
    files = {
        "npz": lambda: NpzFile(folder / "samples.npz", 2, (1, 4, 4)),
        "pt": lambda: TensorFile(folder / "samples.pt", 2, (1, 4, 4), torch_uint8()),
        "png": lambda: PngFolder(folder, 2, (1, 4, 4)),
    }[kind]()
    if kind != "png":
        with pytest.raises(OSError, match="it is a link"):
            files.put(0, images)
        (folder / f"samples.{kind}.part").unlink()
    files.put(0, images)
    files.finish()
    assert (files.first(2) == images).all()


def np_images():
    import numpy as np

    return np.arange(32, dtype=np.uint8).reshape(2, 1, 4, 4)


def torch_uint8():
    import torch

    return torch.uint8


# ---- temporary files that a kill left -----------------------------------------------------------

WRITING = """
import sys, time
from pathlib import Path
from scoreflow.storage.regular_files import temporary_file, temporary_folder
run = Path(sys.argv[1])
with temporary_file(run / "config.json"), temporary_file(run / "results" / "a.json"):
    with temporary_folder(run / "samples" / "b"):
        print("ready", flush=True)
        time.sleep(100)
"""


def temporaries(run: Path) -> list[str]:
    return sorted(path.name for path in run.rglob(".*"))


def test_what_a_kill_left_goes_at_the_next_start_and_not_before(run_copy):
    run = run_copy()
    old = [run / f".env.json.{2**22 + 1}.tmp", run / "checkpoints" / f".1.pt.{2**22 + 1}.tmp"]
    for path in old:  # as earlier versions named them
        path.write_bytes(b"{}")
    kept = [run / ".mine.tmp", run / "results" / ".notes.12.tmp.txt", run / ".x.0123.tmp.part"]
    for path in kept:
        path.write_bytes(b"{}")
    child = subprocess.Popen(
        [sys.executable, "-c", WRITING, run], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
    )
    try:
        assert child.stdout.readline() == b"ready\n"
        RunDir.open(run).check_writable()
        assert len(temporaries(run)) == 3 + len(kept)  # a process that lives is left alone
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    RunDir.open(run)  # which only reads
    assert len(temporaries(run)) == 3 + len(kept)
    RunDir.open(run).check_writable()
    assert temporaries(run) == sorted(path.name for path in kept)


def test_without_locks_a_temporary_file_is_left_for_a_day(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    left = tmp_path / f".a.{2**22 + 1}.{'a' * 16}.tmp"
    left.write_bytes(b"")
    regular_files.sweep(tmp_path)
    assert left.exists()
    os.utime(left, (0, time.time() - 2 * regular_files.DAY))
    regular_files.sweep(tmp_path, "another")
    assert left.exists()
    regular_files.sweep(tmp_path)
    assert not left.exists()


def test_a_long_name_has_a_temporary_file_too(tmp_path):
    path = tmp_path / ("n" * 250 + ".json")
    write_atomic(path, b"{}")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
