"""Every benchmark is a command, and every command that a document or a stage names is one."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import stages

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"
DOCUMENTS = (FOLDER / "README.md", ROOT / "README.md", ROOT / "Makefile", *ROOT.glob("docs/*.md"))
MODULE = re.compile(r"-m (benchmarks(?:\.\w+)+)")


def commands():
    """Modules that run by `python -m`."""
    for path in sorted(FOLDER.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if '__name__ == "__main__"' in path.read_text():
            yield name.removesuffix(".__main__")


def test_every_package_is_a_command():
    packages = {f"benchmarks.{path.parent.name}" for path in FOLDER.glob("*/__init__.py")}
    assert packages <= set(commands())


def test_every_command_reads_its_arguments():
    """In one process, as to import torch takes seconds: as `python -m` runs them."""
    code = "\n".join((
        "import runpy, sys",
        f"for name in {list(commands())}:",
        "    for argument in ('--help', '--no-such-option'):",
        "        sys.argv = [name, argument]",
        "        try:",
        "            runpy.run_module(name, run_name='__main__', alter_sys=True)",
        "        except SystemExit as stopped:",
        "            print('STATUS', name, argument, stopped.code)",
    ))  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    found = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("STATUS")]
    answers = [["--help", "0"], ["--no-such-option", "2"]]
    assert found == [[name, *each] for name in commands() for each in answers], done.stderr
    # nothing else than what was given is unknown, not even the program's own name
    assert not re.search(r"unrecognized arguments: (?!--no-such-option\n)", done.stderr)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_name_commands_that_there_are(path):
    assert set(MODULE.findall(path.read_text())) <= set(commands())


def test_docstrings_and_stages_name_commands_that_there_are(tmp_path):
    known, named = set(commands()), set()
    for path in FOLDER.rglob("*.py"):
        named |= set(MODULE.findall(path.read_text()))
    options = stages.Options("cpu", tmp_path, None, 25.0)
    for parts in stages.stages(options).values():
        named |= {part.command[1] for part in parts if part.command[0] == "-m"}
    assert named - {"benchmarks"} <= known
    assert "benchmarks.gpu.check" in named


def test_files_that_docstrings_name_are_there():
    for path in FOLDER.rglob("*.py"):
        for name in re.findall(r"`?((?:benchmarks|tests)/[\w/]+\.py)`?", path.read_text()):
            assert (ROOT / name).exists(), f"{path} names {name}"
        for name in re.findall(r"`(benchmarks(?:\.\w+)+)`", path.read_text()):
            importlib.import_module(name)


def test_no_folder_has_more_than_twelve_files():
    for folder in (FOLDER, *(path for path in FOLDER.rglob("*") if path.is_dir())):
        files = [path for path in folder.iterdir() if path.is_file()]
        assert len(files) <= 12, folder
