"""The trained models and test images under measurement, and the form of a solver's outcome."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.likelihood.settings import SEED
from benchmarks.likelihood.smooth_schedule import Smooth
from benchmarks.measure import load_run
from scoreflow.errors import RequestError
from scoreflow.factory.model import build_model
from scoreflow.likelihood.dequantization import Dequantizer
from scoreflow.models.score_model import ScoreModel
from scoreflow.sde.noise import Noise
from scoreflow.sde.processes.vp import VPSDE


@dataclass(frozen=True)
class Points:
    """Dequantized images at the time where the flow starts.

    Attributes:
        x: (B, ...) float64.
        offset: nats, (B,): added to a log density, gives the log probability of an image.
        noise: addresses the probes.
        t: in steps.
    """

    x: Tensor
    offset: Tensor
    noise: Noise
    t: float

    @property
    def dims(self) -> int:
        """Dimensions of an image."""
        return self.x[0].numel()

    def bits(self, log_prob: Tensor) -> Tensor:
        """Bits/dim, (B, P), of log densities in nats, (B, P)."""
        return (-(log_prob + self.offset[:, None]) / (self.dims * math.log(2))).cpu()


def points_of(model: ScoreModel, levels: Tensor, num_levels: int, t: float) -> Points:
    """Images, uniformly dequantized; the noise of an image depends on its place alone."""
    noise = Noise.of(SEED, 0, len(levels), levels.device)
    dequantizer = Dequantizer("uniform", num_levels, t)
    x, offset = dequantizer.place(model, model.sde, levels, noise)
    return Points(x, offset, noise, t)


@dataclass(frozen=True)
class Outcome:
    """Result and cost of scoring some points once.

    Attributes:
        bits: bits/dim, (B, P); nan where the solver did not finish.
        evaluations: of the field, (B,).
        forwards: forward passes through the network, a mean over images.
        products: vector-Jacobian products, a mean over images.
        unsolved: number of images that were not finished.
    """

    bits: Tensor
    evaluations: Tensor
    forwards: float
    products: float
    unsolved: int


Method = Callable[[Points, float], Outcome]
"""(points, tolerance) -> outcome."""


@dataclass(frozen=True)
class Bench:
    """A trained network and its test images.

    Attributes:
        models: in float32, on the schedule "as trained" and, where that is a table with kinks, on
            the "smooth" one.
        test: levels.
        num_levels: L.
        t: where the flow starts, in steps.
        step: of training.
    """

    models: dict[str, ScoreModel]
    test: Tensor
    num_levels: int
    t: float
    step: int

    @property
    def trained(self) -> ScoreModel:
        """The model on the schedule that it was trained with."""
        return self.models["as trained"]

    @property
    def song(self) -> str:
        """The schedule on which the usual procedure is measured."""
        return "smooth" if "smooth" in self.models else "as trained"

    def points(self, levels: Tensor) -> Points:
        """These images as points."""
        return points_of(self.trained, levels, self.num_levels, self.t)


def load_bench(workdir: Path, device: torch.device, counts: dict[str, int]) -> Bench:
    """The trained network of a run's folder, on its own and on the smooth schedule.

    Args:
        workdir: folder of a run on images.
        device: where it is measured.
        counts: option of the command line -> test images that it needs.

    Raises:
        RequestError: no run with a checkpoint, a run on vectors, or too few test images.
    """
    run = load_run(workdir, device)
    data, model = run.data, run.model
    if data.num_levels is None:
        raise RequestError(f"{workdir} is a run on vectors; bits/dim are of images")
    if max(counts.values()) > len(data.test):
        raise RequestError(
            f"{' and '.join(counts)} must be at most {len(data.test)}, the test images of "
            f"{workdir}, got {' and '.join(map(str, counts.values()))}"
        )
    models = {"as trained": model.in_precision("float32")}
    if isinstance(model.sde, VPSDE) and model.t_min >= 1:
        smooth = build_model(run.config, model.network, Smooth(model.sde))
        models["smooth"] = smooth.in_precision("float32")
    return Bench(models, data.test, data.num_levels, model.t_min, run.step)
