"""Table 2: its command line, what it keeps, and what it concludes from its numbers."""

import json
import math

import pytest
import torch

from benchmarks.table2 import command, measurement
from benchmarks.table2.cells import CELLS
from benchmarks.table2.options import parse
from benchmarks.table2.verdicts import difference, verdicts
from scoreflow.errors import RequestError

DIVERGED = {"bound": None, "bound_error": None, "bound_each": None}
DIVERGED |= {"exact": None, "exact_error": None, "exact_each": None}
DIVERGED |= {"two_sample": None, "two_sample_error": None, "failed": "step 2: loss nan"}
NOT_SOLVED = {"exact": None, "exact_error": None, "exact_each": None, "exact_failed": "3 of 4"}
SMALL = ("--device=cpu", "--steps=2", "--images=4", "--config.model.channels=8")
SMALL += ("--config.sampling.steps=4", "--config.training.batch_size=4")


def row(bound, two_sample, exact=2.0):
    each = [bound - 0.5, bound + 0.5] * 50
    return {
        "bound": bound, "bound_error": 0.05, "bound_each": each,
        "exact": exact, "exact_error": 0.05, "exact_each": each,
        "two_sample": two_sample, "two_sample_error": 0.01,
        "max_evaluations": 400, "seconds": 30.0,
    }  # fmt: skip


def rows():
    found = [row(2.5, 0.9), row(2.5, 0.8), row(2.5, 0.9), row(2.5, 0.8), row(2.0, 0.8)]
    return [*found, row(2.1, 0.6), row(2.2, 0.6)]


def options(*more):
    return parse(["table2", *more, *SMALL])


def measured(cell, *more):
    given = options(*more)
    return measurement.measured(cell, given.cell_config(cell), given.device)


def test_published_orderings_are_judged_by_their_errors():
    said = verdicts(rows())
    assert "best samples: reproduced" in said[0]
    assert "equal samples: reproduced" in said[1]
    assert "worse samples: reproduced" in said[2]
    assert "(Table 1): reproduced" in said[3]  # in pairs, for the images' spread is common
    assert "Dhariwal): contradicted" in said[4]


def test_the_table_is_markdown_with_a_row_a_cell():
    lines = command.table(rows()).splitlines()
    assert len(lines) == 2 + len(CELLS)
    assert {line.count("|") for line in lines} == {7}


def test_differences_without_pairs_add_their_errors():
    gap, error = difference(row(1.0, 0.9), row(1.0, 0.8), "two_sample")
    assert gap == pytest.approx(0.1)
    assert error == pytest.approx(0.01 * 2**0.5)


def test_a_flow_that_was_not_solved_is_no_verdict():
    found = [each | NOT_SOLVED for each in rows()]
    assert "not to be said (eps L beta: not solved within 400 eval" in verdicts(found)[5]
    assert command.table(found).count("not solved within 400 evaluations") == len(found)


def test_a_diverged_cell_is_named_and_left_out():
    found = rows()
    found[0] |= DIVERGED
    said = verdicts(found)
    assert "best samples: reproduced" in said[0]
    assert "left out, mean L learned: diverged" in said[0]
    assert "worse samples: not to be said (mean L learned: diverged)" in said[2]
    assert command.table(found).splitlines()[2].count("diverged") == 3
    found = [each | DIVERGED for each in rows()]
    assert all("not to be said" in line for line in verdicts(found))
    assert "0 test images" in command.caption(
        options(), [each | {"commit": "a"} for each in found]
    )


def test_a_rate_is_never_without_error():
    assert 0.001 < measurement.rate_error(1.0, 720) < 0.003
    assert measurement.rate_error(0.0, 720) == pytest.approx(measurement.rate_error(1.0, 720))
    assert measurement.rate_error(0.5, 10**6) == pytest.approx(math.sqrt(0.25 / 10**6), rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--steps", "0"], "--steps: a whole number from 1 up, got '0'"),
        (["--images=1"], "--images: a whole number from 2 up"),
        (["--config", "nope.py"], "no such config file: nope.py"),
        (["--config=configs/toy.py"], "model.name = unet"),
        (["--config.modle.channels=8"], "unknown config key 'modle.channels'"),
        (["--config.training.num_steps=8"], "training.num_steps cannot be given"),
        (["--sde", "ve"], "sde.name cannot be given"),
        (["--workdir", "runs/x"], "--out"),
        (["--config.likelihood.max_evaluations=2"], "likelihood.max_evaluations must lie in"),
        (["--device", "abacus"], "--device abacus cannot be used"),
        (["more"], "unexpected argument 'more'"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(arguments, line, tmp_path, capsys):
    assert command.main(["table2", "--out", str(tmp_path / "out"), *arguments]) == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.startswith("table2: ")
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_overrides_pass_through_to_every_cell(tmp_path):
    got = options("--config=configs/mnist.py", f"--config.data.path={tmp_path}")
    assert got.experiment == "mnist"
    assert got.command[:4] == ["python", "-m", "benchmarks.table2", "--config=configs/mnist.py"]
    assert got.command[4] == f"--config.data.path={tmp_path}"
    assert got.out.name == "cpu"
    for cell in CELLS:
        config = got.cell_config(cell)
        assert config.data.path == str(tmp_path)
        assert (config.model.channels, config.training.num_steps) == (8, 2)
        assert (config.sampling.steps, config.sampling.variance) == (4, cell.variance)
        assert config.likelihood.max_evaluations == 400  # the table's, where none was given


def test_a_whole_cell_learned_variance_and_all():
    found = measured(CELLS[6])
    assert (found["prediction"], found["variance"]) == ("eps", "learned")
    for key in ("bound", "exact"):
        assert len(found[f"{key}_each"]) == 4
        assert found[key] == pytest.approx(sum(found[f"{key}_each"]) / 4, abs=1e-3)
        assert found[f"{key}_error"] > 0
    assert 8 <= found["exact_evaluations"] <= 400
    assert 0 <= found["two_sample"] <= 1
    assert found["two_sample_error"] > 0


def test_a_cell_whose_flow_is_not_solved_says_so():
    cap = "--config.likelihood.max_evaluations=40"
    found = measured(CELLS[5], cap, "--config.likelihood.trajectory_tolerance=1e-12")
    assert found["exact"] is None
    assert "within 40 evaluations" in found["exact_failed"]
    assert command.number(found, "exact") == "not solved within 40 evaluations"
    assert found["bound"] > 0


def test_a_training_that_diverges_is_a_cell_without_numbers():
    found = measured(CELLS[5], "--config.training.learning_rate=1e30")
    assert "not finite" in found["failed"]
    assert [command.number(found, key) for key in ("bound", "exact", "two_sample")] == (
        ["diverged"] * 3
    )


def test_samples_that_are_not_finite_have_no_rate(monkeypatch):
    nan = torch.full((4, 1, 8, 8), torch.nan)
    monkeypatch.setattr(measurement, "draw_samples", lambda *_: nan)
    monkeypatch.setattr(measurement, "_exact", lambda *_: NOT_SOLVED)
    found = measured(CELLS[5])
    assert (found["two_sample"], found["two_sample_error"]) == (None, None)
    assert command.number(found, "two_sample") == "diverged"


@pytest.fixture
def cells(monkeypatch):
    """The cells that were measured, which is a matter of no time here."""
    measured, results = [], dict(zip(CELLS, rows(), strict=True))

    def measure(cell, *_):
        if len(measured) == cells.stop_after:
            cells.stop_after = None
            raise KeyboardInterrupt
        measured.append(cell)
        return results[cell]

    def cells():
        return measured

    cells.stop_after = None
    monkeypatch.setattr(command, "measured", measure)
    return cells


def test_a_killed_table_goes_on_with_the_cells_that_are_left(cells, tmp_path, capsys):
    argv = ["table2", *SMALL, "--out", str(tmp_path / "new" / "out")]
    cells.stop_after = 3
    assert command.main(argv) == 130
    assert "goes on" in capsys.readouterr().err
    assert not (tmp_path / "new" / "out" / "table2.json").exists()
    assert command.main(argv) == 0
    assert tuple(cells()) == CELLS  # each once
    assert sorted(p.name for p in (tmp_path / "new" / "out").iterdir()) == (
        ["table2.json", "table2.md"]
    )


def test_other_settings_begin_anew(cells, tmp_path):
    argv = ["table2", *SMALL, "--out", str(tmp_path)]
    cells.stop_after = 3
    assert command.main(argv) == 130
    assert command.main([*argv, "--steps=3"]) == 0
    assert len(cells()) == 3 + len(CELLS)


def test_a_table_says_what_it_is_of(cells, tmp_path, capsys):
    argv = [*SMALL, "--out", str(tmp_path)]
    assert command.main(["table2", *argv]) == 0
    text = (tmp_path / "table2.md").read_text()
    assert capsys.readouterr().out == text + "\n"
    caption = text.splitlines()[0]
    for words in ("config digits", "model.channels = 8", "2 training steps", "100 test images",
                  "63 strata", "400 evaluations", "4 samples of 4 steps", "On cpu",
                  "3.5 minutes in all"):  # fmt: skip
        assert words in caption
    record = json.loads((tmp_path / "table2.json").read_text())
    assert record["command"].split() == ["python", "-m", "benchmarks.table2", *argv]
    assert str(record["commit"]) in caption
    assert record["minutes"] == pytest.approx(3.5)
    assert len(record["rows"]) == len(record["verdicts"]) + 1 == 7
    assert record["settings"]["config"]["training.num_steps"] == 2


def test_a_place_that_cannot_be_written_ends_in_a_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert command.main(["table2", *SMALL, "--out", str(tmp_path / "file" / "out")]) == 2
    assert "cannot be made" in capsys.readouterr().err


def test_a_device_is_found_by_itself():
    found = parse(["table2"]).device
    assert found.type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(RequestError, match="cannot be used"):
        parse(["table2", "--device=nowhere"])
