"""The training benchmark: that both sides train the same network, and what it makes of times."""

import subprocess
import sys

import pytest
import torch

from benchmarks import measure, training
from benchmarks.contenders import MAKERS

pytest.importorskip("diffusers")
CPU = torch.device("cpu")


def test_both_networks_are_the_published_one():
    sizes, flops = {}, {}
    for who, make in MAKERS.items():
        _, _, network = make(CPU, 2, "float32")
        sizes[who] = sum(parameter.numel() for parameter in network.parameters())
        flops[who] = measure.flops_of_an_image(network, (3, 32, 32), CPU)
    assert sizes["ours"] == sizes["diffusers"] == 35_746_307
    # all products are of equal sizes; of attention's (queries by keys, and by values; five times
    # 256 tokens and once 16, of 256 channels) the counter does not hear where diffusers has them
    attention = 5 * 4 * 256**2 * 256 + 4 * 16**2 * 256
    assert flops["ours"] == pytest.approx(flops["diffusers"] + attention, rel=1e-6)


def test_a_row_has_the_median_of_ratios_and_shares_of_the_peaks():
    times = {
        ("ours", "float32"): {"step": [1.0, 2.0, 4.0], "forward": [0.5, 0.5, 1.0]},
        ("diffusers", "float32"): {"step": [2.0, 8.0, 4.0], "forward": [1.0, 1.0, 1.0]},
    }
    peak = {"matrix_product": 120.0, "convolution": 60.0}
    row = training.row("ours", "float32", times, 8, 1e9, peak)
    assert row["seconds"] == 2.0
    assert row["images_per_second"] == 4.0
    assert row["forward_images_per_second"] == 16.0
    assert row["ratio"] == 2.0  # of 2, 4 and 1
    assert row["share_of_matrix_product"] == pytest.approx(3 * 4 / 120)
    assert row["share_of_convolution"] == pytest.approx(3 * 4 / 60)
    lines = training.table([{**row, "memory_gb": 1.5}]).splitlines()
    assert len(lines) == 3
    assert {line.count("|") for line in lines} == {10}


@pytest.mark.parametrize("bad", ["--rounds=1", "--batch=-1", "--variants=float64"])
def test_bad_arguments_are_refused(bad):
    with pytest.raises(SystemExit):
        training.main([bad, "--device=cpu"])


def test_memory_is_that_of_the_process_and_not_of_its_parent():
    """A child's ru_maxrss begins with its parent's: nothing here may be measured by it."""
    held = torch.ones(2**28 // 4)  # a quarter of a GiB, touched
    ask = "import torch; from benchmarks.measure import peak_memory; "
    ask += "own = peak_memory(torch.device('cpu')); x = torch.ones(2**27 // 4); "
    ask += "print(own, peak_memory(torch.device('cpu')))"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    own, after = map(float, done.stdout.split())
    here = measure.peak_memory(CPU)
    assert here > held.numel() * 4 / 1e9
    assert own < here
    assert after - own == pytest.approx(2**27 / 1e9, rel=0.1)
