"""The pretended device, for tests."""

from collections.abc import Callable, Iterator

import pytest
import torch

from scoreflow.cli import command_line
from scoreflow.factory.assembly import Experiment, experiment
from scoreflow.schema import resolve
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


SMALL = {
    "digits": {
        "model__channels": 8,
        "model__num_groups": 4,
        "model__multipliers": "1,2",
        "model__blocks": 1,
    },
    "toy": {"model__width": 16, "model__depth": 2},
}
Made = Callable[..., Experiment]


@pytest.fixture
def experiment_of() -> Made:
    """(config's name, device, **keys "section__key") -> Experiment, small."""

    def made(name: str, where: torch.device, **keys: object) -> Experiment:
        keys = {**SMALL[name], "training__batch_size": 4, **keys}
        flags = [f"--config.{key.replace('__', '.')}={value}" for key, value in keys.items()]
        command = ["run.py", "--mode=train", f"--config={name}", *flags]
        return experiment(resolve.training_config(command_line.parse(command)), where)

    return made
