"""The command line of the table: its own options, and any key of a config."""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from ml_collections import ConfigDict

from benchmarks.command_line import ROOT, OneLineParser, whole_number
from benchmarks.table2.cells import FIXED, Cell
from benchmarks.table2.measurement import STRATA
from scoreflow.cli import command_line
from scoreflow.errors import RequestError
from scoreflow.runtime.device import build_device
from scoreflow.schema import resolve
from scoreflow.schema.request import Request
from scoreflow.storage.atomic_files import Json

DEFAULTS: Json = {"sampling.steps": 100, "likelihood.max_evaluations": 400}
"""Defaults of the table that a command line may change, like any other key of a config."""


@dataclass(frozen=True)
class Options:
    """A command line.

    Attributes:
        steps: of training, each cell.
        images: measured and drawn, each cell.
        device: where it runs.
        out: the folder of the results.
        experiment: the name of the config.
        config: shared by all cells, without the keys that a cell sets.
        overrides: of that config, as given.
        command: the command line, to reproduce the result.
    """

    steps: int
    images: int
    device: torch.device
    out: Path
    experiment: str
    config: Json
    overrides: Json
    command: list[str]

    def cell_config(self, cell: Cell) -> ConfigDict:
        """The whole config of a cell, checked."""
        return resolve.resolve({**self.config, **cell.overrides()}, "table2")

    def settings(self) -> Json:
        """All that the rows of a table depend on, but the code."""
        config = {key: value for key, value in self.config.items() if key not in FIXED}
        return {"config": config, "strata": STRATA, "device": str(self.device)}


def parse(argv: list[str]) -> Options:
    """The options of a command line, or a RequestError."""
    parser = OneLineParser("table2", "DDPM's Table 2 in small")
    parser.add_argument(
        "--steps", type=whole_number(1), default=700, help="of training, each cell"
    )
    parser.add_argument("--images", type=whole_number(2), default=360, help="measured and drawn")
    parser.add_argument("--out", type=Path, help="default: results/ and the kind of device")
    parser.epilog = "and, as of run.py, --device, --config and --config.SECTION.KEY=VALUE"
    own, others = parser.parse_known_args(argv[1:])
    wanted = command_line.parse([argv[0], "--mode=train", *others])
    table = _table_keys(own)
    _check(wanted, table)
    device = build_device(wanted.device)
    return Options(
        own.steps,
        own.images,
        device,
        own.out or ROOT / "results" / device.type,
        wanted.experiment,
        {**wanted.config, **DEFAULTS, **wanted.overrides, **table},
        wanted.overrides,
        ["python", "-m", "benchmarks.table2", *argv[1:]],
    )


def _table_keys(own: argparse.Namespace) -> Json:
    """The keys of a config that the table's own options set."""
    return {
        "training.num_steps": own.steps,
        "training.checkpoint_every": own.steps,
        "training.log_every": math.gcd(own.steps, 50),
        "sampling.num_images": own.images,
        "likelihood.num_images": own.images,
    }


def _check(wanted: Request, table: Json) -> None:
    """Refuse what a table cannot be made with."""
    if wanted.mode != "train" or wanted.workdir is not None:
        raise RequestError("a table has no --mode and no --workdir; its results go to --out")
    if fixed := sorted(wanted.overrides.keys() & (table.keys() | FIXED)):
        raise RequestError(
            f"{', '.join(fixed)} cannot be given: the table sets it, some by --steps and --images"
        )
    if wanted.config["model.name"] != "unet":
        raise RequestError(
            "Table 2 is about images and needs a config with model.name = unet, got "
            f"{wanted.config['model.name']} in {wanted.experiment}"
        )
