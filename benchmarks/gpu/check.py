"""Agreement of a device with the CPU: noise, samples, likelihood, training and its switches.

    python -m benchmarks.gpu.check [--device cuda] [--out DIR]

The digits' network, with random weights that are not near 0, in float32 (TensorFloat-32 off), on
both devices from the same addressed noise. Tolerances allow for rounding: bits are equal, normals
agree to the last bits of each device's log, sin and cos, float32 products to about 1e-6, which a
sampler's steps and a network's layers may raise a hundred times. bfloat16 has 8 bits: its loss
agrees to 5 %. Dropout is addressed, and both devices drop the same units.

Switches of a training (compiled ones on a GPU alone) are compared with the device's own float32
training without any switch: losses and gradient norms of some steps, relative, with the tolerances
of tests/scoreflow/training/test_switches.py.
"""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from ml_collections import ConfigDict
from torch import Tensor

from benchmarks import command_line, measure
from scoreflow.certificate.certificate import awake
from scoreflow.configs import digits
from scoreflow.data.levels import dequantize
from scoreflow.factory import assembly
from scoreflow.factory.assembly import Experiment
from scoreflow.factory.likelihood import build_solver
from scoreflow.factory.sampling import build_drawing
from scoreflow.generation.generate import draw_samples
from scoreflow.likelihood.flow_likelihood import log_likelihood, to_bits_per_dim
from scoreflow.models.dropout import mixed
from scoreflow.models.score_model import ScoreModel, arithmetic
from scoreflow.sde.noise import Noise, Stream
from scoreflow.storage.atomic_files import Json
from scoreflow.training.ema import EMA
from scoreflow.training.trainer import Trainer

IMAGES, STEPS = 8, 5
RATE = 1e-4
"""Learning rate: Adam's first steps move each weight by it, even if its gradient is rounding."""
SAMPLERS = ("ancestral", "ddim", "dpm", "unipc", "ode")
EVENT = (1, 8, 8)
Found = dict[str, tuple[Tensor, float]]
"""Name -> computed values, on the CPU, and the largest allowed difference."""
EXACT, ROUGH = 1e-4, 0.02
"""Relative tolerances of a switch: another order of sums, and bfloat16's 8 bits."""
SWITCHES: tuple[tuple[Json, float], ...] = (
    ({"channels_last": True}, EXACT),
    ({"micro_batches": 5}, EXACT),
    ({"recompute": True}, EXACT),
    ({"precision": "bfloat16"}, ROUGH),
)
COMPILED: tuple[tuple[Json, float], ...] = (
    ({"compile": True}, EXACT),
    ({"compile": True, "compile_mode": "reduce-overhead"}, EXACT),
)


def config_of(**switches: object) -> ConfigDict:
    """The digits' config, in small; `switches` are keys of its training."""
    config = digits.get_config()
    config.training.update(batch_size=16, warmup_steps=0, **switches)
    config.sampling.update(steps=20, tolerance=1e-5)
    config.likelihood.update(tolerance=1e-5, tolerance_bits=1e-5)
    return config


def model_of(experiment: Experiment) -> ScoreModel:
    """Its untrained network as a Denoiser, with outputs that are not near 0."""
    network = awake(experiment.network.cpu()).to(experiment.device).eval()
    return experiment.model.with_network(network).in_precision("float32")


def noise(device: torch.device) -> Found:
    """Addressed noise: uniforms, normals, and the words that decide which units drop."""
    drawn = Noise.of(7, 0, IMAGES, device).at(3)
    units = torch.arange(math.prod(EVENT), dtype=torch.int32, device=device).view(1, *EVENT)
    fates = mixed(drawn.words(Stream.TRAIN_DROPOUT, (2,)), units)
    return {
        "addressed uniforms": (drawn.uniform(Stream.TRAIN_EPS, EVENT).cpu(), 0.0),
        "addressed normals": (drawn.normal(Stream.TRAIN_EPS, EVENT).cpu(), 1e-12),
        "addressed dropout": (fates.cpu(), 0.0),
    }


def samples(device: torch.device) -> Found:
    """Images of some samplers, in [-1, 1]."""
    experiment = assembly.experiment(config_of(), device)
    model, sde, found = model_of(experiment), experiment.model.sde, {}
    for name in SAMPLERS:
        drawing = build_drawing(experiment.config, name, model, experiment.data)
        with arithmetic("float32"), torch.no_grad():
            drawn = Noise.of(0, 0, IMAGES, device)
            images = draw_samples(drawing, sde, drawn, EVENT, IMAGES, name)
        found[f"samples, {name}"] = (images.cpu(), 1e-4)
    return found


def likelihood(device: torch.device) -> Found:
    """Bits/dim of test images."""
    experiment = assembly.experiment(config_of(), device)
    model, data, drawn = model_of(experiment), experiment.data, Noise.of(0, 0, IMAGES, device)
    x = dequantize(data.test[:IMAGES], drawn.uniform(Stream.TRAIN_DEQUANTIZE, EVENT), 17)
    solver = build_solver(experiment.config)
    with arithmetic("float32"):
        solved = log_likelihood(model, model.sde, x, model.t_min, drawn, solver)
    bits = to_bits_per_dim(solved.log_prob, x[0].numel(), 17)
    return {"likelihood, bits/dim": (bits.cpu(), 1e-4)}


def trained(device: torch.device, **switches: object) -> tuple[Tensor, Tensor]:
    """Losses and gradient norms of some steps with dropout, and the first step's gradient."""
    config = config_of(**switches)
    config.model.dropout, config.training.learning_rate = 0.2, RATE
    experiment = assembly.experiment(config, device)
    network, settings = experiment.network, experiment.settings
    network.load_state_dict(awake(network.cpu()).state_dict())
    network.to(device)
    trainer = Trainer(
        experiment.model,
        network,
        EMA(network, settings.ema_decay),
        experiment.data,
        experiment.objective,
        settings,
        0,
    )
    first = trainer.advance(1)
    gradient = torch.cat([weight.grad.flatten() for weight in network.parameters()]).cpu()
    return torch.cat([first, trainer.advance(STEPS - 1)]).cpu(), gradient


def training(device: torch.device) -> Found:
    """Losses and gradient of float32 steps, and losses in bfloat16."""
    rows, gradient = trained(device)
    half, _ = trained(device, precision="bfloat16") if device.type == "cuda" else (rows, gradient)
    return {
        "training, first loss and gradient norm": (rows[0], 1e-4),
        f"training, losses of {STEPS} steps": (rows[:, 0], 1e-3),
        "training, clipped gradient": (gradient, 1e-5),
        "training, first loss in bfloat16": (half[:1, 0], 5e-2),
    }


def switched(device: torch.device) -> list[Json]:
    """A row for each switch, against the device's own training without any."""
    plain, _ = trained(device, channels_last=False)
    found: Found = {}
    for switches, tolerance in SWITCHES + COMPILED * (device.type == "cuda"):
        rows, _ = trained(device, **{"channels_last": False, **switches})
        words = ", ".join(f"{key}={value}" for key, value in switches.items())
        found[f"{words}, from {device}'s plain training, relative"] = (rows / plain, tolerance)
    return compared(found, {name: (torch.ones_like(plain), 0.0) for name in found})


CHECKS: tuple[Callable[[torch.device], Found], ...] = (noise, samples, likelihood, training)


def compared(ours: Found, theirs: Found) -> list[Json]:
    """A row for each name: the largest difference, and whether it is allowed."""
    rows = []
    for name, (value, tolerance) in ours.items():
        apart = float((value.double() - theirs[name][0].double()).abs().max())
        shown = apart if math.isfinite(apart) else None
        row = {"name": name, "difference": shown, "tolerance": tolerance}
        rows.append({**row, "passed": apart <= tolerance})
    return rows


def table(rows: list[Json]) -> str:
    """The rows as a Markdown table."""
    cells = []
    for r in rows:
        apart = "not finite" if r["difference"] is None else f"{r['difference']:.2g}"
        cells.append([r["name"], apart, f"{r['tolerance']:g}", "yes" if r["passed"] else "NO"])
    return measure.table(["", "largest difference", "allowed", "agrees"], cells)


def main(argv: list[str] | None = None) -> int:
    """Compare, print the table, and write it; returns 1 if something differs."""
    parser = argparse.ArgumentParser(description="agreement of a device with the CPU")
    parser.add_argument("--device", default="")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args(argv)
    device, cpu = command_line.device_of(parser, args.device), torch.device("cpu")
    rows = [row for check in CHECKS for row in compared(check(device), check(cpu))]
    command = f"python -m benchmarks.gpu.check --device {device}"
    rows += switched(device)
    result = {"unit": "largest difference", "command": command, "settings": {}}
    result |= {"device": str(device), "rows": rows}
    out = measure.folder(device, args.out)
    measure.keep(out, "check", f"Agreement of {device} with a CPU", result, table(rows))
    print(table(rows))
    return 0 if all(row["passed"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
