"""The command for a CUDA device: its bookkeeping, on a CPU, with commands that do little."""

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import contenders, divergence, sampling, training
from benchmarks.contenders import PLAIN
from benchmarks.gpu import agreement, check, images, launcher, sources, stages
from benchmarks.gpu.agreement import Figure
from benchmarks.gpu.stages import Options, Part
from benchmarks.growth import table
from benchmarks.growth.case import config_of
from scoreflow.cli import command_line
from scoreflow.factory.likelihood import build_solver
from scoreflow.factory.training import build_objective, build_training
from scoreflow.schema import request, resolve
from scoreflow.storage.run_folder import RunDir

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
WHERE = {"commit": "abc-dirty", "sources": "123"}
WRITE = "import json, pathlib; pathlib.Path({!r}).write_text(json.dumps({{'value': 1}}))"


@pytest.fixture
def runner(tmp_path):
    (tmp_path / "out").mkdir()
    return launcher.Runner(tmp_path / "out", WHERE, 1.0)


def part_of(tmp_path, code, **more):
    return Part(("-c", code), {"some.json": "left.json"}, tmp_path / "work", **more)


def writes(tmp_path):
    return part_of(tmp_path, WRITE.format(str(tmp_path / "work" / "left.json")))


def test_a_part_is_done_once_for_the_same_files(runner, tmp_path, monkeypatch):
    part = writes(tmp_path)
    assert not runner.done(part)
    assert runner.run(part) == "done"
    kept = json.loads((tmp_path / "out" / "some.json").read_text())
    assert kept["value"] == 1
    assert kept["environment"] == WHERE
    assert kept["command"].startswith("python -c ")
    assert "subset" not in kept
    monkeypatch.setattr(launcher, "run_child", lambda *_: pytest.fail("it is done"))
    assert runner.run(part) == "done"
    # whatever git says, if it is there at all
    for commit, files, done in (("def", "123", True), (None, "123", True), ("abc", "124", False)):
        where = {"commit": commit, "sources": files}
        assert launcher.Runner(runner.out, where, 1.0).done(part) is done
    # of an older version, which wrote no hash
    (tmp_path / "out" / "some.json").write_text(json.dumps({"environment": {"commit": "abc"}}))
    assert not runner.done(part)


def test_a_result_says_of_how_many_images_it_is(runner, tmp_path):
    few = part_of(tmp_path, WRITE.format(str(tmp_path / "work" / "left.json")), subset=5)
    assert runner.run(few) == "done"
    assert json.loads((tmp_path / "out" / "some.json").read_text())["subset"] == 5
    assert runner.done(few)
    assert not runner.done(writes(tmp_path))  # of all of them
    assert not runner.done(part_of(tmp_path, "", subset=6))


def test_a_result_keeps_the_environment_of_its_own_process(runner, tmp_path):
    own = "{'environment': {'commit': 'abc', 'diffusers': '0.3'}}"
    code = WRITE.replace("{{'value': 1}}", own.replace("{", "{{").replace("}", "}}"))
    assert (
        runner.run(part_of(tmp_path, code.format(str(tmp_path / "work" / "left.json")))) == "done"
    )
    kept = json.loads((tmp_path / "out" / "some.json").read_text())["environment"]
    assert kept == {"commit": "abc", "diffusers": "0.3", "sources": "123"}


def copied(files, root):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


FILES = {
    "run.py": "run",
    "sde/processes/vp.py": "vp",
    "scoreflow/models/unet.py": "unet",
    "benchmarks/training.py": "training",
}


def test_the_hash_is_of_names_and_contents_of_the_sources(tmp_path):
    same = copied(FILES, tmp_path / "same")
    (same / "scoreflow" / "sde").symlink_to("../sde")
    first = sources.fingerprint(same)
    assert len(first) == 16
    assert [path.name for path in sources.sources(same)] == [
        *("training.py", "run.py", "unet.py", "vp.py")
    ]
    beside = {"docs/a.md": "a", "tests/test_a.py": "a", "scoreflow/__pycache__/a.pyc": "a"}
    # a copy without git, with its links followed, and with what no measurement reads
    copy = copied({**FILES, **beside, "scoreflow/sde/processes/vp.py": "vp"}, tmp_path / "copy")
    assert sources.fingerprint(copy) == first
    for number, change in enumerate((
        {"sde/processes/vp.py": "vq"},
        {"sde/vp2.py": ""},
        {"scoreflow/models/unet.py": "une", "scoreflow/models/unet2.py": "t"},
        {"run.py": "run\n"},
    )):  # fmt: skip
        other = copied({**FILES, **change}, tmp_path / str(number))
        assert sources.fingerprint(other) != first, change


def test_the_hash_is_of_torch_too(tmp_path, monkeypatch):
    """Of its first two numbers."""
    found = []
    for version in ("2.13.0+cpu", "2.13.1", "2.14.0"):
        monkeypatch.setattr(sources.metadata, "version", lambda _, found=version: found)
        found.append(sources.fingerprint.__wrapped__(copied(FILES, tmp_path)))
    assert found[0] == found[1] != found[2]


def test_the_hash_is_of_this_repository():
    names = {path.relative_to(ROOT).as_posix() for path in sources.sources()}
    assert {
        "run.py",
        "sde/processes/vp.py",
        "configs/cifar10.py",
        "scoreflow/models/unet.py",
    } <= names
    assert "benchmarks/gpu/sources.py" in names
    assert not {name for name in names if name.startswith(("scoreflow/sde/", "tests/", "docs/"))}


def test_a_part_that_fails_leaves_no_result(runner, tmp_path):
    assert runner.run(part_of(tmp_path, "raise SystemExit(3)")) == "failed: status 3"
    assert "it left no" in runner.run(part_of(tmp_path, "pass", least=0.0))
    assert not list(runner.out.iterdir())


def test_what_takes_longer_than_the_call_is_interrupted(tmp_path):
    begun = time.monotonic()
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert launcher.run_child(sleep, 0.5, {}) in launcher.STOPPED
    ask = "import os; raise SystemExit(int(os.environ['STATUS']))"
    assert launcher.run_child([sys.executable, "-c", ask], 30.0, {"STATUS": "4"}) == 4
    assert time.monotonic() - begun < 20


def test_what_does_not_hear_an_interruption_is_ended(monkeypatch):
    monkeypatch.setattr(launcher, "GRACE", 0.3)
    deaf = (
        "import signal, time\nfor s in (2, 15): signal.signal(s, signal.SIG_IGN)\ntime.sleep(60)"
    )
    assert launcher.run_child([sys.executable, "-c", deaf], 1.0, {}) in launcher.STOPPED


def test_a_call_that_ends_says_whether_the_part_goes_on(runner, tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "run_child", lambda *_: launcher.STOPPED[0])
    on = part_of(tmp_path, "", goes_on=True)
    assert runner.run(on) == "not yet: stopped at the call's end, and goes on from there"
    assert runner.run(part_of(tmp_path, "", least=0.0)) == "not yet: stopped at the call's end"
    again = launcher.Runner(runner.out, WHERE, 1.0)
    assert "failed: it needs more than 1 minutes" in again.run(part_of(tmp_path, ""))


def test_a_part_that_compiles_for_a_whole_call_goes_on_in_the_next(tmp_path, monkeypatch, capsys):
    """As long as each call compiles more; what an interrupted compiler leaves does not count."""
    kept, calls = tmp_path / "compiled" / "ab", []
    kept.mkdir(parents=True)

    def compiling(*_):
        calls.append(f"{len(calls)}")
        unfinished = kept / f"tmp.pid_{len(calls)}"
        unfinished.mkdir()
        for file in (kept / f".{len(calls)}.tmp", unfinished / "kernel.cubin"):
            file.touch()
        (kept / ("first.py", "second.py", "second.py")[len(calls) - 1]).touch()
        return launcher.STOPPED[0]

    monkeypatch.setattr(launcher, "run_child", compiling)
    more = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")}
    for status, outcome in (
        (3, "not yet: stopped at the call's end, and goes on from what was compiled (1 files"),
        (3, "not yet: stopped at the call's end, and goes on from what was compiled (1 files"),
        (1, "failed: it needs more than 1 minutes"),
    ):
        runner = launcher.Runner(tmp_path, WHERE, 1.0, more)
        assert launcher.go(runner, {"training": [part_of(tmp_path, "")]}) == status
        assert outcome in capsys.readouterr().out


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

    def run_child(command, seconds, variables):
        run = RunDir.open(folder) if (folder / "config.json").exists() else None
        before = run.checkpoint_steps() if run else []
        child = subprocess.Popen(command, env=variables)
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


def test_a_training_of_other_files_is_not_gone_on_with(runner, tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "run_child", lambda *_: launcher.STOPPED[0])
    part = training_part(tmp_path, 1.0)
    assert runner.run(part).startswith("not yet")
    other = launcher.Runner(runner.out, {**WHERE, "sources": "124"}, 1.0)
    assert "was made by other files or another torch (123, not 124); remove it" in other.run(part)
    assert launcher.Runner(runner.out, {**WHERE, "commit": None}, 1.0).run(part)[:7] == "not yet"
    (tmp_path / "run-spent.json").write_text('{"seconds": 1.0, "commit": "abc"}')
    again = launcher.Runner(runner.out, WHERE, 1.0)
    assert "was made by other files or another torch (of an older version" in again.run(part)


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
    assert launcher.go(runner, {"cifar10": [replace(part, minutes=1.0), part]}) == 3
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


@pytest.mark.parametrize(
    "bad", ["--minutes=0", "--train-minutes=-1", "--stage=all", "--data=.", "--subset=5"]
)
def test_bad_arguments_are_refused(bad):
    with pytest.raises(SystemExit):
        launcher.main([bad, "--device=cpu"])


def test_parts_are_chosen_by_name(tmp_path, capsys):
    ask = ["--device=cpu", f"--out={tmp_path}", "--list", "--part", "check", "training-128-best"]
    assert launcher.main(ask) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[1] for row in rows] == ["check", "training-128-best"]
    assert launcher.main([*ask, "training-129"]) == 2
    error = capsys.readouterr().err
    assert "no such --part in these stages: training-129; did you mean 'training-" in error
    assert launcher.main([*ask, "xyz"]) == 2
    assert "xyz; they are check, equivalence" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
def test_without_a_device_there_are_the_list_wrong_names_and_a_dry_run(capsys, tmp_path):
    assert launcher.main(["--list", f"--work={tmp_path}"]) == 0
    said = capsys.readouterr()
    assert "| training-128-best |" in said.out
    assert said.err.startswith("what is done is not known: --device cuda cannot be used here")
    assert launcher.main(["--part", "training-128-bset"]) == 2
    assert "did you mean 'training-128-best'?" in capsys.readouterr().err
    assert launcher.main(["--stage", "check"]) == 2
    error = capsys.readouterr().err
    assert "no CUDA device was found" in error
    assert "--dry-run tries every command on the CPU" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", ["--subset=-1", "--minutes=0", "--train-minutes=-2"])
def test_a_number_out_of_range_is_told_by_its_flag_alone(bad, capsys):
    with pytest.raises(SystemExit):
        launcher.parse([bad])
    told = capsys.readouterr().err.splitlines()[-1]
    flag, value = bad.split("=")
    assert f"error: {flag} must be" in told
    assert told.endswith(f"got {value}")
    assert told.count("--") == 1


def test_missing_images_are_told_before_anything_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(images, "_reached", lambda: False)
    seen = []
    monkeypatch.setattr(launcher.Runner, "run", lambda _, part: seen.append(part.name) or "done")
    ask = ["--device=cpu", f"--out={tmp_path}", "--stage", "check", "cifar10"]
    assert launcher.main(ask) == 1
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("cifar10: failed: no images: add --data DIR")
    assert (len(others), seen) == (3, ["check", "equivalence"])
    assert others[-1] == first  # said again in the end
    assert launcher.main([*ask[:-1]]) == 0  # of a stage that is not asked for nothing is said
    with monkeypatch.context() as patch:
        patch.setattr(images, "_installed", lambda _: False)
        assert "needs pyarrow" in images.missing(tmp_path)
        assert "pip install datasets" in images.missing(None)
    monkeypatch.setattr(images, "_installed", lambda _: True)
    assert images.missing(tmp_path) == ""
    assert "cannot be reached" in images.missing(None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert images.missing(None) == ""


def write_images(folder, count, split):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    import io

    from PIL import Image

    rows = []
    for number in range(count):
        file = io.BytesIO()
        Image.new("RGB", (32, 32), (number, 0, 255 - number)).save(file, "PNG")
        rows.append({"bytes": file.getvalue(), "path": f"{number}.png"})
    folder.mkdir(exist_ok=True)
    table = arrow.table({"img": rows, "label": list(range(count))})
    parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")


def test_the_first_images_of_each_split_alone(tmp_path, capsys):
    parquet = pytest.importorskip("pyarrow.parquet")
    for split, count in (("train", 9), ("test", 5)):
        write_images(tmp_path / "data", count, split)
    ask = ["--device=cpu", f"--out={tmp_path}", f"--data={tmp_path / 'data'}", "--list"]
    ask += [f"--work={tmp_path / 'work'}", "--stage", "cifar10"]
    assert launcher.main([*ask, "--subset=4"]) == 0
    kept = tmp_path / "work" / "images-4"
    assert f"--config.data.path={kept}" in capsys.readouterr().out
    for split in images.SPLITS:
        table = parquet.read_table(kept / f"{split}-00000-of-00001.parquet")
        assert table["label"].to_pylist() == [0, 1, 2, 3]
    assert launcher.main([*ask, "--subset=6"]) == 2
    assert "--subset must be at most 5, the test images of" in capsys.readouterr().err
    parts = stages.cifar10(Options("cpu", tmp_path, kept, 25.0, subset=4))
    assert {part.subset for part in parts} == {4}
    assert parts[0].at.name == "cifar10-4"  # not the folder of a run on all of them


def test_a_device_that_is_not_there_is_refused_in_a_line(capsys):
    with pytest.raises(SystemExit) as error:
        check.main(["--device=tpu"])
    assert error.value.code == 2
    assert "--device tpu cannot be used" in capsys.readouterr().err


@pytest.mark.parametrize("dry", [False, True])
def test_every_command_of_run_is_one_that_it_takes(dry, tmp_path):
    """Keys, their types and their choices; the evaluations' on the training's own config."""
    options = Options("cuda", tmp_path, tmp_path, 25.0, dry=dry)
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
            assert saved["model.channels"] == (32 if dry else 128)
        if parsed.mode == "compare" and dry:
            assert config.compare.nfe == (3,)
        build_training(config)
        build_objective(config)
        build_solver(config)


PARSERS = {
    "benchmarks.gpu.check": check.parsed,
    "benchmarks.training": training.parsed,
    "benchmarks.sampling": sampling.parsed,
    "benchmarks.divergence": divergence.parsed,
    "benchmarks.growth": lambda argv: (None, table.parse(argv)),
}


@pytest.mark.parametrize("dry", [False, True])
def test_every_command_of_a_benchmark_is_one_that_it_takes(dry, tmp_path):
    options = Options("cpu", tmp_path, None, 25.0, dry=dry)
    every = [part for parts in stages.stages(options).values() for part in parts]
    seen = set()
    for part in every:
        if part.command[0] == "-m":
            _, module, *arguments = part.command
            seen.add(module)
            _, found = PARSERS[module](arguments)
            assert found.out == part.at
            if variants := getattr(found, "variants", ""):
                assert set(variants.split(",")) <= set(training.VARIANTS)
            if dry and hasattr(found, "channels"):
                assert (found.channels, found.rounds) == (32, 2)
            elif hasattr(found, "channels"):
                assert found.channels == 128
    assert seen == set(PARSERS)


def test_every_part_fits_a_call(tmp_path):
    """By its estimate; and no part compiles twice what an estimate is of."""
    options = Options("cuda", tmp_path, None, 25.0)
    minutes = launcher.parse(["--device=cpu"]).minutes
    for parts in stages.stages(options).values():
        for part in parts:
            assert part.least <= minutes - 1, part.name
    named = [*stages.STEPS.values(), *stages.DRAWN.values()]
    assert max(len({*variants} & {*stages.COMPILED}) for variants in named) == 1
    assert all({*switches} >= {*PLAIN} for switches in training.VARIANTS.values())
    compiled = {name for name, switches in training.VARIANTS.items() if switches["compile"]}
    older = {"best16", "graphs16"}
    assert compiled - {"compiled"} == {*stages.COMPILED} | older
    assert not any("compiled" in variants for variants in named)


def test_a_dry_run_is_on_the_cpu_uncompiled_and_apart(tmp_path, monkeypatch):
    seen = []

    def run(runner, part):
        assert runner.out == tmp_path / "dry-run" / "results"
        assert runner.variables["TORCH_COMPILE_DISABLE"] == "1"
        assert "--device=cpu" in part.command
        seen.append(part.name)
        return "done"

    monkeypatch.setattr(launcher.Runner, "run", run)
    assert launcher.main(["--dry-run", f"--work={tmp_path}"]) == 0  # without images
    parts = stages.stages(Options("cpu", tmp_path, None, 25.0)).values()
    assert seen == [part.name for stage in parts for part in stage]
    # of measurements the next call finds what was compiled
    kept = launcher.variables_of(launcher.parse([f"--work={tmp_path}"]))
    assert "TORCH_COMPILE_DISABLE" not in kept
    assert kept["TORCHINDUCTOR_CACHE_DIR"].startswith(("/", str(tmp_path)))


def test_every_part_writes_below_work_alone(tmp_path, monkeypatch):
    """The one that has no --workdir or --out is run in a folder there."""
    options = Options("cpu", tmp_path, None, 25.0)
    for parts in stages.stages(options).values():
        for part in parts:
            named = [word for word in part.command if word.startswith(("--workdir=", "--out="))]
            assert all(word.partition("=")[2].startswith(str(tmp_path)) for word in named)
            assert part.at.is_relative_to(tmp_path), part.name
            assert bool(named) != part.inside, part.name
    (tmp_path / "run.py").write_text("import pathlib; pathlib.Path('here.json').write_text('{}')")
    monkeypatch.setattr(launcher, "ROOT", tmp_path)
    part = Part(("run.py",), {"some.json": "here.json"}, tmp_path / "at", inside=True)
    assert launcher.Runner(tmp_path, WHERE, 1.0).run(part) == "done"


@pytest.mark.slow
def test_a_dry_run_runs_every_part(tmp_path, monkeypatch, capfd):
    """Each command itself, with as little to do as it can have; on eight images of each split."""
    monkeypatch.chdir(ROOT)
    for split in images.SPLITS:
        write_images(tmp_path / "data", 9, split)
    ask = ["--dry-run", f"--work={tmp_path}", f"--data={tmp_path / 'data'}", "--subset=8"]
    assert launcher.main([*ask, "--minutes=60"]) == 0
    said = capfd.readouterr().out
    options = Options("cpu", tmp_path / "dry-run", None, 25.0, subset=8, dry=True)
    for stage, parts in stages.stages(options).items():
        for part in parts:
            assert f"{stage}: {part.name}: done" in said
            kept = json.loads((tmp_path / "dry-run" / "results" / f"{part.name}.json").read_text())
            assert kept["environment"]["sources"] == sources.fingerprint()
            assert kept.get("subset", 0) == part.subset


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
        assert not any(config_of(case, True).training.compile for case in cases)  # minutes each
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
    found = {"a": Figure(torch.tensor([1.0, 2.0]), 0.1, "a rounding")}
    rows = check.compared(found, {"a": Figure(torch.tensor([1.0, 2.05]), 0.1, "")})
    assert rows[0]["passed"]
    assert rows[0]["difference"] == pytest.approx(0.05)
    assert check.table(rows).endswith("| a | 0.05 | 0.1 | yes | a rounding |")
    for wrong in (2.2, float("nan")):
        rows = check.compared(found, {"a": Figure(torch.tensor([1.0, wrong]), 0.1, "")})
        assert not rows[0]["passed"]
        assert "NO" in check.table(rows)
    whole = agreement.config_of

    def config_of(**switches):
        config = whole(**switches)
        config.model.channels, config.likelihood.tolerance = 8, 0.1
        return config

    monkeypatch.setattr(agreement, "config_of", config_of)
    monkeypatch.setattr(agreement, "SAMPLERS", ("ddim",))
    monkeypatch.setattr(agreement, "CERTIFIED", 8)
    monkeypatch.setattr(check, "SWITCHES", (({"micro_batches": 5}, check.EXACT, agreement.ADAM),))
    assert check.main(["--device=cpu", f"--out={tmp_path}"]) == 0
    kept = json.loads((tmp_path / "check.json").read_text())
    assert kept["environment"]["sources"] == sources.fingerprint()
    rows = {row["name"]: row for row in kept["rows"]}
    for row in rows.values():
        assert row["passed"]
        assert row["why"]
        exact = not any(
            word in row["name"] for word in ("bfloat16", "certificate", "micro", "norm")
        )
        assert row["difference"] == 0 if exact else row["difference"] <= row["tolerance"], row
    assert rows["units that drop"]["tolerance"] == rows["uniforms"]["tolerance"] == 0
    # less precise arithmetic is seen, and not compared with itself
    for name in ("samples, ddim", "training, first loss"):
        assert rows[f"{name}, bfloat16 against float32"]["difference"] > 1e-5
    named = [name for name in rows if name.startswith("certificate")]
    assert {"the network in float32", "the network in bfloat16"} <= {
        name.rpartition(", ")[2] for name in named
    }
    assert not any("SiLU" in name or "our kernels" in name for name in rows)  # a CPU has none
    assert "our kernels: not compared on a CPU" in capsys.readouterr().err
    assert rows["micro_batches=5, from cpu's plain training, relative"]["tolerance"] == check.EXACT


def test_a_gpu_is_asked_in_tf32_too():
    assert agreement.precisions(torch.device("cuda")) == ("float32", "tf32", "bfloat16")
    assert agreement.precisions(CPU) == ("float32", "bfloat16")


def test_a_gpu_before_ampere_is_asked_in_float16_in_place_of_both(monkeypatch):
    t4 = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert agreement.precisions(t4) == ("float32", "float16")
    asked = []
    plain = torch.ones(2, 2)

    def trained(_device, **switches):
        asked.append(switches.get("precision", "float32"))
        return plain, plain

    monkeypatch.setattr(agreement, "trained", trained)
    monkeypatch.setattr(check.kernels, "fused_on", lambda _: True)
    names = [row["name"] for row in check.switched(t4)]
    assert set(asked) == {"float32"}
    assert sum("compile" in name for name in names) == 2
    assert any("without our kernels" in name for name in names)


def test_a_gpu_before_ampere_is_measured_in_float16(monkeypatch, tmp_path):
    monkeypatch.setattr(launcher, "build_device", lambda name: torch.device(name))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    commands = {}
    for capability in ((7, 5), (8, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        chosen = launcher.chosen_parts(launcher.parse([f"--work={tmp_path}"]))
        commands[capability] = " ".join(
            " ".join(part.command) for parts in chosen.values() for part in parts
        )
    for old in ("tf32", "bfloat16", "half_last", "best", "graphs"):
        assert not re.search(rf"[=,]{old}\b", commands[7, 5])
        assert re.search(rf"[=,]{old}\b", commands[8, 0])
    assert "--variants=float32,channels_last,float16,float16_last" in commands[7, 5]
    assert "--config.training.precision=float16" in commands[7, 5]
    assert commands[7, 5].count("best16") == 4
    assert "16_last" not in commands[8, 0]
    of = contenders.VARIANTS
    for name, same in contenders.IN_FLOAT16.items():
        assert of[same] == {**of[name], "precision": "float16"}


def test_float16_is_within_what_the_check_allows(monkeypatch):
    """By a CPU's, which is slow and rounds as a GPU's."""
    monkeypatch.setattr(agreement, "precisions", lambda _: ("float32", "float16"))
    monkeypatch.setattr(agreement, "SAMPLERS", ())
    monkeypatch.setattr(agreement, "IMAGES", 2)
    monkeypatch.setattr(agreement, "STEPS", 2)
    whole = agreement.config_of

    def config_of(**switches):
        config = whole(**switches)
        config.model.channels, config.sampling.steps = 8, 5
        return config

    monkeypatch.setattr(agreement, "config_of", config_of)
    for found in (agreement.samples, agreement.training):
        rows = check.compared(found(CPU, False), found(CPU, True))
        (half,) = (row for row in rows if "float16 against" in row["name"])
        assert 0 < half["difference"] <= half["tolerance"], half


def test_the_check_would_see_a_kernel_that_is_wrong(monkeypatch):
    right = agreement.our_kernels(CPU, True)
    dropout = agreement.dropout
    monkeypatch.setattr(agreement, "dropout", lambda h, words, p: dropout(h, words + 1, p))
    failed = [
        row for row in check.compared(agreement.our_kernels(CPU, True), right) if not row["passed"]
    ]
    assert len(failed) == 2 * 2 * 5


def test_the_check_would_see_other_noise_likelihoods_and_gradients():
    """Its networks do not answer zero, so that each figure depends on each weight's part."""
    _, gradient = agreement.trained(CPU)
    assert (gradient != 0).double().mean() > 0.9


def test_without_diffusers_its_rows_are_left_out(monkeypatch, capsys):
    from benchmarks import contenders

    monkeypatch.setattr(contenders.importlib.util, "find_spec", lambda _: None)
    assert contenders.present() == ["ours"]
    assert "diffusers is not installed: its rows are left out" in capsys.readouterr().err
    times = {("ours", "float32"): {"step": [1.0, 2.0, 4.0], "forward": [1.0, 1.0, 1.0]}}
    peak = {"matrix_product": 1.0, "convolution": 1.0}
    row = training.row("ours", "float32", times, 8, 1e9, peak)
    assert row["ratio"] is None
    assert " | - | " in training.table([{**row, "memory_gb": 1.0}])
    assert set(sampling.made(CPU, 1, ["float32"], 32)) == {("ours", "float32")}
    case = sampling.Case("ours", "float32", "ddim")
    assert sampling.row(case, {case: [1.0, 2.0, 4.0]}, 20.0, 8)["ratio"] is None


def test_on_a_gpu_memory_is_of_one_contender_after_it_has_compiled(monkeypatch):
    """What others hold is taken off, and so is the peak of the first two steps."""
    taken, peak = [], [9e9]
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 2e9)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: peak.append(2.5e9))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: peak[-1])

    def step(count):
        taken.append(count)
        peak[-1] = max(peak[-1], 7e9 if len(taken) == 1 else 5e9)

    made = step, lambda _: None, None
    monkeypatch.setitem(training.MAKERS, "ours", lambda *_: made)
    found = training.begun(("ours", "best"), torch.device("cuda"), 128, 128)
    assert found == (made, 3.0)
    assert taken == [2, 2]
