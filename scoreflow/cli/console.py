"""Printing from the first process, and the settings that a result records."""

from typing import Any

from ml_collections import ConfigDict

from scoreflow.runtime import distributed
from scoreflow.runtime.terminal import tell


def say(text: str) -> None:
    """Print lines, from the first process alone."""
    if distributed.is_main_process():
        tell(text)


def recorded(section: ConfigDict, device: object) -> dict[str, Any]:
    """A section of the config as a result keeps it, with the device."""
    return {**section.to_dict(), "device": str(device)}
