"""The check of a GPU runs on one: every tensor it makes is where it is asked for."""

import pytest
import torch

from benchmarks.gpu import agreement, check

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def in_small(monkeypatch):
    whole = agreement.config_of

    def config_of(**switches):
        config = whole(**switches)
        config.model.channels, config.model.attention_sizes = 8, ()
        config.sampling.steps, config.likelihood.tolerance = 3, 0.1
        return config

    monkeypatch.setattr(agreement, "config_of", config_of)
    monkeypatch.setattr(agreement, "SAMPLERS", ("ancestral", "unipc"))
    monkeypatch.setattr(agreement, "CERTIFIED", 8)
    monkeypatch.setattr(agreement, "STEPS", 2)


@pytest.mark.parametrize("found", check.CHECKS, ids=lambda each: each.__name__)
def test_what_is_compared_with_a_cpu_agrees(found, device, seen):
    rows = check.compared(found(device, False), found(CPU, True))
    assert all(row["passed"] for row in rows), rows


def test_switches_and_the_certificate_run_on_it(device, seen, monkeypatch):
    one = ({"channels_last": True, "micro_batches": 5}, check.EXACT, agreement.ADAM)
    monkeypatch.setattr(check, "SWITCHES", (one,))
    rows = [*check.switched(device), *agreement.certified(device)]
    assert all(row["passed"] for row in rows), rows
