"""The overhead benchmark: that it times the same work, and what it makes of its times."""

import json

import pytest
import torch

from benchmarks import overhead
from scoreflow.samplers import DDIM

diffusers = pytest.importorskip("diffusers")


def test_a_row_is_medians_and_the_median_of_ratios():
    found = {name: [100.0, 120.0, 110.0, 130.0] for name in overhead.METHODS}
    found |= {overhead.title(*m.namesake): [200.0, 240.0, 55.0, 260.0]
              for m in overhead.METHODS.values() if m.namesake}  # fmt: skip
    made = {row["sampler"]: row for row in overhead.rows(found, 64)}
    assert made["ddim"]["us"] == 115.0
    assert made["ddim"]["ratio"] == 0.5  # a median of ratios, not a ratio of medians: 115 / 220
    assert made["ancestral"]["against"] == "DDPMScheduler"
    assert made["heun"]["against"] == "DDIMScheduler"
    assert "namesake" not in made["euler_maruyama"]
    lines = overhead.table(list(made.values())).splitlines()
    assert len(lines) == 2 + len(overhead.METHODS)
    assert {line.count("|") for line in lines} == {8}


def test_both_loops_ask_their_network_as_often():
    calls = []

    class Asked(overhead.Free):
        def forward(self, x, index):
            calls.append(len(x))
            return x

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overhead, "Free", Asked)
        for build in (overhead.ours(DDIM(), 3, 10), overhead.theirs("DDIMScheduler", {}, 3, 10)):
            calls.clear()
            build()
            assert calls == [3] * 10


def test_a_small_run_keeps_its_figures(tmp_path, capsys):
    threads = torch.get_num_threads()
    overhead.main(["--rounds=2", "--steps=2", f"--out={tmp_path}"])
    assert torch.get_num_threads() == threads
    kept = json.loads((tmp_path / "overhead.json").read_text())
    assert len(kept["rows"]) == 2 * len(overhead.METHODS)
    assert kept["environment"]["diffusers"] == diffusers.__version__
    assert overhead.table(kept["rows"]) in (tmp_path / "overhead.md").read_text()
    assert overhead.table(kept["rows"]) in capsys.readouterr().out


@pytest.mark.parametrize("bad", ["--rounds=1", "--steps=0", "--steps=1001"])
def test_bad_numbers_are_refused(bad):
    with pytest.raises(SystemExit):
        overhead.main([bad])
