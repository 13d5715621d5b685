"""The command for a CUDA device: its bookkeeping, on a CPU, with commands that do little."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import divergence
from benchmarks.gpu import check, launcher, stages
from benchmarks.gpu.stages import Options, Part
from benchmarks.growth import table
from scoreflow.cli import command_line
from scoreflow.factory.likelihood import build_solver
from scoreflow.factory.training import build_objective, build_training
from scoreflow.schema import request, resolve
from scoreflow.storage.run_folder import RunDir

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
WHERE = {"commit": "abc-dirty"}
WRITE = "import json, pathlib; pathlib.Path({!r}).write_text(json.dumps({{'value': 1}}))"


@pytest.fixture
def runner(tmp_path):
    (tmp_path / "out").mkdir()
    return launcher.Runner(tmp_path / "out", WHERE, 1.0)


def part_of(tmp_path, code, **more):
    return Part(("-c", code), {"some.json": "left.json"}, tmp_path / "work", **more)


def writes(tmp_path):
    return part_of(tmp_path, WRITE.format(str(tmp_path / "work" / "left.json")))


def test_a_part_is_done_once_a_commit(runner, tmp_path, monkeypatch):
    part = writes(tmp_path)
    assert not runner.done(part)
    assert runner.run(part) == "done"
    kept = json.loads((tmp_path / "out" / "some.json").read_text())
    assert kept["value"] == 1
    assert kept["environment"] == WHERE
    assert kept["command"].startswith("python -c ")
    monkeypatch.setattr(launcher, "run_child", lambda *_: pytest.fail("it is done"))
    assert runner.run(part) == "done"
    for commit, done in (("abc", True), ("def", False), (None, False)):
        assert launcher.Runner(runner.out, {"commit": commit}, 1.0).done(part) is done
    # two that have no commit are not therefore of the same one
    outside = launcher.Runner(runner.out, {"commit": None}, 1.0)
    (tmp_path / "out" / "some.json").write_text(json.dumps({"environment": {"commit": None}}))
    assert not outside.done(part)


def test_a_part_that_fails_leaves_no_result(runner, tmp_path):
    assert runner.run(part_of(tmp_path, "raise SystemExit(3)")) == "failed: status 3"
    assert "it left no" in runner.run(part_of(tmp_path, "pass", least=0.0))
    assert not list(runner.out.iterdir())


def test_what_takes_longer_than_the_call_is_interrupted(tmp_path):
    begun = time.monotonic()
    assert (
        launcher.run_child([sys.executable, "-c", "import time; time.sleep(60)"], 0.5)
        in launcher.STOPPED
    )
    assert launcher.run_child([sys.executable, "-c", "raise SystemExit(4)"], 30.0) == 4
    assert time.monotonic() - begun < 20


def test_what_does_not_hear_an_interruption_is_ended(monkeypatch):
    monkeypatch.setattr(launcher, "GRACE", 0.3)
    deaf = (
        "import signal, time\nfor s in (2, 15): signal.signal(s, signal.SIG_IGN)\ntime.sleep(60)"
    )
    assert launcher.run_child([sys.executable, "-c", deaf], 1.0) in launcher.STOPPED


def test_a_call_that_ends_says_whether_the_part_goes_on(runner, tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "run_child", lambda *_: launcher.STOPPED[0])
    on = part_of(tmp_path, "", goes_on=True)
    assert runner.run(on) == "not yet: stopped at the call's end, and goes on from there"
    assert runner.run(part_of(tmp_path, "", least=0.0)) == "not yet: stopped at the call's end"
    again = launcher.Runner(runner.out, WHERE, 1.0)
    assert "failed: it needs more than 1 minutes" in again.run(part_of(tmp_path, ""))


def test_a_part_is_not_begun_with_too_little_of_a_call_left(runner, tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "run_child", lambda *_: 1)
    long = part_of(tmp_path, "", least=5.0)
    assert runner.run(long) == "failed: status 1"  # the first one always is
    assert runner.run(long).startswith("not yet: 1.0 minutes are left")


def training_part(tmp_path, minutes, steps=1_000_000):
    """A real training of points in the plane, as a rule one that takes longer than it gets."""
    keys = (f"num_steps={steps}", "batch_size=4", "log_every=10", "checkpoint_every=10")
    keys = [f"--config.training.{key}" for key in keys]
    options = Options("cpu", tmp_path, None, minutes)
    command = stages.mode("train", options, tmp_path / "run", "--config=configs/toy.py", *keys)
    made = {"trained.json": "training.json"}
    return Part(
        (*command, "--config.model.width=8"),
        made,
        tmp_path / "run",
        goes_on=True,
        minutes=minutes,
    )


def interrupted_after_a_checkpoint(folder):
    """What the end of a call is to a run, at a time that does not depend on the machine."""

    def run_child(command, seconds):
        run = RunDir.open(folder) if (folder / "config.json").exists() else None
        before = run.checkpoint_steps() if run else []
        child = subprocess.Popen(command)
        try:
            while child.poll() is None:
                time.sleep(0.05)
                there = [int(path.stem) for path in (folder / "checkpoints").glob("*.pt")]
                if there and max(there) > max(before, default=0):
                    child.send_signal(signal.SIGINT)
                    break
            return child.wait(timeout=60)
        finally:
            child.kill()  # which does nothing to one that has ended

    return run_child


@pytest.mark.slow
def test_a_training_goes_on_over_calls_until_its_minutes_are_over(tmp_path, monkeypatch):
    out, folder = tmp_path / "out", tmp_path / "run"
    out.mkdir()
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(launcher, "run_child", interrupted_after_a_checkpoint(folder))
    outcome = launcher.Runner(out, WHERE, 10.0).run(training_part(tmp_path, 25.0))
    assert outcome == "not yet: stopped at the call's end, and goes on from there"
    first = RunDir.open(folder).checkpoint_steps()[-1]
    spent = json.loads((tmp_path / "run-spent.json").read_text())["seconds"]
    # of as many minutes as it has had, and a moment: the second call brings it to its end
    part = training_part(tmp_path, (spent + 0.01) / 60)
    assert launcher.Runner(out, WHERE, 10.0).run(part) == "done"
    kept = json.loads((out / "trained.json").read_text())
    assert kept["step"] == RunDir.open(folder).checkpoint_steps()[-1] > first
    assert kept["images"] == 4 * kept["step"]
    assert kept["seconds"] > spent
    assert [row["step"] for row in kept["rows"]] == sorted({row["step"] for row in kept["rows"]})


@pytest.mark.slow
def test_a_training_that_ends_within_its_minutes_leaves_its_result_too(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(ROOT)
    part = training_part(tmp_path, 25.0, steps=20)
    assert launcher.Runner(tmp_path / "out", WHERE, 10.0).run(part) == "done"
    kept = json.loads((tmp_path / "out" / "trained.json").read_text())
    assert kept["step"] == 20
    assert [row["step"] for row in kept["rows"]] == [10, 20]


def test_a_training_of_another_commit_is_not_gone_on_with(runner, tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "run_child", lambda *_: launcher.STOPPED[0])
    part = training_part(tmp_path, 1.0)
    assert runner.run(part).startswith("not yet")
    other = launcher.Runner(runner.out, {"commit": "def"}, 1.0)
    assert "was made by commit abc; remove it" in other.run(part)
    assert runner.run(part).startswith("not yet")


def test_a_training_that_never_kept_anything_has_failed(runner, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(launcher, "run_child", lambda *_: launcher.STOPPED[0])
    part = training_part(tmp_path, 1e-9)
    assert runner.run(part) == "failed: status 1"
    assert "has no checkpoint" in capsys.readouterr().err


def test_the_exit_status_says_what_to_do(tmp_path, monkeypatch):
    part = writes(tmp_path)
    for outcomes, status in (
        (["done", "done"], 0),
        (["done", "not yet: later"], 3),
        (["failed: status 1", "not yet: later"], 1),
    ):
        left = iter(outcomes)
        runner = launcher.Runner(tmp_path, WHERE, 1.0)
        monkeypatch.setattr(runner, "run", lambda _, left=left: next(left))
        assert launcher.go(runner, {"check": [part, part]}) == status
    # what follows the training is about its network
    left = iter(["not yet: later"])
    monkeypatch.setattr(runner, "run", lambda _: next(left))
    assert launcher.go(runner, {"cifar10": [part, part]}) == 3
    # but no part depends on any other part
    left, other = iter(["done", "failed: status 1", "done"]), writes(tmp_path)
    assert launcher.go(runner, {"cifar10": [part, other, other]}) == 1
    assert not list(left)


def test_without_a_gpu_the_command_is_refused_in_a_line(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert launcher.main([]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no CUDA device was found" in error


def test_the_list_has_every_part(tmp_path, capsys):
    assert launcher.main(["--device=cpu", f"--out={tmp_path}", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    every = stages.stages(Options("cpu", tmp_path, None, 25.0))
    assert tuple(every) == launcher.NAMES
    assert len(lines) == 2 + sum(len(parts) for parts in every.values())


@pytest.mark.parametrize("bad", ["--minutes=0", "--train-minutes=-1", "--stage=all", "--data=."])
def test_bad_arguments_are_refused(bad):
    with pytest.raises(SystemExit):
        launcher.main([bad, "--device=cpu"])


def test_a_device_that_is_not_there_is_refused_in_a_line(capsys):
    with pytest.raises(SystemExit) as error:
        check.main(["--device=tpu"])
    assert error.value.code == 2
    assert "--device tpu cannot be used" in capsys.readouterr().err


def test_every_command_of_run_is_one_that_it_takes(tmp_path):
    """Keys, their types and their choices; the evaluations' on the training's own config."""
    options = Options("cuda", tmp_path, tmp_path, 25.0)
    every = [part for parts in stages.stages(options).values() for part in parts]
    commands = [part.command for part in every if part.command[0] == "run.py"]
    saved = None
    assert len(commands) == 2 + len(stages.SAMPLERS) + 2
    for command in commands:
        parsed = command_line.parse(list(command))
        if parsed.mode in ("train", "equivalence"):
            config = resolve.training_config(parsed)
        else:
            config = resolve.evaluation_config(parsed, saved, tmp_path)
        assert (parsed.workdir is None) == (parsed.mode == "equivalence")
        if parsed.mode == "train":
            saved = request.flatten(config.to_dict())
            assert saved["data.path"] == str(tmp_path)
            assert saved["model.channels"] == 128
        build_training(config)
        build_objective(config)
        build_solver(config)


def test_every_benchmark_that_is_named_leaves_what_is_kept(tmp_path):
    options = Options("cuda", tmp_path, None, 25.0)
    every = [part for parts in stages.stages(options).values() for part in parts]
    names = [name for part in every for name in part.made]
    assert len(set(names)) == len(names)  # none overwrites another's
    assert all(next(iter(part.made)).endswith(".json") for part in every)


def test_each_part_of_growth_has_one_axis(tmp_path):
    """And all of them together what the benchmark has by itself."""
    parts = stages.stages(Options("cpu", tmp_path, None, 25.0))["growth"]
    found = []
    for part in parts:
        options = table.parse(list(part.command[2:]))
        cases = table.cases(CPU, options.resolutions, options.batches, options.processes)
        assert {f"growth-{case.axis}" for case in cases} == {part.name}
        found += cases
    options = table.parse(["--device=cpu"])
    assert found == table.cases(CPU, options.resolutions, options.batches, options.processes)


def test_images_a_second_at_an_error_are_of_the_run_that_is_trained(tmp_path):
    parts = stages.cifar10(Options("cuda", tmp_path, None, 25.0))
    names = [part.name for part in parts]
    part = parts[names.index("cifar10-divergence")]
    assert names.index("cifar10-training") == 0
    _, options = divergence.parsed(list(part.command[2:]))
    assert options.workdir == parts[0].at


def test_a_device_is_compared_with_a_cpu(monkeypatch, tmp_path, capsys):
    found = {"a": (torch.tensor([1.0, 2.0]), 0.1)}
    rows = check.compared(found, {"a": (torch.tensor([1.0, 2.05]), 0.1)})
    assert rows[0]["passed"]
    assert rows[0]["difference"] == pytest.approx(0.05)
    for wrong in (2.2, float("nan")):
        rows = check.compared(found, {"a": (torch.tensor([1.0, wrong]), 0.1)})
        assert not rows[0]["passed"]
        assert "NO" in check.table(rows)
    monkeypatch.setattr(check, "SAMPLERS", ("ddim",))
    monkeypatch.setattr(check, "SWITCHES", (({"micro_batches": 5}, check.EXACT),))
    monkeypatch.setattr(check, "CHECKS", (check.noise, check.samples))
    assert check.main(["--device=cpu", f"--out={tmp_path}"]) == 0
    kept = json.loads((tmp_path / "check.json").read_text())["rows"]
    assert [row["difference"] for row in kept[:-1]] == [0.0] * 4
    assert "micro_batches=5, from cpu's plain training" in kept[-1]["name"]
    assert kept[-1]["difference"] < kept[-1]["tolerance"] == check.EXACT


def test_the_check_would_see_other_noise_likelihoods_and_gradients():
    """Its networks do not answer zero, so that each figure depends on each weight's part."""
    _, gradient = check.trained(CPU)
    assert (gradient != 0).double().mean() > 0.9
