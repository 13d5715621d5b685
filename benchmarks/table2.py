"""DDPM's Table 2 in small: what is predicted x what is minimised x how the variance is got.

    python -m benchmarks.table2 [--config configs/digits.py] [--steps 1000] [--device cpu]

Ho et al. 2020 compare predicting the posterior mean with predicting the noise, under the
variational bound L and under the unweighted error, with fixed and with learned reverse variances
(IS and FID on CIFAR-10). Here every cell is trained from one seed on the data of a config, on
their linear schedule with N = 1000, and measured by three numbers: the variational bound of the
chain, the exact likelihood of its probability flow, and how well a nearest neighbour tells its
samples from data. A seventh cell is L_hybrid (Nichol & Dhariwal 2021). Data are dequantized, where
DDPM has bin centres, so that bound and exact likelihood are of one density.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from scoreflow import bound, build, request
from scoreflow.data import dequantize
from scoreflow.draw import draw_samples, sample_metrics
from scoreflow.ema import EMA
from scoreflow.errors import RunError
from scoreflow.evaluate import measure
from scoreflow.likelihood import to_bits_per_dim
from scoreflow.main import environment
from scoreflow.model import ScoreModel
from scoreflow.progress import Progress
from scoreflow.rows import Rows
from scoreflow.train import Trainer
from sde.noise import Noise, Stream

STRATA = 63


@dataclass(frozen=True)
class Cell:
    """One row: what the network puts out, what is minimised, and the variance."""

    prediction: str
    objective: str
    learned: bool

    @property
    def title(self) -> str:
        """In the paper's words."""
        loss = {"variational": "L", "hybrid": "L_hybrid", "mean": "|mean error|^2"}
        return loss.get(self.objective, "L_simple")

    def overrides(self) -> dict[str, Any]:
        """Of a config."""
        return {
            "sde.schedule": "linear",
            "sde.num_steps": 1000,
            "model.prediction": self.prediction,
            "model.learned_variance": self.learned,
            "training.objective": self.objective,
            "sampling.variance": "learned" if self.learned else "beta",
        }


CELLS = (
    Cell("mean", "variational", True),
    Cell("mean", "variational", False),
    Cell("mean", "mean", False),
    Cell("eps", "variational", True),
    Cell("eps", "variational", False),
    Cell("eps", "simple", False),
    Cell("eps", "hybrid", True),
)


def measured(cell: Cell, asked: argparse.Namespace) -> dict[str, Any]:
    """Train a cell and measure it."""
    start = time.monotonic()
    device = build.build_device(asked.device)
    flat = request.parse(["table2", "--mode=train", f"--config={asked.config}"]).config
    flat |= cell.overrides()
    flat |= {"training.num_steps": asked.steps, "training.checkpoint_every": asked.steps}
    flat |= {"sampling.steps": 100, "sampling.num_images": asked.images}
    flat |= {"likelihood.num_images": asked.images, "likelihood.max_evaluations": 250}
    flat["training.log_every"] = math.gcd(asked.steps, 50)
    experiment = build.experiment(request.resolve(flat, "table2"), device)
    model = _trained(experiment, cell)
    result = {
        "prediction": cell.prediction,
        "objective": cell.objective,
        "variance": "learned" if cell.learned else "beta",
        **_bound(model, experiment, cell),
        **_exact(model, experiment),
        **_samples(model, experiment),
    }
    return {**result, "seconds": time.monotonic() - start}


def _trained(experiment: build.Experiment, cell: Cell) -> ScoreModel:
    e = experiment
    ema = EMA(e.network, e.settings.ema_decay)
    trainer = Trainer(e.model, e.network, ema, e.data, e.objective, e.settings, e.config.seed)
    with Progress(f"{cell.prediction} {cell.title}", e.settings.num_steps, "step") as progress:
        for interval in trainer.run():
            progress.advance(interval.step - progress.bar.n, loss=f"{interval.loss:.4f}")
    return build.build_model(e.config, ema.module, e.model.sde)


@torch.no_grad()
def _bound(model: ScoreModel, experiment: build.Experiment, cell: Cell) -> dict[str, Any]:
    data, c = experiment.data, experiment.config.likelihood
    test, bits = data.test[: c.num_images or None], []
    for first in range(0, len(test), c.batch_size):
        levels = test[first : first + c.batch_size]
        noise = Noise.of(c.seed, first, first + len(levels), levels.device)
        u = noise.uniform(Stream.DEQUANTIZE, tuple(levels.shape[1:]))
        x_0 = dequantize(levels, u, _levels(experiment))
        variance = "learned" if cell.learned else "beta"
        nats = bound.estimate(model, model.sde, x_0, noise, STRATA, variance)
        bits.append(to_bits_per_dim(-nats, x_0[0].numel(), _levels(experiment)))
    return _summary("bound", torch.cat(bits))


def _summary(name: str, values: Tensor) -> dict[str, Any]:
    """Mean, standard error, and each image's value, so that cells can be compared in pairs."""
    return {
        name: float(values.mean()),
        f"{name}_error": float(values.std()) / len(values) ** 0.5,
        f"{name}_each": [round(value, 4) for value in values.tolist()],
    }


def _levels(experiment: build.Experiment) -> int:
    levels = experiment.data.num_levels
    assert levels is not None, "Table 2 is about images"
    return levels


def _exact(model: ScoreModel, experiment: build.Experiment) -> dict[str, Any]:
    c, solver = experiment.config.likelihood, build.build_solver(experiment.config)
    with TemporaryDirectory() as folder:
        rows = Rows(Path(folder) / "rows.jsonl", {})
        try:
            measure(model, experiment.data, c.num_images, c.batch_size, c.seed, solver, rows=rows)
        except RunError as error:
            return {"exact": None, "exact_error": None, "exact_failed": str(error)}
    each = [rows.done[k]["bits_per_dim"] for k in sorted(rows.done)]
    return _summary("exact", torch.tensor(each, dtype=torch.float64))


def _samples(model: ScoreModel, experiment: build.Experiment) -> dict[str, float]:
    config, data = experiment.config, experiment.data
    drawing = build.build_drawing(config, "ancestral", model, data)
    noise = Noise.of(0, 0, config.sampling.num_images, data.train.device)
    event = tuple(data.train.shape[1:])
    x = draw_samples(drawing, model.sde, noise, event, config.sampling.batch_size, "ancestral")
    if not bool(x.isfinite().all()):
        return {"two_sample": 1.0, "two_sample_error": 0.0}
    found = sample_metrics(x, data)
    return {"two_sample": found["value"], "two_sample_error": found["standard_error"]}


CLAIMS = (
    ("noise prediction under L_simple has the best samples", "two_sample", 5, (0, 1, 2, 3, 4)),
    ("under L, predicting mean or noise gives equal samples", "two_sample", 1, (4,)),
    ("with the mean, a learned variance has worse samples", "two_sample", 1, (0,)),
    ("for noise prediction, L has a better bound than L_simple (Table 1)", "bound", 4, (5,)),
    ("L_hybrid has a better bound than L_simple (Nichol & Dhariwal)", "bound", 6, (5,)),
    ("and L has a better exact likelihood than L_simple", "exact", 4, (5,)),
)
"""What was published, the measure, the better cell, the worse ones; by place in `CELLS`."""


def verdicts(rows: list[dict[str, Any]]) -> list[str]:
    """Which of the published orderings came out, by two standard errors of the difference."""
    said = []
    for claim, key, better, worse in CLAIMS:
        gaps = []
        if any(rows[k][key] is None for k in (better, *worse)):
            said.append(f"{claim}: not to be said, a flow was not solved")
            continue
        for other in worse:
            gaps.append(_difference(rows[other], rows[better], key))
        if "equal" in claim:
            verdict = "reproduced" if all(abs(g) < 2 * e for g, e in gaps) else "not reproduced"
        elif all(g > 2 * e for g, e in gaps):
            verdict = "reproduced"
        elif any(g < -2 * e for g, e in gaps):
            verdict = "contradicted"
        else:
            verdict = "undecided here"
        shown = ", ".join(f"{g:+.3f} +- {e:.3f}" for g, e in gaps)
        said.append(f"{claim}: {verdict} ({shown})")
    return said


def _difference(a: dict[str, Any], b: dict[str, Any], key: str) -> tuple[float, float]:
    """A - b and its standard error; image by image where there are images."""
    if f"{key}_each" not in a:
        return a[key] - b[key], math.hypot(a[f"{key}_error"], b[f"{key}_error"])
    each = torch.tensor(a[f"{key}_each"]) - torch.tensor(b[f"{key}_each"])
    return float(each.mean()), float(each.std()) / len(each) ** 0.5


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown."""
    lines = [
        "| network predicts | minimised | variance | bound, bits/dim | exact, bits/dim "
        "| two-sample accuracy |",
        "|---|---|---|---|---|---|",
    ]
    for cell, row in zip(CELLS, rows, strict=True):
        exact = "not solved"
        if row["exact"] is not None:
            exact = f"{row['exact']:.3f} ± {row['exact_error']:.3f}"
        lines.append(
            f"| {cell.prediction} | {cell.title} | {row['variance']} | "
            f"{row['bound']:.3f} ± {row['bound_error']:.3f} | {exact} | "
            f"{row['two_sample']:.3f} ± {row['two_sample_error']:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure all cells, and write results/FOLDER/table2.json and .md."""
    parser = argparse.ArgumentParser(description="DDPM's Table 2 in small")
    parser.add_argument("--config", default=str(request.ROOT / "configs" / "digits.py"))
    parser.add_argument("--steps", type=int, default=1000, help="of training, each cell")
    parser.add_argument("--images", type=int, default=360, help="measured and drawn, each cell")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=request.ROOT / "results" / "cpu")
    asked = parser.parse_args()
    command = ["python", "-m", "benchmarks.table2", "--steps", str(asked.steps)]
    origin = environment(command, asked.device)
    rows = [measured(cell, asked) for cell in CELLS]
    text = table(rows) + "\n\n" + "\n".join(f"* {line}" for line in verdicts(rows)) + "\n"
    asked.out.mkdir(parents=True, exist_ok=True)
    record = {"rows": rows, "verdicts": verdicts(rows), **origin}
    (asked.out / "table2.json").write_text(json.dumps(record, indent=1) + "\n")
    (asked.out / "table2.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
