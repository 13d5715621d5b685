"""Fit, plausibility and calibration of inverse-problem samplers on a trained run of digits.

    python -m benchmarks.control --workdir runs/digits-vp [--images 40] [--draws 4]

Replacement, DPS and MMPS fill in the middle of images and enlarge blocks of 2 x 2 pixels:

    misfit       root mean square of y - A x, over the standard deviation of the noise of y
    class kept   share of draws whose nearest training image has the class of the measured image
    error        root mean square of draw minus image, over the unknown pixels (all of them for
                 blocks)
    calibration  error / (sqrt(2) spread): 1 where image and draws follow one distribution, more
                 where the draws differ too little from each other
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.measure import load_run
from scoreflow.data.dataset import Data
from scoreflow.data.levels import dequantize, quantize
from scoreflow.errors import RequestError
from scoreflow.factory.sampling import build_drawing
from scoreflow.samplers import (
    DPS,
    MMPS,
    BlockMean,
    Clipped,
    Counted,
    Masked,
    Measurement,
    Replaced,
    grid,
    sample,
)
from scoreflow.samplers.editing.linear_operators import middle_square
from scoreflow.sde.noise import Noise
from scoreflow.trained_run import TrainedRun


class Method(NamedTuple):
    """A sampler of images given a measurement.

    Attributes:
        name: "replace", "dps" or "mmps".
        value: weight of DPS, iterations of MMPS.
        steps: of ancestral sampling.
    """

    name: str
    value: float
    steps: int


METHODS = (
    Method("replace", 0.0, 64),
    Method("dps", 0.3, 64),
    Method("dps", 1.0, 64),
    Method("dps", 3.0, 64),
    Method("dps", 1.0, 256),
    Method("mmps", 1, 64),
    Method("mmps", 3, 64),
    Method("mmps", 5, 64),
    Method("mmps", 10, 64),
)
HEAD = ("task", "method", "steps", "misfit / noise", "class kept", "error", "calibration")
"""Columns, with the seconds after them."""


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table, row by row."""
    parser = argparse.ArgumentParser(
        description="samplers of inverse problems on a trained run of digits"
    )
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--draws", type=int, default=4)
    args = parser.parse_args(argv)
    try:
        run = load_run(args.workdir, torch.device("cpu"))
    except RequestError as error:
        parser.error(str(error))
    shape = tuple(run.data.test.shape[1:])
    print("| " + " | ".join((*HEAD, "seconds")) + " |")
    print("|" + "---|" * (len(HEAD) + 1), flush=True)
    for task, operator in (
        ("inpaint", Masked(middle_square(shape))),
        ("superresolve", BlockMean(2)),
    ):
        for method in METHODS:
            start = time.monotonic()
            found = measured(run, operator, method, args.images, args.draws)
            cells = [task, f"{method.name} {method.value:g}", str(method.steps), *found]
            print(f"| {' | '.join(cells)} | {time.monotonic() - start:.0f} |", flush=True)


def measured(
    run: TrainedRun, operator: Masked | BlockMean, method: Method, images: int, draws: int
) -> list[str]:
    """Misfit, class kept, error and calibration of a method, as text.

    Args:
        run: a trained run of labelled images.
        operator: A of the measurement y = A x + noise.
        method: draws x given y.
        images: the first so many of the test set are measured.
        draws: of each image.
    """
    data, levels = run.data, run.data.test[:images]
    half = torch.tensor(0.5, dtype=torch.float64)
    x_0 = dequantize(levels, half, data.num_levels).repeat(draws, 1, 1, 1)
    noise = 2 / data.num_levels / 12**0.5 * operator.gain**0.5
    given = Measurement(operator, operator.apply(x_0), noise)
    x = drawn(run, given, method)
    unknown = ~operator.known if isinstance(operator, Masked) else torch.ones_like(levels[0] > 0)
    error = (x - x_0)[:, unknown].square().mean().sqrt()
    spread = x.unflatten(0, (draws, images)).var(0)[:, unknown].mean().sqrt()
    truth = data.test_labels[:images].repeat(draws)
    kept = nearest_labels(data, quantize(x, data.num_levels)) == truth
    return [
        f"{given.misfit(x).mean() / noise:.2f}",
        f"{kept.double().mean():.3f}",
        f"{error:.3f}",
        f"{error / (2**0.5 * spread):.2f}",
    ]


def drawn(run: TrainedRun, given: Measurement, method: Method) -> Tensor:
    """Draws of a method by ancestral sampling, one for each measurement, (B, C, H, W)."""
    counted, sde = Counted(run.model), run.model.sde
    sampler = build_drawing(run.config, "ancestral", run.model, run.data).sampler
    denoiser = MMPS(counted, given, int(method.value)) if method.name == "mmps" else counted
    if method.name == "dps":
        sampler = DPS(sampler, given, method.value)
    elif method.name == "replace":
        sampler = Replaced(sampler, given)
    times = grid("uniform", sde, method.steps)
    noise = Noise.of(0, 0, len(given.value))
    event = tuple(run.data.test.shape[1:])
    return sample(sampler, Clipped(denoiser), sde, times, noise, event)


def nearest_labels(data: Data, levels: Tensor) -> Tensor:
    """Class of the nearest training image, (B,)."""
    distance = torch.cdist(levels.flatten(1).double(), data.train.flatten(1).double())
    return data.train_labels[distance.argmin(1)]


if __name__ == "__main__":
    main()
