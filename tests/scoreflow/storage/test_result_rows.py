"""Rows that survive a kill, and a likelihood that goes on where it was killed."""

import json

import pytest
import torch

from scoreflow.data.toy import load
from scoreflow.errors import RunError
from scoreflow.likelihood.dataset_likelihood import LikelihoodSettings, measure
from scoreflow.likelihood.flow_likelihood import Solver
from scoreflow.models.mlp import MLP
from scoreflow.models.score_model import ScoreModel
from scoreflow.sde.processes.vp import VPSDE
from scoreflow.storage.result_rows import Rows


def test_rows_are_found_again_under_the_same_heading(tmp_path):
    path = tmp_path / "results" / "it.jsonl"
    rows = Rows(path, {"seed": 0})
    assert rows.done == {}
    rows.append([{"image": 3, "value": 0.1}, {"image": 0, "value": 1 / 3}])
    rows.append([{"image": 1, "value": None}])
    assert Rows(path, {"seed": 0}).done == rows.done
    assert rows.done[0]["value"] == 1 / 3
    other = Rows(path, {"seed": 1})
    assert other.done == {}
    assert Rows(path, {"seed": 0}).done == rows.done  # nothing has replaced them yet
    other.append([{"image": 0, "value": 2.0}])
    assert Rows(path, {"seed": 0}).done == {}
    assert Rows(path, {"seed": 1}).done == other.done


@pytest.mark.parametrize("damage", [b'{"image": 7, "va', b"[1]\n", b"\xff\n"])
def test_a_torn_or_damaged_row_is_made_again(damage, tmp_path):
    path = tmp_path / "it.jsonl"
    Rows(path, {}).append([{"image": 0, "value": 1.0}])
    with open(path, "ab") as file:
        file.write(damage)
    rows = Rows(path, {})
    assert rows.done == {0: {"image": 0, "value": 1.0}}
    rows.append([{"image": 1, "value": 2.0}])
    assert Rows(path, {}).done.keys() == {0, 1}


def test_a_likelihood_goes_on_where_it_was_killed(tmp_path):
    """The same to the bit, and no image measured twice."""
    torch.manual_seed(0)
    model = ScoreModel(MLP(2, 8, 1).eval(), VPSDE.linear(100), "v")
    data, question = load(), LikelihoodSettings(Solver(1, 1e-3, 1e-3), batch_size=5, checked=0)
    whole = measure(model, data, 20, question).result

    class KilledError(Exception):
        pass

    class Killed(Rows):
        def append(self, rows):
            super().append(rows)
            if len(self.done) >= 10:
                raise KilledError

    path = tmp_path / "likelihood.jsonl"
    with pytest.raises(KilledError):
        measure(model, data, 20, question, rows=Killed(path, {}))
    rows = Rows(path, {})
    assert len(rows.done) == 10
    asked = []

    class Counting(ScoreModel):
        def __call__(self, x_t, t):
            asked.append(len(x_t))
            return super().__call__(x_t, t)

    resumed = Counting(model.network, model.sde, "v")
    found = measure(resumed, data, 20, question, rows=rows).result
    assert max(asked) == 5
    assert found["value"] == whole["value"]
    assert found["error_budget"] == whole["error_budget"]
    lines = path.read_text().splitlines()
    assert len(lines) == 21
    assert sorted(json.loads(line)["image"] for line in lines[1:]) == list(range(20))
    asked.clear()
    assert measure(resumed, data, 20, question, rows=rows).result["value"] == whole["value"]
    assert asked == []
    assert measure(resumed, data, 5, question, rows=rows).result["num_images"] == 5


def test_rows_that_cannot_be_written_say_so(tmp_path):
    rows = Rows(tmp_path / "it.jsonl", {})
    rows.path = tmp_path
    with pytest.raises(RunError, match="cannot write"):
        rows.append([{"image": 0}])
