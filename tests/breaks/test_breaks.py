"""Small breaks of the code are caught, each by the certificate or by the test that is named."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.breaks.breaks import BREAKS, Break, page

ROOT = Path(__file__).parents[2]
FOLDERS = ("scoreflow", "sde", "samplers", "configs")
IDS = [f"{Path(each.file).stem}-{each.what.replace(' ', '_')}" for each in BREAKS]


@pytest.mark.parametrize("each", BREAKS, ids=IDS)
def test_a_break_still_applies(each):
    source = (ROOT / each.file).read_text()
    assert source.count(each.old) == 1, f"{each.file} has it {source.count(each.old)} times"
    assert each.old not in each.new or each.new not in source
    for address in each.tests:
        file, *name = address.split("::")
        assert (ROOT / file).exists()
        assert not name or f"def {name[0]}(" in (ROOT / file).read_text()


def test_there_are_many_and_no_two_are_one():
    assert len(BREAKS) >= 40
    assert len({(each.file, each.old, each.new) for each in BREAKS}) == len(BREAKS)


def test_the_page_is_the_list():
    made = "make it with .venv/bin/python -m tests.breaks.breaks > docs/breaks.md"
    assert (ROOT / "docs" / "breaks.md").read_text() == page(), made


def copied(to: Path) -> Path:
    """The package, with its rooms beside it, and as it is compiled already."""
    skipped = shutil.ignore_patterns(".git", "results")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, to / name, symlinks=True, ignore=skipped)
    return to


@pytest.fixture(scope="module")
def failing_rows() -> Iterator[Callable[[Path, int, str], list[str]]]:
    """(folder of a package, group, first words) -> names of the certificate's rows that fail."""
    script = ROOT / "tests" / "breaks" / "certify.py"
    settings = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    server = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=settings,
    )

    def ask(root: Path, group: int, words: str = "") -> list[str]:
        server.stdin.write(json.dumps([str(root), group, words]) + "\n")
        server.stdin.flush()
        rows = json.loads(server.stdout.readline())
        assert isinstance(rows, list), rows
        return rows

    yield ask
    server.stdin.close()
    server.wait()


def failing_tests(root: Path, *addresses: str) -> str:
    """What pytest says of tests, with the package in a folder; "" if all pass."""
    skipped = shutil.ignore_patterns("__pycache__", "run-*")
    shutil.copytree(ROOT / "tests", root / "tests", ignore=skipped, dirs_exist_ok=True)
    for name in ("pyproject.toml", "run.py"):
        shutil.copy(ROOT / name, root / name)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    done = run([*command, "-p", "no:randomly", "-m", "not slow", *addresses], root)
    assert done.returncode in (0, 1), done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout if done.returncode else ""


def run(command: list[str], root: Path) -> subprocess.CompletedProcess[str]:
    """With the package of a folder."""
    own = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, cwd=root, capture_output=True, text=True, check=False, env=os.environ | own
    )


def apply(each: Break, root: Path) -> None:
    """Make the line wrong in a copy."""
    path = root / each.file
    path.write_text(path.read_text().replace(each.old, each.new))


@pytest.fixture(scope="module")
def caught(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """What has been caught, which is told in the end."""
    found: list[str] = []
    yield found
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{len(found)} of {len(BREAKS)} breaks: caught by who is named")


@pytest.mark.slow
@pytest.mark.parametrize("each", BREAKS, ids=IDS)
def test_a_break_is_caught(each, tmp_path, failing_rows, caught):
    root = copied(tmp_path)
    apply(each, root)
    for address in each.tests:
        found = failing_tests(root, address)
        assert re.search(r"^(FAILED|ERROR) ", found, re.MULTILINE), found[-3000:]
    if each.group is not None:
        words = each.caught.split(": ", 1)[1]
        rows = failing_rows(root, each.group, words)
        assert any(words in row for row in rows), rows
    caught.append(each.what)
    shutil.rmtree(root)


@pytest.mark.slow
@pytest.mark.parametrize("group", sorted({each.group for each in BREAKS} - {None}))
def test_without_a_break_no_row_fails(group, tmp_path, failing_rows):
    assert failing_rows(copied(tmp_path), group) == []


@pytest.mark.slow
def test_without_a_break_no_test_fails(tmp_path):
    """In a copy, where a test might fail of something else."""
    named = sorted({address for each in BREAKS for address in each.tests})
    assert failing_tests(copied(tmp_path), *named) == ""
