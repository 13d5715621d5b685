"""The pretended device, for tests."""

from collections.abc import Iterator

import pytest
import torch

from tests.device.pretend import OLDEST, pretending
from tests.device.watch import Seen, watching

VERSION = tuple(int(part) for part in torch.__version__.split(".")[:2])


@pytest.fixture
def needs_python_device() -> None:
    """Skips where torch's Python cannot be a device."""
    if VERSION < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        pytest.skip(
            f"a device written in Python needs torch {wanted}, this is {torch.__version__}"
        )


@pytest.fixture
def device(needs_python_device: None) -> Iterator[torch.device]:
    """The pretended device, there for one test."""
    with pretending() as there:
        yield there


@pytest.fixture
def seen(device: torch.device) -> Iterator[Seen]:
    """What is asked of it; a mixture of devices that CUDA refuses raises."""
    with watching() as found:
        yield found
