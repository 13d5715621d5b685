"""The helpers of the benchmarks: a trained run, command lines, statistics of rounds, tables."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from benchmarks import measure
from benchmarks.command_line import OneLineParser, exit_status, whole_number
from scoreflow.errors import RequestError, RunError
from scoreflow.schema.resolve import LATER

RUN = Path(__file__).parents[1] / "fixtures" / "run-0.1"
CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path):
    return Path(shutil.copytree(RUN, tmp_path / "run"))


def test_a_run_of_an_earlier_version_is_loaded():
    run = measure.load_run(RUN, CPU)
    assert run.step == 60
    saved = torch.load(RUN / "checkpoints" / "00000060.pt", weights_only=True)
    weights = run.model.network.state_dict()
    assert run.config.seed == json.loads((RUN / "config.json").read_text())["seed"]
    assert run.data.num_levels == 17
    assert all(torch.equal(weights[name], saved["ema"][name]) for name in weights)


def test_a_run_that_is_older_than_a_key_is_loaded_with_its_default(run):
    config = json.loads((run / "config.json").read_text())
    for section in ("sampling", "likelihood", "profile"):
        config.pop(section, None)
    for key in LATER:
        section, name = key.split(".")
        config[section].pop(name, None)
    (run / "config.json").write_text(json.dumps(config))
    old, new = (measure.load_run(path, CPU) for path in (run, RUN))
    x = torch.zeros(2, 1, 8, 8, dtype=torch.float64)
    t = torch.tensor([1.0, 500.0], dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(old.model(x, t).eps, new.model(x, t).eps)


def test_a_folder_without_a_trained_run_is_refused(run, tmp_path):
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(RequestError, match="has no checkpoint: train it with --mode train"):
        measure.load_run(run, CPU)
    with pytest.raises(RequestError, match="holds no run"):
        measure.load_run(tmp_path / "nowhere", CPU)
    config = json.loads((run / "config.json").read_text())
    del config["sde"]["schedule"]  # as old as the weights
    (run / "config.json").write_text(json.dumps(config))
    shutil.copytree(RUN / "checkpoints", run / "checkpoints")
    with pytest.raises(RequestError, match=r"config\.json lacks the config keys sde\.schedule"):
        measure.load_run(run, CPU)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (RequestError("a\n  b"), 2, "tool: a b\n"),
        (RunError("c"), 1, "tool: c\n"),
        (KeyboardInterrupt(), 130, "\nstopped\n"),
    ],
)
def test_a_command_that_fails_ends_in_a_line(error, status, line, capsys):
    def run():
        raise error

    assert exit_status("tool", run, "stopped") == status
    assert capsys.readouterr().err == line


def test_a_defect_of_the_program_keeps_its_traceback():
    assert exit_status("tool", lambda: None, "stopped") == 0
    with pytest.raises(ZeroDivisionError):
        exit_status("tool", lambda: 1 / 0, "stopped")


@pytest.mark.parametrize("bad", ["1", "-3", "2.0", "x", "", str(2**31)])
def test_a_whole_number_is_one_in_its_range(bad):
    parser = OneLineParser("tool", "")
    parser.add_argument("--count", type=whole_number(2))
    assert parser.parse_args(["--count=2"]).count == 2
    with pytest.raises(RequestError, match="--count: a whole number from 2 up, got"):
        parser.parse_args([f"--count={bad}"])


def test_rounds_have_medians_quartiles_and_medians_of_ratios():
    row = measure.middle("seconds", [1.0, 2.0, 4.0])
    assert row == {"seconds": 2.0, "seconds_low": 1.0, "seconds_high": 4.0}
    assert measure.shown(row, "seconds", ".1f") == "2.0 (1.0-4.0)"
    assert measure.ratio([1.0, 2.0, 9.0], [1.0, 4.0, 3.0]) == 1.0  # of 1, 1/2 and 3


def test_a_table_is_markdown():
    lines = measure.table(["a", "b"], [["1", "2"], ["3", "4"]]).splitlines()
    assert lines == ["| a | b |", "|---|---|", "| 1 | 2 |", "| 3 | 4 |"]
