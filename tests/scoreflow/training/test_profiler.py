"""What a profile says of a step, and that it profiles the step that training makes."""

import gzip
import json
from pathlib import Path

import pytest
from torch import nn
from torch.autograd import DeviceType
from torch.autograd.profiler_util import EventList, FunctionEvent

from scoreflow.cli.main import main
from scoreflow.models.mlp import MLP
from scoreflow.training import profiler
from scoreflow.training.trainer import PHASES

CONFIG = Path(__file__).parents[3] / "configs" / "toy.py"


def profile(*more):
    return main(
        ["run.py", "--mode=profile", f"--config={CONFIG}", "--device=cpu",
         "--config.profile.num_steps=4", "--config.profile.warmup=1",
         "--config.model.width=16", "--config.training.batch_size=8", *more]
    )  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def result():
    return json.loads(Path("runs/profile-toy-vp/results/profile.json").read_text())


def test_phases_operations_and_a_trace(capsys):
    assert profile() == 0
    found = result()
    assert tuple(row["name"] for row in found["phases"]) == PHASES
    assert [row["calls"] for row in found["phases"]] == [1.0] * len(PHASES)
    assert sum(row["share"] for row in found["phases"]) == pytest.approx(1)
    shares = [row["share"] for row in found["operations"]]
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 1
    operations = {row["name"]: row["calls"] for row in found["operations"]}
    layers = [module for module in MLP(2, 16).modules() if isinstance(module, nn.Linear)]
    assert operations["aten::addmm"] == len(layers)
    assert found["images_per_second"] == pytest.approx(8 / (found["value"] / 1e3))
    with gzip.open("runs/profile-toy-vp/results/profile-trace.json.gz") as file:
        named = [event.get("name") for event in json.load(file)["traceEvents"]]
    assert all(named.count(phase) >= 4 for phase in PHASES)
    out = capsys.readouterr().out
    assert all(word in out for word in (*PHASES, "ms a step", "profile-trace.json.gz"))


def test_parts_of_a_batch_are_counted():
    assert profile("--config.training.micro_batches=2") == 0
    calls = {row["name"]: row["calls"] for row in result()["phases"]}
    assert calls == dict.fromkeys(PHASES, 1.0) | dict.fromkeys(("batch", "forward", "backward"), 2)


def test_no_checkpoint_comes_of_it():
    assert profile() == 0
    assert not list(Path("runs").rglob("*.pt"))


def test_its_numbers_have_limits(capsys):
    assert profile("--config.profile.num_steps=0") == 2
    assert "profile.num_steps must lie in [1" in capsys.readouterr().err


def host(name, start, end, **more):
    """A row of the host, as torch's profiler makes it with CUDA; in microseconds."""
    return FunctionEvent(len(name), name, 1, start, end, stack=[], use_device="cuda", **more)


def kernel(name, start, end, launched_by=None, **more):
    """A row of the device; with an operation that launched it, one of its kernels too."""
    event = host(name, start, end, device_type=DeviceType.CUDA, **more)
    if launched_by is not None:
        launched_by.append_kernel(name, 0, end - start)
    return event


def a_step_on_a_gpu():
    """Two phases: a product in a linear layer, and a graph that is replayed by hand."""
    forward = host("forward", 0, 100, is_user_annotation=True)
    linear, product = host("aten::linear", 5, 50), host("aten::addmm", 10, 40)
    optimizer = host("optimizer", 100, 160, is_user_annotation=True)
    inside = host("Optimizer.step#Adam.step", 105, 155, is_user_annotation=True)
    update = host("aten::_fused_adam_", 110, 120)
    events = [
        *(forward, linear, product, optimizer, inside, update),
        kernel("gemm", 200, 270, product),
        kernel("bias", 270, 280, product),
        kernel("forward", 200, 280, forward, is_user_annotation=True),
        kernel("adam", 300, 340, update),
        kernel("adam", 345, 375, update),
        kernel("Optimizer.step#Adam.step", 300, 375, inside, is_user_annotation=True),
        kernel("replayed", 400, 407, optimizer),
        kernel("replayed", 407, 412),
        kernel("optimizer", 300, 412, optimizer, is_user_annotation=True),
    ]
    events = EventList(events, use_device="cuda")
    events._build_tree()
    return events


def test_on_a_gpu_a_phase_and_a_kernel_count_once():
    events = a_step_on_a_gpu()
    assert profiler.phase_times(events) == [("forward", 100, 1), ("optimizer", 60, 1)]
    rows = profiler.operation_times(events, on_gpu=True)
    spent = {name: (microseconds, calls) for name, microseconds, calls in rows if microseconds}
    assert spent == {
        "aten::addmm": (80, 1),
        "aten::_fused_adam_": (70, 1),
        profiler.OF_NO_OPERATION: (12, 2),
    }
    kernels = [e for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
    assert sum(row[1] for row in rows) == sum(e.time_range.elapsed_us() for e in kernels)
    assert [row[1] for row in rows] == sorted((row[1] for row in rows), reverse=True)
    # torch's own rows have twice as much, and each phase twice: what this is for
    averages = events.key_averages()
    assert sum(row.self_device_time_total for row in averages) > 2 * 162
    assert [row.key for row in averages].count("forward") == 2


def test_on_a_cpu_an_operation_is_without_those_it_is_made_of():
    outer, inner = host("aten::linear", 0, 30), host("aten::addmm", 10, 25)
    events = EventList([host("forward", 0, 40), outer, inner])
    events._build_tree()
    rows = profiler.operation_times(events, on_gpu=False)
    assert rows == [("aten::linear", 15, 1), ("aten::addmm", 15, 1)]
