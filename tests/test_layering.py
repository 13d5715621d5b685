"""The floors: a room imports its own files and rooms on lower floors, and nothing else."""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = [
    {"sde"},
    {"samplers"},
    {"errors", "uncertainty", "version"},
    {"paths", "host_memory"},
    {"schema", "storage", "figures", "runtime", "data"},
    {"models", "configs"},
    {"losses", "generation"},
    {"training", "likelihood", "evaluation", "certificate", "interop"},
    {"factory", "report"},
    {"trained_run", "any_model", "run_table"},
    {"training_run", "imported_run", "comparison"},
    {"cli"},
]
FLOOR = {room: k for k, rooms in enumerate(FLOORS) for room in rooms}
OUTSIDE = {
    "sde": {"torch", "numpy", "scipy", "torchdiffeq", "jaxtyping", "triton"},
    "samplers": {"torch", "jaxtyping"},
    "configs": {"ml_collections"},
    "schema": {"ml_collections"},
}
"""What a room may import besides the standard library and rooms of the house."""
CONFIG_READERS = {
    "schema",
    "factory",
    "cli",
    "trained_run",
    "any_model",
    "run_table",
    "training_run",
    "imported_run",
    "comparison",
    "configs",
}
LONGEST_CHAIN, MOST_FILES = 12, 12


def modules() -> dict[str, Path]:
    """Every module of the package by its full name; sde, samplers and configs lie beside it."""
    rooms = {ROOT / "scoreflow": "scoreflow"}
    rooms |= {ROOT / name: f"scoreflow.{name}" for name in ("sde", "samplers", "configs")}
    found = {}
    for folder, name in rooms.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [*name.split("."), *path.relative_to(folder).with_suffix("").parts]
            if path.resolve() == path or folder.name != "scoreflow":  # not through a link
                found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


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


def room_of(module: str) -> str:
    """The room of a module: the part behind `scoreflow`; "" for scoreflow itself."""
    return [*module.split("."), ""][1]


def of_room(room: str) -> Iterator[Path]:
    found = [path for name, path in MODULES.items() if room_of(name) == room]
    assert found, f"no files in {room}"
    yield from found


def test_every_module_has_a_floor():
    rooms = {room_of(name) for name in MODULES} - {"", "__main__"}
    assert rooms == set(FLOOR)


def test_arrows_go_down():
    for name, path in MODULES.items():
        mine = room_of(name)
        if mine in ("", "__main__"):
            continue
        for other in imported(path):
            theirs = room_of(other) if other.startswith("scoreflow.") else ""
            known = theirs in FLOOR and theirs != mine
            if not known:
                continue
            assert FLOOR[theirs] < FLOOR[mine], f"{path} imports {other}"


def test_the_longest_chain_of_imports():
    # scoreflow/__init__.py names the public API for type checkers alone: at run time it imports a
    # module when a name is first used. It only ever is the top of a chain, for no module imports
    # it, which is checked here. Every other __init__.py counts.
    arrows = {
        name: {other for other in imported(path) if other in MODULES and other != name}
        for name, path in MODULES.items()
        if name != "scoreflow"
    }
    assert [name for name in arrows if "scoreflow" in arrows[name]] == []

    @functools.cache
    def chain(name: str) -> tuple[str, ...]:
        longest = max((chain(other) for other in arrows.get(name, ())), key=len, default=())
        return (name, *longest)

    longest = max(map(chain, arrows), key=len)
    assert len(longest) <= LONGEST_CHAIN, longest


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_no_folder_is_a_hall():
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=False
    ).stdout.split()
    assert tracked, "git lists no files"
    sources = [Path(name) for name in tracked if name.endswith(".py")]
    for folder in {path.parent for path in sources}:
        count = sum(path.parent == folder for path in sources)
        assert count <= MOST_FILES, f"{folder} has {count} files"


@pytest.mark.parametrize("room", OUTSIDE)
def test_a_room_imports_only_what_it_may(room: str):
    allowed = OUTSIDE[room] | sys.stdlib_module_names | {"scoreflow"}
    for path in of_room(room):
        outside = {name.split(".")[0] for name in imported(path)} - allowed
        assert not outside, f"{path} imports {outside}"


@pytest.mark.parametrize("room", ["sde", "samplers"])
def test_the_theory_knows_no_network(room: str):
    for path in of_room(room):
        assert not any(name.startswith("torch.nn") for name in imported(path)), path


def test_the_package_does_not_know_what_uses_it():
    for path in MODULES.values():
        tops = {name.split(".")[0] for name in imported(path)}
        assert not tops & {"run", "tests", "benchmarks", "sde", "samplers", "configs"}, path


def test_only_few_rooms_read_configs():
    for name, path in MODULES.items():
        if {each.split(".")[0] for each in imported(path)} & {"ml_collections"}:
            assert room_of(name) in CONFIG_READERS, path


def test_the_command_line_is_checked_without_torch():
    for path in [*of_room("schema"), MODULES["scoreflow.cli.command_line"]]:
        assert not {name.split(".")[0] for name in imported(path)} & {"torch"}, path
    code = "import sys; import scoreflow.cli.command_line, scoreflow.schema.resolve; "
    code += "sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_report_reads_results_alone():
    for path in of_room("report"):
        for other in imported(path) & set(MODULES):
            allowed = room_of(other) in {"report", "storage", "figures", "errors"}
            allowed |= other in {
                "scoreflow.data.classes",
                "scoreflow.evaluation.columns",
                "scoreflow.schema.samplers",
            }
            assert allowed, f"{path} imports {other}"


def test_run_py_only_calls_main():
    tops = {name.split(".")[0] for name in imported(ROOT / "run.py")}
    assert tops - sys.stdlib_module_names == {"scoreflow"}
