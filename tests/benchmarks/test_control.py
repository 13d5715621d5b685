"""The benchmark of inverse problems: its columns and what they are, on a small trained run."""

from pathlib import Path

import pytest
import torch

from benchmarks import control
from benchmarks.control import Method
from benchmarks.measure import load_run
from scoreflow.samplers import BlockMean, Masked
from scoreflow.samplers.editing.linear_operators import middle_square

RUN = Path(__file__).parents[1] / "fixtures" / "run-0.1"
SMALL = (Method("replace", 0.0, 4), Method("dps", 1.0, 4), Method("mmps", 2, 4))


def test_every_method_has_a_row_for_each_task(monkeypatch, capsys):
    monkeypatch.setattr(control, "METHODS", SMALL)
    control.main([f"--workdir={RUN}", "--images=2", "--draws=2"])
    lines = capsys.readouterr().out.splitlines()
    assert {line.count("|") for line in lines} == {len(control.HEAD) + 2}
    assert [line.split(" | ")[:3] for line in lines[2:]] == [
        [f"| {task}", method, "4"]
        for task in ("inpaint", "superresolve")
        for method in ("replace 0", "dps 1", "mmps 2")
    ]


def test_replacement_meets_the_measurement_exactly():
    run = load_run(RUN, torch.device("cpu"))
    for operator in (Masked(middle_square((1, 8, 8))), BlockMean(2)):
        misfit, kept, error, _ = control.measured(run, operator, SMALL[0], 2, 2)
        assert misfit == "0.00"
        assert float(error) > 0
        assert float(kept) in (0.0, 0.25, 0.5, 0.75, 1.0)


def test_training_images_have_their_own_labels():
    data = load_run(RUN, torch.device("cpu")).data
    found = control.nearest_labels(data, data.train[:20])
    assert torch.equal(found, data.train_labels[:20])


def test_a_folder_without_a_run_is_refused(capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        control.main([f"--workdir={tmp_path / 'none'}"])
    assert stopped.value.code == 2
    assert "holds no run" in capsys.readouterr().err
