"""The floors: an arrow is the only import direction.

sde  ->  samplers  ->  scoreflow  ->  run.py            configs: data only
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "sde": {"torch", "numpy", "scipy", "torchdiffeq", "jaxtyping", "sde"},
    "samplers": {"torch", "jaxtyping", "sde", "samplers"},
    "configs": {"ml_collections", "configs"},
}
DOOR = {"main.py", "request.py", "modes.py", "draw.py", "drawings.py", "comparison.py"}
DOOR |= {"control.py"}
BUILD = ROOT / "scoreflow" / "build"
"""From the command line to objects: behind it there are arguments, and no ConfigDict."""


def imported(path: Path) -> set[str]:
    """Every module that a file imports, at any depth: `from a import b` gives a and a.b."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            assert node.module is not None
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def files(room: str) -> Iterator[Path]:
    found = sorted((ROOT / room).rglob("*.py"))
    assert found, f"no files in {room}"
    yield from found


def tops(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_it_may(room: str):
    allowed = ALLOWED[room] | sys.stdlib_module_names
    wrong = {path.name: tops(path) - allowed for path in files(room)}
    assert not any(wrong.values()), wrong


@pytest.mark.parametrize("room", ["sde", "samplers"])
def test_the_theory_knows_no_network(room: str):
    for path in files(room):
        assert not any(name.startswith("torch.nn") for name in imported(path)), path


def test_scoreflow_does_not_know_the_command():
    for path in files("scoreflow"):
        assert not tops(path) & {"run", "tests", "benchmarks"}, path


def test_only_the_door_reads_configs():
    readers = {
        path.name
        for path in files("scoreflow")
        if path.parent != BUILD and tops(path) & {"ml_collections", "configs"}
    }
    assert readers <= DOOR, readers - DOOR


def test_run_py_only_calls_main():
    assert tops(ROOT / "run.py") - sys.stdlib_module_names == {"scoreflow"}
