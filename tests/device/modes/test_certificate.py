"""The certificate on a GPU: each of its parts holds there, and none mixes devices."""

import pytest

from scoreflow.certificate import certificate
from scoreflow.certificate.trained_sampler_laws import Amount
from scoreflow.cli.modes.equivalence import _log_density
from tests.device.modes import small

COUNT = 12


def parts(device):
    """What computes the identities of a small network of images, in order."""
    subject = certificate.Subject(small.model(device), small.data(device), True, _log_density)
    effort = certificate.Effort(Amount(4, 4, 4), 2, 2)
    return [part for _, part in certificate.parts(subject, effort)]


@pytest.mark.parametrize("number", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_views_and_losses_hold_there(number, device, seen):
    assert [row.name for row in parts(device)[number]() if not row.passed] == []


@pytest.mark.slow
@pytest.mark.parametrize("number", range(2, COUNT))
def test_a_part_holds_there(number, device, seen):
    assert len(parts(device)) == COUNT
    assert [row.name for row in parts(device)[number]() if not row.passed] == []
