"""Fixtures of foreign checkpoints: each a file of its codebase with what that answered to it."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scoreflow.factory import assembly
from scoreflow.factory.data import build_data
from scoreflow.factory.model import build_model, build_network
from scoreflow.imported_run import config_of, load
from scoreflow.interop import formats
from scoreflow.interop.imported import Imported
from scoreflow.models.score_model import ScoreModel

FIXTURES = Path(__file__).parents[2] / "fixtures"


@dataclass(frozen=True)
class Golden:
    """A checkpoint and its original's answers.

    Attributes:
        path: file or folder that is imported.
        folder: of golden.npz and about.json.
        format: the codebase.
        options: that its reader needs.
    """

    path: Path
    folder: Path
    format: str
    options: dict[str, Any]

    @cached_property
    def arrays(self) -> dict[str, torch.Tensor]:
        with np.load(self.folder / "golden.npz") as held:
            return {name: torch.from_numpy(held[name]) for name in held.files}

    @cached_property
    def about(self) -> dict[str, Any]:
        return json.loads((self.folder / "about.json").read_text())

    @cached_property
    def imported(self) -> Imported:
        return formats.read(self.path, self.format, "", self.options)

    def model(self, precision: str = "float32", raw: bool = False, **changed: Any) -> ScoreModel:
        """The network as a Denoiser of its own images, under other config keys if any."""
        overrides = {"model.data_scale": 1.0} | {
            name.replace("__", "."): value for name, value in changed.items()
        }
        config = config_of(self.imported, overrides)
        data = build_data(config, torch.device("cpu"))
        network = build_network(config, data)
        load(network, self.imported.raw if raw else self.imported.weights, self.path)
        network = network.eval().requires_grad_(False)
        if precision == "float64":
            network = network.double()
        model = build_model(config, network, assembly.build_sde(config)).in_precision(precision)
        classes = None
        if (self.folder / "golden.npz").is_file():
            classes = self.arrays.get("class_labels")
        return model if classes is None else model.labelled(classes.long())

    def bare(self, model: ScoreModel, index: torch.Tensor | None = None) -> torch.Tensor:
        """The bare network's answer to x_t at the golden indices, or at others."""
        index = self.index if index is None else index
        x = model.asking.input(model.sde, self.arrays["x_t"].double(), index.double() + 1)
        x = x.to(next(model.network.parameters()).dtype)
        label = model.asking.labels(model.sde, x, index.double() + 1)
        return model._value(x, label)

    @property
    def index(self) -> torch.Tensor:
        """The chain's indices from 0."""
        return self.arrays["t" if "t" in self.arrays else "index"]


def openai(name: str, format: str, file: str, **options: Any) -> Golden:
    folder = FIXTURES / format / name
    own = {"size": 8, "norm_groups": 4, "schedule": "cosine", **options}
    return Golden(folder / file, folder, format, own)


def diffusers(name: str) -> Golden:
    folder = FIXTURES / "diffusers" / name
    return Golden(folder, folder, "diffusers", {})


GOLDEN = {
    "ddpm": diffusers("ddpm"),
    "ddpm_old_names": diffusers("ddpm_old_names"),
    "train_unconditional": diffusers("train_unconditional"),
    "class_v": diffusers("class_v"),
    "learned_range": diffusers("learned_range"),
    "cifar10_like": openai(
        "cifar10_like", "improved_diffusion", "ema_0.9999_500000.pt", heads=4, steps=4000
    ),
    "adm_legacy_order": openai(
        "adm_legacy_order",
        "guided_diffusion",
        "ema_0.9999_300000.pt",
        head_channels=4,
        steps=1000,
    ),
    "adm_new_order": openai(
        "adm_new_order",
        "guided_diffusion",
        "ema_0.9999_300000.pt",
        head_channels=4,
        steps=1000,
        attention_order="qkv_major",
    ),
}


@pytest.fixture
def golden():
    """A checkpoint by its fixture's name."""
    return GOLDEN.__getitem__


@pytest.fixture
def golden_of():
    """A checkpoint without golden answers, to have its network of."""

    def make(path: Path, format: str = "diffusers", options: dict[str, Any] | None = None):
        return Golden(path, path, format, options or {})

    return make


@pytest.fixture
def fixtures():
    """The folder of all fixtures."""
    return FIXTURES
