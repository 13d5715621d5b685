"""`python -m benchmarks.embedding`: what a network's label does to its exact likelihood.

Trains the experiment digits with each label and seed (what --work has already is taken from
there), and measures each by dopri5: bits/dim of the test images, the same
dequantization and probes for all, so that differences are pairs of images and of seeds; and on a
few of the images, with one probe, the evaluations at two tolerances and what the solution moves
by at a finer one.
"""

import json
import math
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

import scoreflow as sf
from benchmarks.command_line import OneLineParser, exit_status, whole_number
from benchmarks.measure import folder, keep, load_run, say, table
from scoreflow.runtime.device import build_device
from scoreflow.storage.atomic_files import Json, dumps, write_atomic
from scoreflow.trained_run import TrainedRun
from scoreflow.uncertainty import mean_and_error

LABELS: dict[str, Json] = {
    "index": {"model.label": "time", "model.label_scale": 1.0},
    "scaled": {"model.label": "time", "model.label_scale": 0.1},
    "log_snr": {"model.label": "log_snr", "model.label_scale": 1.0},
}
"""What each sets; the first is DDPM's, from which the others are subtracted."""
TOLERANCES, REFERENCE = (1e-3, 1e-4), 1e-5
PROBES, FEW = 2, 48


@dataclass(frozen=True)
class Found:
    """One training's figures.

    Attributes:
        bits: of each test image, n.
        evaluations: of the network an image of the few, at each of `TOLERANCES`.
        errors: of each of the few, in bits/dim, at each of `TOLERANCES`.
    """

    bits: list[float]
    evaluations: list[float]
    errors: list[list[float]]

    @property
    def mean(self) -> float:
        """Bits/dim of the images."""
        return math.fsum(self.bits) / len(self.bits)


def has_weights(at: Path) -> bool:
    """Whether a folder holds a checkpoint: these trainings write one, at their end."""
    return any(at.glob("checkpoints/*.pt"))


def trained(work: Path, name: str, seed: int, steps: int, device: str) -> TrainedRun:
    """The run of a label and seed, trained to its end."""
    at = work / f"{name}-{seed}"
    keys = {"seed": seed, "training.num_steps": steps, "training.checkpoint_every": steps}
    if not has_weights(at):
        for each in sf.train("digits", at, {**keys, **LABELS[name]}, device):
            if each.step % 100 < 10:
                say(f"{at.name}: step {each.step}, loss {each.loss:.4f}")
    run = load_run(at, build_device(device))
    there = run.config.model.label, run.config.model.label_scale, run.config.seed, run.step
    asked = (*LABELS[name].values(), seed, steps)
    if there != asked:
        raise sf.RequestError(f"--work: {at} is a training of {there}, not of {asked}: remove it")
    return run


def measured(run: TrainedRun, images: int, kept: Path) -> Found:
    """The figures of a run, from a file if that is there, which is written else."""
    if kept.exists():
        return Found(**json.loads(kept.read_text()))

    def solved(images: Tensor, tolerance: float, probes: int) -> sf.LogLikelihoods:
        return run.log_likelihood(
            images,
            method="dopri5",
            tolerance=tolerance,
            tolerance_bits=tolerance,
            probes=probes,
            checked=0,
        )

    test = run.data.test[:images]
    bits = solved(test, TOLERANCES[0], PROBES).bits_per_dim
    exact = solved(test[:FEW], REFERENCE, 1).bits_per_dim
    few = [solved(test[:FEW], each, 1) for each in TOLERANCES]
    found = Found(
        bits.tolist(),
        [float(each.evaluations.double().mean()) for each in few],
        [(each.bits_per_dim - exact).tolist() for each in few],
    )
    write_atomic(kept, dumps(asdict(found), "embedding", ValueError))
    return found


def row(name: str, found: Mapping[int, Found], first: Mapping[int, Found]) -> Json:
    """A label's figures by its seeds, and its difference from the first label's in pairs."""
    bits = torch.tensor([each.bits for each in found.values()], dtype=torch.float64)
    mean, of_images = mean_and_error(bits.mean(0))
    result: Json = {
        "label": name,
        "bits": mean,
        "bits_of_seeds": {seed: each.mean for seed, each in found.items()},
        "error_by_images": of_images,
    }
    if name != next(iter(LABELS)):
        result |= difference(found, first)
    for k, tolerance in enumerate(TOLERANCES):
        errors = torch.tensor([each.errors[k] for each in found.values()])
        result[f"at {tolerance:g}"] = {
            "evaluations": [each.evaluations[k] for each in found.values()],
            "rms_error": float(errors.square().mean().sqrt()),
            "mean_error": float(errors.mean()),
        }
    return result


def difference(found: Mapping[int, Found], first: Mapping[int, Found]) -> Json:
    """Bits/dim minus the first label's, of the seeds that both have.

    Its error joins the choice of images, by the differences of an image averaged over the seeds,
    and the noise of training, by the differences of a seed averaged over the images.
    """
    both = [(found[seed], first[seed]) for seed in found if seed in first]
    pairs = torch.tensor([[a.bits, b.bits] for a, b in both], dtype=torch.float64)
    less = pairs[:, 0] - pairs[:, 1]
    value, of_images = mean_and_error(less.mean(0))
    of_seeds = mean_and_error(less.mean(1))[1]
    error = None if math.isnan(of_seeds) else math.hypot(of_images, of_seeds)
    return {"minus_index": value, "minus_index_error": error, "pairs_of_seeds": len(both)}


def text_of(rows: list[Json]) -> str:
    """The table in Markdown."""
    return table(
        ["label", "bits/dim", "of each seed", "minus index"]
        + [f"{what} at {t:g}" for t in TOLERANCES for what in ("evaluations", "RMS error")],
        [_cells(each) for each in rows],
    )


def _cells(row: Json) -> list[str]:
    error = row.get("minus_index_error")
    less = f"{row['minus_index']:+.4f}" if "minus_index" in row else ""
    cells = [
        f"`{row['label']}`",
        f"{row['bits']:.4f} ± {row['error_by_images']:.4f}",
        ", ".join(f"{each:.4f}" for each in row["bits_of_seeds"].values()),
        less if error is None else f"{less} ± {error:.4f}",
    ]
    for tolerance in TOLERANCES:
        at = row[f"at {tolerance:g}"]
        cells.append(f"{sum(at['evaluations']) / len(at['evaluations']):.0f}")
        cells.append(f"{at['rms_error']:.1e}")
    return cells


def run(argv: list[str]) -> None:
    """Train what is missing, measure, and write OUT/embedding.json and .md."""
    parser = OneLineParser("embedding", __doc__ or "")
    parser.add_argument("--work", type=Path, default=Path("runs/bench-embedding"), help="folder")
    parser.add_argument("--seeds", type=whole_number(1), default=3, help="trainings a label")
    parser.add_argument("--steps", type=whole_number(1), default=2000, help="of a training")
    parser.add_argument("--images", type=whole_number(2), default=360, help="of the test set")
    parser.add_argument("--labels", default=",".join(LABELS), help=f"of {', '.join(LABELS)}")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, default=None, help="folder; default results/DEVICE")
    parser.add_argument("--trained", action="store_true", help="only what is in --work")
    asked = parser.parse_args(argv[1:])
    names = asked.labels.split(",")
    if names[0] != next(iter(LABELS)) or not set(names) <= set(LABELS):
        parser.error(f"--labels must be of {', '.join(LABELS)}, index first, got {asked.labels}")
    found: dict[str, dict[int, Found]] = {name: {} for name in names}
    for seed in range(asked.seeds):
        for name in names:
            if asked.trained and not has_weights(asked.work / f"{name}-{seed}"):
                continue
            model = trained(asked.work, name, seed, asked.steps, asked.device)
            kept = asked.work / f"{name}-{seed}-of-{asked.images}.json"
            found[name][seed] = measured(model, asked.images, kept)
            say(f"{name}, seed {seed}: {found[name][seed].mean:.4f} bits/dim")
    found = {name: each for name, each in found.items() if each}
    if names[0] not in found:
        parser.error(f"--trained: {asked.work} has no training of {names[0]}")
    rows = [row(name, each, found[names[0]]) for name, each in found.items()]
    result = {
        "command": shlex.join(["python", "-m", "benchmarks.embedding", *argv[1:]]),
        "unit": "bits/dim",
        "settings": {"steps": asked.steps, "images": asked.images, "probes": PROBES, "few": FEW},
        "rows": rows,
        "device": asked.device,
    }
    device = build_device(asked.device)
    keep(folder(device, asked.out), "embedding", "Labels of a network", result, text_of(rows))
    say(text_of(rows))


def main(argv: list[str]) -> int:
    """Make the table; returns the exit status, as `scoreflow.cli.main` does."""
    return exit_status("embedding", lambda: run(argv), "stopped; the same command goes on")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
