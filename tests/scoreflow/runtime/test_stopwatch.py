"""A clock that waits for the device before it is read."""

import time

import torch

from scoreflow.runtime.stopwatch import Stopwatch


def test_seconds_go_on_from_reading_to_reading():
    watch = Stopwatch(torch.device("cpu"))
    time.sleep(0.02)
    first = watch.seconds
    assert 0.02 <= first <= watch.seconds


def test_a_gpu_is_waited_for_at_both_ends(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    device = torch.device("cuda", 1)
    watch = Stopwatch(device)
    assert waited == [device]
    assert watch.seconds >= 0
    assert waited == [device, device]
