"""The sampling benchmark: that both sides ask their network as often, and its arithmetic."""

import json

import pytest
import torch
from torch import nn

from benchmarks import contenders, measure, overhead, sampling
from benchmarks.sampling import HALF, OURS, SAMPLERS, THEIRS, Case, Contender, CountedNetwork

pytest.importorskip("diffusers")
CPU = torch.device("cpu")


class Free(nn.Module):
    """A network that returns half of its input, and records the dtype of that input."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))
        self.dtypes = set()

    def forward(self, x, index, return_dict=True):
        self.dtypes.add((x.dtype, torch.is_autocast_enabled("cpu")))
        answer = self.weight * x
        return answer if return_dict else (answer,)


@pytest.fixture
def free(monkeypatch):
    network = Free()
    monkeypatch.setattr(sampling, "build_network", lambda _config, _data: network)
    monkeypatch.setattr(contenders, "theirs", lambda *_: (None, None, network))
    return network


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_both_sides_evaluate_twenty_times(free, sampler):
    for (who, _), (draw, network) in sampling.made(CPU, 3, ["float32"]).items():
        levels = draw(sampler)
        assert network.rows == 3 * sampling.EVALUATIONS, who
        assert levels.shape == (3, 3, 32, 32)
        assert levels.dtype == torch.uint8
    assert free.dtypes == {(torch.float32, False)}


def test_variants_have_the_arithmetic_that_they_name(free):
    seen = {}
    for (who, variant), (draw, _) in sampling.made(CPU, 1, ["float32", "bfloat16"]).items():
        free.dtypes.clear()
        draw("ddim")
        (seen[who, variant],) = free.dtypes
    assert seen[OURS, "float32"] == seen[THEIRS, "float32"] == (torch.float32, False)
    assert seen[OURS, "bfloat16"] == seen[THEIRS, "bfloat16"] == (torch.float32, True)
    assert seen[HALF, "bfloat16"] == (torch.bfloat16, False)


def test_a_row_has_the_median_of_ratios():
    times = {
        Case(OURS, "float32", "ddim"): [1.0, 2.0, 4.0],
        Case(THEIRS, "float32", "ddim"): [2.0, 8.0, 4.0],
    }
    own, reference = (sampling.row(case, times, 20.0, 8) for case in times)
    assert own["seconds"] == 2.0
    assert own["images_per_second"] == 4.0
    assert own["ratio"] == 2.0  # of 2, 4 and 1
    assert reference["ratio"] == 1.0
    lines = sampling.table([own, {**reference, "evaluations": 39.0}]).splitlines()
    assert lines[2].endswith("| 20 |")
    assert lines[3].endswith("| 39, not 20 |")
    assert {line.count("|") for line in lines} == {8}


def test_every_round_is_counted(monkeypatch):
    network = CountedNetwork(nn.Identity())

    def draw(_sampler):
        network(torch.zeros(2, 1))
        return torch.zeros(2)

    everyone = {(who, "float32"): Contender(draw, network) for who in (OURS, THEIRS)}
    monkeypatch.setattr(sampling, "made", lambda *_: everyone)
    rows = sampling.measured(CPU, 2, ["float32"], 3)
    assert [row["evaluations"] for row in rows] == [1.0] * len(rows)
    assert {len(row["seconds_each"]) for row in rows} == {3}
    assert len(rows) == 2 * len(SAMPLERS)


def test_what_is_measured_is_kept(free, tmp_path, capsys):
    sampling.main(["--device=cpu", "--rounds=2", "--batch=1", f"--out={tmp_path}"])
    kept = json.loads((tmp_path / "sampling.json").read_text())
    assert {row["evaluations"] for row in kept["rows"]} == {sampling.EVALUATIONS}
    assert sampling.table(kept["rows"]) in (tmp_path / "sampling.md").read_text()
    assert "diffusers" in kept["environment"]
    assert sampling.table(kept["rows"]) in capsys.readouterr().out


@pytest.mark.parametrize(
    "bad",
    ["--rounds=1", "--batch=-1", "--variants=float64", "--device=gpu", "--rounds=x", "--round=3"],
)
def test_bad_arguments_are_refused(bad, capsys):
    with pytest.raises(SystemExit) as stopped:
        sampling.main([bad])
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_each_method_has_a_namesake():
    names = [type(sampling.scheduler_of(sampler)).__name__ for sampler in SAMPLERS]
    assert names == ["UniPCMultistepScheduler", "DPMSolverMultistepScheduler", "DDIMScheduler"]
    assert set(SAMPLERS) <= set(overhead.METHODS)


def test_peak_memory_is_in_gigabytes():
    assert 0.01 < measure.peak_memory(CPU) < 1000
