"""The package as a user meets it: what importing costs, what a wheel holds, one name a module."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import scoreflow

ROOT = Path(__file__).parents[1]


def python(code, *, cwd=ROOT, path=ROOT, arguments=()):
    """What a fresh interpreter prints, which finds the package in `path` alone."""
    environment = {**os.environ, "PYTHONPATH": str(path)}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_costs_nothing_until_a_name_is_used():
    code = """
import sys, time
start = time.process_time()
import scoreflow as sf
seconds = time.process_time() - start
assert "torch" not in sys.modules
sf.VPSDE
assert "torch" in sys.modules
print(seconds)
"""
    assert any(float(python(code)) < 0.3 for _ in range(3))  # again only if something disturbed


def test_every_public_name_is_there():
    for name in scoreflow.__all__:
        assert getattr(scoreflow, name) is not None
        assert name in dir(scoreflow)
    with pytest.raises(AttributeError, match="no attribute 'Sampler'"):
        scoreflow.Sampler  # noqa: B018


EVERY_MODULE = """
import importlib, json, pkgutil, sys
import scoreflow
for found in pkgutil.walk_packages(scoreflow.__path__, "scoreflow."):
    if found.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(found.name)
    except ModuleNotFoundError as error:  # a GPU's kernels need triton, and nothing else does
        if error.name != "triton":
            raise
files = {}
for name, module in sorted(sys.modules.items()):
    if name.split(".")[0] in ("scoreflow", "sde", "samplers", "configs"):
        files.setdefault(module.__file__, []).append(name)
print(json.dumps([names for names in files.values() if len(names) > 1]))
print(len(files))
"""


def test_no_module_has_two_names():
    twice, count = python(EVERY_MODULE).splitlines()
    assert json.loads(twice) == []
    assert int(count) > 100


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The files of a wheel, as pip would put them into site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns(".*", "runs", "tests", "benchmarks", "results", "*.egg-info")
    shutil.copytree(ROOT, source, symlinks=True, ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    done = subprocess.run(
        [*command, "-w", str(folder), str(source)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "site")
    return folder / "site"


def files_below(folder, root):
    """The files in a folder and its folders, relative to a root."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(root)) for path in found if "__pycache__" not in path.parts}


def test_a_wheel_installs_scoreflow_and_nothing_else(unpacked):
    tops = {path.name for path in unpacked.iterdir()}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"scoreflow"}
    held, source = unpacked / "scoreflow", ROOT / "scoreflow"
    held = files_below(held, held)
    wanted = files_below(source, source)
    for room in ("sde", "samplers", "configs"):  # which a walk does not follow
        wanted |= files_below(source / room, source)
    assert held == wanted
    assert {"py.typed", "configs/digits.py", "sde/base.py"} <= held
    (entry,) = unpacked.glob("*.dist-info/entry_points.txt")
    assert "scoreflow = scoreflow.cli.main:script" in entry.read_text()


def test_a_project_may_have_folders_of_these_names(unpacked, tmp_path):
    """Whose own sde, samplers and configs are none of ours, and ours none of its."""
    for name in ("sde", "samplers", "configs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('of the project')\n")
    code = "import sys; from scoreflow.cli.main import main; assert main(sys.argv) == 0"
    argv = ("--mode=train", "--config=toy", "--config.training.num_steps=2", "--device=cpu",
            "--config.training.log_every=1", "--config.training.checkpoint_every=1",
            "--config.model.width=8", "--config.sampling.num_images=4",
            "--config.sampling.steps=2", "--config.likelihood.num_images=2",
            "--config.likelihood.nodes=8", "--config.likelihood.checked=1")  # fmt: skip
    said = python(code + EVERY_MODULE, cwd=tmp_path, path=unpacked, arguments=argv)
    assert json.loads(said.splitlines()[-2]) == []
    assert (tmp_path / "runs" / "toy-vp" / "report.html").exists()


def test_a_checkout_without_symbolic_links_is_found(tmp_path):
    """As Windows makes it: the links are small text files."""
    ignored = shutil.ignore_patterns("__pycache__", "sde", "samplers", "configs")
    shutil.copytree(ROOT / "scoreflow", tmp_path / "scoreflow", ignore=ignored)
    for name in ("sde", "samplers", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name)
        (tmp_path / "scoreflow" / name).write_text(f"../{name}")
    (tmp_path / "run.py").write_text("")
    code = "import scoreflow as sf; print(sf.VPSDE.__module__, sf.samplers.DDIM.__module__)"
    assert python(code, cwd=tmp_path, path=tmp_path) == (
        "scoreflow.sde.processes.vp scoreflow.samplers.ddim"
    )
    code = "from scoreflow.schema import experiments; print(*experiments.names())"
    assert "digits" in python(code, cwd=tmp_path, path=tmp_path).split()
    code = "from scoreflow.cli.command_line import parse; "
    code += "print(parse(['x', '--mode=train']).experiment)"
    assert python(code, cwd=tmp_path, path=tmp_path) == "digits"


@pytest.mark.parametrize("way", [["run.py"], ["-m", "scoreflow"]])
def test_the_version_and_who_speaks(way):
    command = [sys.executable, *way]
    done = subprocess.run([*command, "--version"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"scoreflow {scoreflow.__version__}\n"
    done = subprocess.run([*command, "--mode=trian"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("run.py: " if way == ["run.py"] else "scoreflow: ")
    assert done.stderr.count("\n") == 1
