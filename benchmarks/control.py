"""How replacing, DPS and MMPS compare on a trained run of digits: fit, plausibility, calibration.

python -m benchmarks.control --workdir runs/digits-vp [--images 40] [--draws 4]

    misfit       root mean square of y - A x, beside the noise of y
    class kept   share of draws whose nearest training image has the class of the image measured
    error        root mean square of draw minus image, over what is not known (all, if blocks)
    calibration  error / (sqrt(2) spread): 1 where image and draws are of one law, more where the
                 draws differ too little among themselves
"""

import argparse
import time

import torch
from torch import Tensor

from scoreflow import factory
from scoreflow.data.levels import dequantize, quantize
from scoreflow.factory import Experiment
from scoreflow.models.score_model import ScoreModel
from scoreflow.samplers import (
    DPS,
    MMPS,
    BlockMean,
    Clipped,
    Counted,
    Masked,
    Measurement,
    Replaced,
    sample,
    uniform_times,
)
from scoreflow.samplers.editing.linear_operators import middle_square
from scoreflow.schema import request, resolve
from scoreflow.sde.noise import Noise
from scoreflow.storage.run_folder import RunDir
from scoreflow.trained_run import trained_of

METHODS = (
    ("replace", 0.0, 64),
    ("dps", 0.3, 64),
    ("dps", 1.0, 64),
    ("dps", 3.0, 64),
    ("dps", 1.0, 256),
    ("mmps", 1, 64),
    ("mmps", 3, 64),
    ("mmps", 5, 64),
    ("mmps", 10, 64),
)
"""Method; weight or iterations; steps of ancestral sampling."""


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--draws", type=int, default=4)
    asked = parser.parse_args()
    run = RunDir.open(asked.workdir)
    config = resolve.resolve(resolve.completed(request.flatten(run.config)), asked.workdir)
    experiment = factory.experiment(config, torch.device("cpu"), training=False)
    model, _ = trained_of(experiment, run, print)
    shape = tuple(experiment.data.test.shape[1:])
    print(
        "| task | method | steps | misfit / noise | class kept | error | calibration | seconds |"
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for task, operator in (
        ("inpaint", Masked(middle_square(shape))),
        ("superresolve", BlockMean(2)),
    ):
        for case in METHODS:
            found = measured(experiment, model, operator, case, asked.images, asked.draws)
            print(f"| {task} | {case[0]} {case[1]:g} | {case[2]} | {found} |", flush=True)


def measured(
    experiment: Experiment,
    model: ScoreModel,
    operator: Masked | BlockMean,
    case: tuple[str, float, int],
    images: int,
    draws: int,
) -> str:
    """The cells of a row."""
    (method, value, steps), data = case, experiment.data
    levels, begun = data.test[:images], time.monotonic()
    half = torch.tensor(0.5, dtype=torch.float64)
    x_0 = dequantize(levels, half, data.num_levels).repeat(draws, 1, 1, 1)
    noise = 2 / data.num_levels / 12**0.5 * operator.gain**0.5
    given = Measurement(operator, operator.apply(x_0), noise)
    counted = Counted(model)
    sampler = factory.build_drawing(experiment.config, "ancestral", model, data).sampler
    denoiser = MMPS(counted, given, int(value)) if method == "mmps" else counted
    if method == "dps":
        sampler = DPS(sampler, given, value)
    elif method == "replace":
        sampler = Replaced(sampler, given)
    times = uniform_times(model.sde.num_steps, steps, integer=True)
    addresses = Noise.of(0, 0, images * draws)
    x = sample(sampler, Clipped(denoiser), model.sde, times, addresses, tuple(levels.shape[1:]))
    made_up = ~operator.known if isinstance(operator, Masked) else torch.ones_like(levels[0] > 0)
    error = (x - x_0)[:, made_up].square().mean().sqrt()
    spread = x.unflatten(0, (draws, images)).var(0)[:, made_up].mean().sqrt()
    kept = _classes(experiment, quantize(x, data.num_levels)) == _truth(experiment, images, draws)
    return (
        f"{given.misfit(x).mean() / noise:.2f} | {kept.double().mean():.3f} | {error:.3f} | "
        f"{error / (2**0.5 * spread):.2f} | {time.monotonic() - begun:.0f}"
    )


def _classes(experiment: Experiment, levels: Tensor) -> Tensor:
    train, labels = experiment.data.train, experiment.data.train_labels
    return labels[torch.cdist(levels.flatten(1).double(), train.flatten(1).double()).argmin(1)]


def _truth(experiment: Experiment, images: int, draws: int) -> Tensor:
    return experiment.data.test_labels[:images].repeat(draws)


if __name__ == "__main__":
    main()
