"""The growth benchmark: what it says limits a step, and what becomes of cases that fail."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict

import pytest
import torch

from benchmarks.growth import case as growth_case
from benchmarks.growth import launch, rules, table
from benchmarks.growth.case import LAYOUTS, Case
from scoreflow.factory.training import build_training
from scoreflow.models.unet import UNet
from scoreflow.runtime.distributed import Shard

CPU = torch.device("cpu")


def found(seconds=1.0, gb=3.0, peak=100.0):
    return {
        "failed": "",
        "seconds": [seconds, seconds, 2 * seconds],
        "peak_gb": gb,
        "base_gb": 0.5,
        "parameters": 50_000_000,
        "gflop_an_image_forward": 10.0,
        "convolution_gflops": peak,
    }


def rows_of(*pairs, limit=100.0):
    """Cases and what was found, as a table's rows."""
    results = dict(pairs)
    return table.measured(list(results), "cpu", 2, limit, lambda case, *_: results[case])


def limits(*pairs, limit=100.0):
    return [row["limited_by"] for row in rows_of(*pairs, limit=limit)]


def test_a_row_has_medians_shares_and_what_images_take():
    row = table.row(Case("batch", 32, 4), found())
    assert row["seconds"] == 1.0
    assert row["images_per_second"] == 4.0
    assert row["gflop_an_image"] == 30.0
    assert row["share_of_convolution"] == pytest.approx(30 * 4 / 100)
    assert row["weights_gb"] == pytest.approx(1.0)
    assert row["gb_an_image"] == pytest.approx((3.0 - 0.5 - 1.0) / 4)
    row = table.row(Case("processes", 32, 4, recompute=True, processes=2), found())
    assert row["gflop_an_image"] == 40.0
    assert row["gb_an_image"] == pytest.approx((3.0 - 0.5 - 1.0) / 2)


def test_time_is_limited_by_arithmetic_by_what_does_not_grow_or_by_the_rest():
    one, two = Case("batch", 32, 1), Case("batch", 32, 2)
    assert limits((one, found(peak=60.0))) == ["arithmetic"]  # 30 of 60 GFLOP/s
    assert limits((one, found(peak=61.0))) == ["the rest"]
    slow = {"peak": 1000.0}
    assert (
        limits((one, found(1.0, **slow)), (two, found(1.2, **slow))) == ["what does not grow"] * 2
    )
    assert limits((one, found(1.0, **slow)), (two, found(1.9, **slow))) == ["the rest"] * 2
    other = Case("batch", 32, 2, micro_batches=2)
    assert limits((one, found(1.0, **slow)), (other, found(1.2, **slow))) == ["the rest"] * 2


def test_memory_is_next_where_twice_as_much_would_not_fit():
    batch, side = Case("batch", 32, 4), Case("resolution", 32, 4)
    # 0.5 before there is a network, 1 for weights, 1.5 for images
    assert limits((batch, found(peak=60.0)), limit=4.5) == ["arithmetic"]
    assert limits((batch, found(peak=60.0)), limit=4.4) == ["arithmetic; memory next"]
    assert limits((side, found(peak=60.0)), limit=7.5) == ["arithmetic"]
    assert limits((side, found(peak=60.0)), limit=7.4) == ["arithmetic; memory next"]


@pytest.mark.parametrize(
    ("together", "free", "limit"),
    [(0.6, 0.6, "arithmetic"), (0.7, 0.6, "exchange"), (0.7, 0.7, "shared machine")],
)
def test_processes_are_limited_by_their_exchange_only_if_they_would_be_faster_without(
    together, free, limit
):
    one, two = Case("processes", 32, 4), Case("processes", 32, 4, processes=2)
    alone = Case("processes", 32, 4, processes=2, exchange=False)
    said = limits((one, found(1.0)), (two, found(together)), (alone, found(free)))
    assert said[1] == limit
    assert limits((two, found()))[0] == "the rest"  # with nothing to compare with


def test_a_case_that_would_not_fit_is_not_tried():
    small, large = Case("batch", 32, 4), Case("batch", 32, 8)
    rows = rows_of((small, found()), (large, found()), limit=4.0)
    assert rows[1]["failed"] == "does not fit: 4.5 GB by the row before, of 4.0"
    assert rows[1]["limited_by"] == "does not fit"
    other = Case("batch", 32, 8, recompute=True)
    assert not rows_of((small, found()), (other, found()), limit=4.0)[1]["failed"]
    assert "seconds" not in rows[1]


def test_a_process_that_dies_becomes_a_row(monkeypatch):
    monkeypatch.setattr(launch, "output", lambda *_: (-9, "", ""))
    case = Case("batch", 32, 1)
    row = table.measured([case], "cpu", 2, 1.0, launch.run)[0]
    assert row["failed"] == "killed by signal 9, as a rule for its memory"
    assert row["limited_by"] == "failed"

    def late(*_):
        raise subprocess.TimeoutExpired("", 600)

    monkeypatch.setattr(launch, "output", late)
    assert launch.run(case, "cpu", 2) == {"failed": "took more than 10 minutes"}
    text = "Traceback\n  torch.OutOfMemoryError: CUDA out of memory\nsome more"
    assert launch.reason(1, text) == "died: torch.OutOfMemoryError: CUDA out of memory"
    assert launch.reason(3, "nothing") == "died: status 3"


LAUNCHER = """
import pathlib, signal, subprocess, sys, time
code = "import time; time.sleep(60)"
worker = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
def ended(*_):
    worker.kill()
    worker.wait()
    pathlib.Path(sys.argv[1] + ".ended").touch()
    sys.exit(1)
signal.signal(signal.SIGTERM, {answer})
signal.signal(signal.SIGINT, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).write_text(str(worker.pid))
time.sleep(60)
"""
"""Like torchrun's, its worker is in a session of its own."""


def interrupt_after(path):
    """What Ctrl-C does, once a file is there."""
    while not path.exists():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("way", [pytest.param("timeout", marks=pytest.mark.slow), "interrupt"])
def test_a_launcher_that_is_stopped_ends_its_workers(tmp_path, way):
    path = tmp_path / "worker"
    command = [sys.executable, "-c", LAUNCHER.format(answer="ended"), str(path)]
    if way == "timeout":
        with pytest.raises(subprocess.TimeoutExpired):
            launch.output(command, dict(os.environ), 8.0)  # for two interpreters to start
    else:
        thread = threading.Thread(target=interrupt_after, args=(path,))
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            launch.output(command, dict(os.environ), 60.0)
        thread.join()
    assert (tmp_path / "worker.ended").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(path.read_text()), 0)


@pytest.mark.slow
def test_a_launcher_that_does_not_hear_is_killed_after_a_grace(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "GRACE", 0.3)
    path = tmp_path / "worker"
    command = [sys.executable, "-c", LAUNCHER.format(answer="signal.SIG_IGN"), str(path)]
    begun = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        launch.output(command, dict(os.environ), 8.0)  # for two interpreters to start
    assert time.monotonic() - begun < 20
    os.kill(int(path.read_text()), signal.SIGKILL)  # which nobody could have ended in its place


def test_a_child_that_cannot_begin_is_a_row():
    """A real process: it refuses its device in a second, and nothing is trained."""
    row = launch.run(Case("batch", 32, 1), "tpu", 2)
    assert "--device tpu cannot be used" in row["failed"]


def test_the_table_has_a_line_a_row_whatever_became_of_it():
    case = Case("batch", 32, 4)
    rows = rows_of((case, found()), (Case("batch", 32, 8), {"failed": "killed by signal 9"}))
    lines = table.table(rows).splitlines()
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {11}
    assert "32 x 32, batch 8 | killed by signal 9" in lines[3]
    assert table.named(asdict(Case("processes", 32, 8, processes=2, exchange=False))).endswith(
        "2 processes, without exchange"
    )
    assert rules.RULES in table.notes(CPU, 8.0, [4])
    assert "for want of GPUs: 4 processes" in table.notes(CPU, 8.0, [4])
    assert "float32, channels-last. Seconds" in table.notes(CPU, 8.0, [])


def test_cases_go_from_small_to_large():
    every = table.cases(CPU, [32, 64], [1, 2, 8], [1, 2])
    assert [case.resolution for case in every[:4]] == [32, 64, 32, 64]
    assert [case.batch for case in every[4:8]] == [1, 2, 8, 8]
    assert [(case.processes, case.exchange, case.threads) for case in every[8:]] == [
        (1, True, 1), (2, True, 1), (2, False, 1),
    ]  # fmt: skip
    assert table.cases(torch.device("cuda"), [], [], [2])[0].threads == 0


@pytest.mark.parametrize("resolution", LAYOUTS)
def test_every_layout_is_a_network_and_those_of_the_paper_have_its_size(resolution):
    config = growth_case.config_of(Case("resolution", resolution, 1), on_gpu=False)
    settings = build_training(config)
    assert table.arithmetic_of(CPU) == f"{settings.precision}, channels-last"
    assert settings.channels_last
    layout = {key: config.model[key] for key in ("channels", "multipliers", "attention_sizes")}
    with torch.device("meta"):
        network = UNet(image_size=resolution, in_channels=3, out_channels=3, **layout)
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    published = {32: 35.7, 256: 114}  # Appendix B
    if resolution in published:
        assert millions == pytest.approx(published[resolution], rel=0.005)


def test_a_case_is_measured(monkeypatch, capsys):
    tiny = {32: {"channels": 8, "num_groups": 4, "multipliers": (1,), "attention_sizes": (32,)}}
    monkeypatch.setattr(growth_case, "LAYOUTS", tiny)
    monkeypatch.setattr(growth_case, "peaks", lambda *_: {"convolution": 1.0})
    case = json.dumps(asdict(Case("batch", 32, 2, micro_batches=2)))
    growth_case.main([f"--case={case}", "--device=cpu", "--rounds=2"])
    printed = json.loads(capsys.readouterr().out.removeprefix(growth_case.MARK))
    assert len(printed["seconds"]) == 2
    assert printed["peak_gb"] >= printed["base_gb"] > 0  # a suite's peak may be behind it
    assert table.row(Case("batch", 32, 2), printed)["gflop_an_image"] > 0


def test_processes_are_as_slow_as_the_slowest(monkeypatch):
    own = {"seconds": [1.0, 2.0], "peak_gb": 1.0, "convolution_gflops": 3.0}
    other = {"seconds": [2.0, 1.0], "peak_gb": 2.0, "convolution_gflops": 4.0}
    monkeypatch.setattr(Shard, "gathered", lambda self, own: {0: own[0], 1: other})
    assert growth_case.together(own, Shard(0, 2)) == {
        "seconds": [2.0, 2.0], "peak_gb": 2.0, "convolution_gflops": 7.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("bad", "got"),
    [
        ("--rounds=1", "got 1 and 0"),
        ("--limit=-1", "got 3 and -1"),
        ("--limit=nan", "got 3 and nan"),
        ("--resolutions=48", "got [48]"),
        ("--batches=0", "got [0]"),
        ("--processes=x", "got 'x'"),
        ("--device=tpu", "--device tpu cannot be used"),
        ("--resolutions= --batches= --processes=", "must not all be empty"),
    ],
)
def test_bad_arguments_are_refused_with_what_they_are(bad, got, capsys):
    with pytest.raises(SystemExit) as error:
        table.main(["--device=cpu", *bad.split()])
    assert error.value.code == 2
    assert got in capsys.readouterr().err
