"""A draw as one kernel: the same bits, in one call, in code that a GPU takes."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from scoreflow.sde.noise import Noise, Stream, kernels

HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="needs the package triton")


def in_own_process(tmp_path, *command, **env):
    """Of which the shape checks of these tests, that Triton cannot read, are no part."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TRITON_CACHE_DIR": str(tmp_path), **env}
    script, *args = command
    command = [sys.executable, str(HERE / script), *args]
    subprocess.run(command, check=True, env=env, cwd=HERE.parents[2])


@needs_triton
def test_the_kernel_draws_the_bits_of_the_plain_path(tmp_path):
    """By Triton's interpreter: other seeds, indices, steps, lanes, odd counts, all kinds."""
    in_own_process(tmp_path, "interpreted_draws.py", TRITON_INTERPRET="1")


@needs_triton
@pytest.mark.parametrize("capability", ["90", pytest.param("80", marks=pytest.mark.slow)])
def test_the_kernel_is_built_for_a_gpu_once_a_kind(tmp_path, capability):
    """Hopper's and Ampere's; types and alignment of a run's arguments included."""
    in_own_process(tmp_path, "built_draws.py", capability, TRITON_INTERPRET="0")


class Calls(TorchDispatchMode):
    """Operations by name, views aside."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view:
            self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def draws_of(noise):
    return [
        noise.words(Stream.TRAIN_DROPOUT, (3, 2)),
        noise.uniform(Stream.TRAIN_TIME),
        noise.normal(Stream.TRAIN_EPS, (3, 5, 7), 2),
        noise.normal(Stream.TRAIN_EPS, (3, 5, 7), 2, torch.float32),
        noise.rademacher(Stream.PROBE, (9,)),
    ]


@pytest.mark.parametrize("seed", [3, 2**64 - 1])
def test_a_draw_is_one_call(monkeypatch, seed):
    """With a CPU as the device that has kernels."""
    noise = Noise.of(seed, 5, 12).at(2**32 - 1)
    expected = draws_of(noise)
    monkeypatch.setattr(kernels, "FUSED", {"cpu"})
    with Calls() as calls:
        found = draws_of(noise)
    assert calls.names == ["scoreflow::philox_draw"] * 5
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_steps_that_are_read_ahead_are_one_call(monkeypatch):
    plain = Noise.of(5, 3, 6)
    expected = [plain.at(step).normal(Stream.CORRECTOR, (4,)) for step in range(9)]
    monkeypatch.setattr(kernels, "FUSED", {"cpu"})
    ahead = plain.reading_ahead(9)
    with Calls() as calls:
        found = [ahead.at(step).normal(Stream.CORRECTOR, (4,)) for step in range(9)]
    assert calls.names == ["scoreflow::philox_draw"]
    assert torch.equal(torch.stack(found), torch.stack(expected))


def test_a_draw_has_a_shape_before_it_is_drawn():
    with FakeTensorMode():
        index = torch.empty(6, dtype=torch.int64)
        drawn = torch.ops.scoreflow.philox_draw(
            "normal", index, None, 0, 0, 2, 4, 7, torch.float32
        )
    assert (drawn.shape, drawn.dtype) == ((2, 6, 7), torch.float32)


@pytest.mark.parametrize("fused", [set(), {"cpu"}])
def test_a_clock_is_added_to_the_step(monkeypatch, fused):
    monkeypatch.setattr(kernels, "FUSED", fused)
    plain, clock = Noise.of(5, 3, 6), torch.tensor(0)
    clocked = Noise(5, plain.index, 2, clock=clock)
    for tick in (0, 7):
        clock.fill_(tick)
        for one, other in zip(draws_of(clocked), draws_of(plain.at(2 + tick)), strict=True):
            assert torch.equal(one, other)
    ahead, later = clocked.reading_ahead(9), plain.at(9).normal(Stream.PRIOR, (3,))
    assert torch.equal(ahead.normal(Stream.PRIOR, (3,)), later)
    clock.fill_(0)  # what was kept for a step would be another one's
    assert torch.equal(ahead.at(9).normal(Stream.PRIOR, (3,)), later)
    clock.fill_(7)
    assert torch.equal(
        clocked.rows(torch.tensor([1])).uniform(Stream.DATA),
        plain.at(9).uniform(Stream.DATA)[1:2],
    )
