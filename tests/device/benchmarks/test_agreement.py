"""The check of a GPU runs on one: every tensor it makes is where it is asked for."""

import pytest
import torch

from benchmarks.gpu import agreement, check
from scoreflow.sde.noise import kernels

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def in_small(monkeypatch, device):
    whole = agreement.config_of

    def config_of(**switches):
        config = whole(**switches)
        config.model.channels, config.model.attention_sizes = 8, ()
        config.sampling.steps, config.likelihood.tolerance = 3, 0.1
        return config

    monkeypatch.setattr(agreement, "config_of", config_of)
    monkeypatch.setattr(agreement, "SAMPLERS", ("ancestral", "unipc"))
    for name, count in (("CERTIFIED", 8), ("STEPS", 2), ("IMAGES", 2)):
        monkeypatch.setattr(agreement, name, count)
    monkeypatch.setattr(kernels, "FUSED", {"cuda", device.type})


def of(*found, marks=()):
    return [pytest.param(each, id=each.__name__, marks=marks) for each in found]


@pytest.mark.parametrize(
    "found",
    of(agreement.noise, agreement.our_kernels, agreement.samples, agreement.training)
    + of(agreement.likelihood, marks=pytest.mark.slow),
)
def test_what_is_compared_with_a_cpu_agrees(found, device, seen):
    assert found in check.CHECKS
    rows = check.compared(found(device, False), found(CPU, True))
    assert all(row["passed"] for row in rows), rows


@pytest.mark.slow
def test_switches_and_the_certificate_run_on_it(device, seen, monkeypatch):
    one = ({"channels_last": True, "micro_batches": 5}, check.EXACT, agreement.ADAM)
    monkeypatch.setattr(check, "SWITCHES", (one,))
    rows = [*check.switched(device), *agreement.certified(device)]
    assert all(row["passed"] for row in rows), rows
