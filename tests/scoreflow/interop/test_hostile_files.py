"""A file that carries code is refused by every reader, and what it asks for is named."""

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from scoreflow.errors import RequestError
from scoreflow.interop import formats

FIXTURES = Path(__file__).parents[2] / "fixtures"
OPTIONS = {"size": 8, "schedule": "linear", "steps": 10, "heads": 1}
"""What the readers of bare state dicts ask for before they read."""


class Hostile:
    """Runs a shell command when it is unpickled by Python's own machine."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.system, (f"touch {self.witness}",)


def write(path: Path, value: object, zipped: bool) -> Path:
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps({"ema": value}, protocol=4))
    else:
        state = {"out.2.weight": torch.ones(2), "model": {"x": value}}
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
    return path


def checkpoint(name: str, folder: Path, value: object, zipped: bool) -> Path:
    """A checkpoint as a format has them, with a value where a tensor or a network should be."""
    if name == "edm":
        return write(folder / "network-snapshot-000001.pkl", value, zipped)
    if name == "diffusers":
        there = FIXTURES / "diffusers" / "ddpm_old_names"
        shutil.copytree(there, folder / "network")
        write(folder / "network" / "diffusion_pytorch_model.bin", value, zipped)
        return folder / "network"
    ending = "pth" if name == "score_sde" else "pt"
    return write(folder / f"ema_0.9999_000001.{ending}", value, zipped)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", [name for name in formats.FORMATS if name != "scoreflow"])
def test_code_is_named_and_does_not_run(tmp_path, name, zipped):
    witness = tmp_path / "witness"
    path = checkpoint(name, tmp_path, Hostile(witness), zipped)
    for as_ in (name, ""):  # told, and recognised
        options = {} if name in ("edm", "diffusers") or not as_ else OPTIONS
        with pytest.raises(RequestError, match=r"asks for (posix|nt)\.system, ") as caught:
            formats.read(path, as_, "", options)
        assert str(caught.value).isprintable()
    assert not witness.exists()
