"""The command line of `benchmarks.clocks`."""

import argparse
import shlex
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.clocks.processes import CLOCKS, Clock
from benchmarks.command_line import ROOT, OneLineParser, whole_number
from scoreflow.errors import RequestError
from scoreflow.runtime.device import build_device
from scoreflow.storage.atomic_files import Json

DEFAULTS: Json = {"steps": 400, "seeds": 2, "images": 0, "objective": "velocity"}
"""Of the options that decide what is measured: results/DEVICE/clocks.* are of these alone."""


@dataclass(frozen=True)
class Options:
    """A command line.

    Attributes:
        steps: of every training.
        seeds: trainings of every process.
        images: test images measured; 0 for all.
        objective: what every training minimises.
        device: where it runs.
        work: the folder of the runs.
        out: of the results, None for the device's own.
        more: flags of run.py for every training.
        command: the command line, to reproduce the result.
    """

    steps: int
    seeds: int
    images: int
    objective: str
    device: torch.device
    work: Path
    out: Path | None
    more: tuple[str, ...]
    command: str

    @property
    def runs(self) -> list[tuple[Clock, int, Path]]:
        """Process, seed and folder of every training."""
        return [
            (clock, seed, self.work / f"{clock.name}-{seed}")
            for seed in range(self.seeds)
            for clock in CLOCKS
        ]

    @property
    def comparison(self) -> Path:
        """The folder of the comparison."""
        return self.work / "compared"


def parse(argv: list[str]) -> Options:
    """The options of a command line, or a RequestError."""
    parser = OneLineParser("clocks", "Five processes, one network")
    given = DEFAULTS
    parser.add_argument("--steps", type=whole_number(1), default=given["steps"], help="of each")
    parser.add_argument("--seeds", type=whole_number(1), default=given["seeds"], help="trainings")
    parser.add_argument(
        "--images", type=whole_number(0), default=given["images"], help="of the test set; 0: all"
    )
    parser.add_argument("--objective", default=given["objective"], help="of every training")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--work", type=Path, help="of the runs; default: runs/clocks-STEPS")
    parser.add_argument("--out", type=Path, help="default: results/ and the kind of device")
    parser.epilog = "and --config.SECTION.KEY=VALUE, as of run.py, for every training"
    own, more = parser.parse_known_args(argv[1:])
    if wrong := [flag for flag in more if not flag.startswith("--config.")]:
        raise RequestError(f"no option {wrong[0]!r}; --help lists them")
    unlike = [f"--{key}={getattr(own, key)}" for key in DEFAULTS if _other(own, key)] + more
    if unlike and own.out is None:
        raise RequestError(
            f"{' '.join(unlike)} is not the default, whose results lie in results/: add --out "
            "with a folder of its own"
        )
    return _options(own, tuple(more), shlex.join(["python", "-m", "benchmarks.clocks", *argv[1:]]))


def _other(own: argparse.Namespace, key: str) -> bool:
    return bool(getattr(own, key) != DEFAULTS[key])


def _options(own: argparse.Namespace, more: tuple[str, ...], command: str) -> Options:
    return Options(
        own.steps,
        own.seeds,
        own.images,
        own.objective,
        build_device(own.device),
        own.work or ROOT / "runs" / f"clocks-{own.steps}",
        own.out,
        more,
        command,
    )
