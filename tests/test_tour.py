"""The tour, docs/tour.ipynb: as it is committed, and executed anew."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "tour.ipynb"
MOST_BYTES = 600_000
CLAIMS = {  # what a section must check itself
    "2. Sample": ("torch.equal(run.sample(", "difference("),
    "3. Exact log-likelihood": ("budget.solver", "abs(gap)"),
    "4. Score field and density of the toy": ("error < 0.2", "gap.mean()"),
    "5. Encode, decode and interpolate": ("torch.equal(run.decode(", "torch.equal(path["),
    "6. Any network": ("ratio - 1", "error < ", "gap.mean()"),
}


def execution():
    """The module tests/execute_tour.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("execute_tour", ROOT / "tests/execute_tour.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    return [output for cell in code(notebook) for output in cell.outputs]


def sections(notebook):
    """The code under every heading of the second order."""
    found, title = {}, ""
    for cell in notebook.cells:
        heading = re.match(r"## (.*)", cell.source) if cell.cell_type == "markdown" else None
        title = heading[1] if heading else title
        if cell.cell_type == "code":
            found[title] = found.get(title, "") + cell.source + "\n"
    return found


def pictures(notebook):
    return [o.data["image/png"] for o in outputs(notebook) if "image/png" in o.get("data", {})]


@pytest.fixture(scope="module")
def committed():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_committed_executed_in_order(committed):
    nbformat.validate(committed)
    cells = code(committed)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert NOTEBOOK.stat().st_size < MOST_BYTES
    assert len(pictures(committed)) >= 9


def test_its_outputs_are_quiet_and_name_no_place(committed):
    for output in outputs(committed):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text
        text = output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
        assert not re.search(r"(^|[\s'\"])(/|[A-Z]:\\)\w+", text), text


def test_its_sections_check_what_they_claim(committed):
    found = sections(committed)
    for title, claims in CLAIMS.items():
        # what is asserted, up to the end of the statement
        asserted = "\n".join(re.findall(r"^ *assert .*", found[title], re.MULTILINE))
        for claim in claims:
            assert claim in asserted, f"{title}: no assertion about {claim}"


def test_it_uses_the_public_api_alone(committed):
    source = "\n".join(cell.source for cell in code(committed))
    imported = re.findall(r"^(?:from|import) +scoreflow.*", source, re.MULTILINE)
    assert imported == ["import scoreflow as sf", "from scoreflow.data import toy"]
    assert not re.search(r"\b\w+\._[a-z]", source)


@pytest.mark.parametrize(
    ("text", "progress"),
    [
        ("draw dpm:   0%|          | 0/24 [00:00<?, ?img/s]\r", True),
        ("draw dpm: 100%|####| 24/24 [00:02<00:00, 9img/s]\n", True),
        ("likelihood:  50%|#####     | 4/8 [00:01<00:01, mean=2.1]\n\n", True),
        ("check: 0img [00:00, ?img/s]\rcheck: 0img [00:00, ?img/s]\n", True),
        ("check: 100%|###| 4/4 [00:01<00:00, 4.0img/s]\nUserWarning: something is wrong\n", False),
    ],
)
def test_progress_bars_are_dropped_and_warnings_are_not(text, progress):
    is_progress = execution().is_progress
    output = nbformat.v4.new_output("stream", name="stderr", text=text)
    if progress:
        assert is_progress(output)
    else:
        with pytest.raises(RuntimeError, match="standard error: UserWarning: something is wrong"):
            is_progress(output)
    assert not is_progress(nbformat.v4.new_output("stream", name="stdout", text=text))


@pytest.mark.slow
def test_it_runs_from_scratch(tmp_path, committed):
    """A cell that fails, or an assertion in it, ends the execution with its error."""
    done = execution().executed(tmp_path)
    assert not (tmp_path / "runs").exists()  # it found no run, and left none here
    cells = code(done)
    assert all(cell.execution_count for cell in cells)
    assert len(pictures(done)) == len(pictures(committed))
    assert not any(output.get("name") == "stderr" for output in outputs(done))
    printed = ["".join(o.get("text", "") for o in cell.outputs) for cell in cells]
    assert any("bits/dim" in text for text in printed)
