"""DDPM's Table 2 in small: what is predicted x what is minimised x how the variance is got.

    python -m benchmarks.table2 [--steps 700] [--images 360] [--device cpu] [--out DIR]
                                [--config configs/mnist.py] [--config.SECTION.KEY=VALUE]

Ho et al. 2020 compare predicting the posterior mean with predicting the noise, under the
variational bound L and under the unweighted error, with fixed and with learned reverse variances
(IS and FID on CIFAR-10). Here every cell is trained from one seed on the data of a config, on
their linear schedule with N = 1000, and measured by three numbers: the variational bound of the
chain, the exact likelihood of its probability flow, and how well a nearest neighbour tells its
samples from data. A seventh cell is L_hybrid (Nichol & Dhariwal 2021). Data are dequantized, where
DDPM has bin centres, so that bound and exact likelihood are of one density.

Cells are kept in OUT/table2.rows.jsonl as they come, so that the same command goes on after a
kill; a table that is whole becomes OUT/table2.json and .md. A cell that cannot be trained, drawn
or solved says so in its place, and stands in no verdict.
"""

import argparse
import math
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import torch
from ml_collections import ConfigDict
from torch import Tensor

from scoreflow import factory
from scoreflow.cli import command_line
from scoreflow.cli.main import environment
from scoreflow.data.levels import dequantize
from scoreflow.errors import RequestError, RunError
from scoreflow.evaluation.sample_summary import sample_metrics
from scoreflow.generation.generate import draw_samples
from scoreflow.likelihood.dataset_likelihood import measure
from scoreflow.likelihood.flow_likelihood import to_bits_per_dim
from scoreflow.losses import variational
from scoreflow.models.score_model import ScoreModel
from scoreflow.runtime.progress_bar import Progress
from scoreflow.schema import request, resolve
from scoreflow.sde.noise import Noise, Stream
from scoreflow.storage.atomic_files import Json, dumps, write_atomic
from scoreflow.storage.result_rows import Rows
from scoreflow.training.ema import EMA
from scoreflow.training.trainer import Trainer
from scoreflow.uncertainty import rate_error

STRATA = 63
TRIED_FIRST = 32
"""Images whose flow is solved before the others', so that a hopeless cell is soon known."""

DEFAULTS: Json = {"sampling.steps": 100, "likelihood.max_evaluations": 400}
"""Settings of the table that a command line may change, as any other key of a config."""


@dataclass(frozen=True)
class Cell:
    """One row: what the network puts out, what is minimised, and the variance."""

    prediction: str
    objective: str
    learned: bool

    @property
    def title(self) -> str:
        """In the paper's words."""
        loss = {"variational": "L", "hybrid": "L_hybrid", "mean": "‖mean error‖²"}
        return loss.get(self.objective, "L_simple")

    @property
    def variance(self) -> str:
        """Of a reverse step, as samplers name it."""
        return "learned" if self.learned else "beta"

    def overrides(self) -> Json:
        """Of a config."""
        return {
            "sde.name": "vp",
            "sde.schedule": "linear",
            "sde.num_steps": 1000,
            "model.prediction": self.prediction,
            "model.learned_variance": self.learned,
            "training.objective": self.objective,
            "training.variance": "beta",
            "training.times": "integer",
            "training.t_min": 1.0,
            "training.dequantization": "uniform",
            "likelihood.dequantization": "uniform",
            "likelihood.samples": 1,
            "likelihood.t_start": 0.0,
            "sampling.variance": self.variance,
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


@dataclass(frozen=True)
class Asked:
    """A command line.

    Attributes:
        steps: of training, each cell.
        images: measured and drawn, each cell.
        device: where.
        out: the folder of the results.
        experiment: the name of the config.
        config: of all cells, but for what a cell sets.
        overrides: of that config, as given.
        command: what to type to get this again.
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
        config = {k: v for k, v in self.config.items() if k not in CELLS[0].overrides()}
        return {"config": config, "strata": STRATA, "device": str(self.device)}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise RequestError(message)


def _at_least(low: int) -> Any:  # noqa: ANN401
    def count(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) < 2**31:
            raise argparse.ArgumentTypeError(f"a whole number from {low} up, got {text!r}")
        return int(text)

    return count


def parse(argv: list[str]) -> Asked:
    """The table that a command line asks for, or a RequestError."""
    parser = _Parser("table2", description="DDPM's Table 2 in small", allow_abbrev=False)
    parser.add_argument("--steps", type=_at_least(1), default=700, help="of training, each cell")
    parser.add_argument("--images", type=_at_least(2), default=360, help="measured and drawn")
    parser.add_argument("--out", type=Path, help="default: results/ and the kind of device")
    parser.epilog = "and, as of run.py, --device, --config and --config.SECTION.KEY=VALUE"
    own, others = parser.parse_known_args(argv[1:])
    asked = command_line.parse([argv[0], "--mode=train", *others])
    if asked.mode != "train" or asked.workdir is not None:
        raise RequestError("a table has no --mode and no --workdir; its results go to --out")
    table = {
        "training.num_steps": own.steps,
        "training.checkpoint_every": own.steps,
        "training.log_every": math.gcd(own.steps, 50),
        "sampling.num_images": own.images,
        "likelihood.num_images": own.images,
    }
    if fixed := sorted(asked.overrides.keys() & (table | CELLS[0].overrides()).keys()):
        raise RequestError(
            f"{', '.join(fixed)} cannot be given: the table sets it, some by --steps and --images"
        )
    if asked.config["model.name"] != "unet":
        raise RequestError(
            "Table 2 is about images and needs a config with model.name = unet, got "
            f"{asked.config['model.name']} in {asked.experiment}"
        )
    device = factory.build_device(asked.device)
    out = own.out or request.ROOT / "results" / device.type
    config = {**asked.config, **DEFAULTS, **asked.overrides, **table}
    command = ["python", "-m", "benchmarks.table2", *argv[1:]]
    return Asked(
        own.steps, own.images, device, out, asked.experiment, config, asked.overrides, command
    )


def measured(cell: Cell, asked: Asked) -> Json:
    """Train a cell and measure it. A number that there is none of is None."""
    start = time.monotonic()
    experiment = factory.experiment(asked.cell_config(cell), asked.device)
    row: Json = {
        "prediction": cell.prediction,
        "objective": cell.objective,
        "variance": cell.variance,
        "max_evaluations": experiment.config.likelihood.max_evaluations,
    }
    try:
        model = _trained(experiment, cell)
    except RunError as error:  # a loss that is not finite
        row |= {"failed": str(error), **_nothing("bound"), **_nothing("exact")}
        row |= {"two_sample": None, "two_sample_error": None}
    else:
        row |= _bound(model, experiment, cell)
        row |= _exact(model, experiment)
        row |= _samples(model, experiment)
    return {**row, "seconds": time.monotonic() - start}


def _trained(experiment: factory.Experiment, cell: Cell) -> ScoreModel:
    e = experiment
    ema = EMA(e.network, e.settings.ema_decay)
    trainer = Trainer(e.model, e.network, ema, e.data, e.objective, e.settings, e.config.seed)
    with Progress(f"{cell.prediction} {cell.title}", e.settings.num_steps, "step") as progress:
        for interval in trainer.run():
            progress.advance(interval.step - progress.bar.n, loss=f"{interval.loss:.4f}")
    trainer.state()  # refuses weights that the last step made infinite
    return factory.build_model(e.config, ema.module, e.model.sde)


@torch.no_grad()
def _bound(model: ScoreModel, experiment: factory.Experiment, cell: Cell) -> Json:
    data, c = experiment.data, experiment.config.likelihood
    test, bits = data.test[: c.num_images], []
    for first in range(0, len(test), c.batch_size):
        levels = test[first : first + c.batch_size]
        noise = Noise.of(c.seed, first, first + len(levels), levels.device)
        u = noise.uniform(Stream.DEQUANTIZE, tuple(levels.shape[1:]))
        x_0 = dequantize(levels, u, _levels(experiment))
        nats = variational.estimate(model, model.sde, x_0, noise, STRATA, cell.variance)
        bits.append(to_bits_per_dim(-nats, x_0[0].numel(), _levels(experiment)))
    return _summary("bound", torch.cat(bits))


def _levels(experiment: factory.Experiment) -> int:
    levels = experiment.data.num_levels
    assert levels is not None, "parse() has refused vectors"
    return levels


def _summary(name: str, values: Tensor) -> Json:
    """Mean, standard error, and each image's value, so that cells can be compared in pairs."""
    if not bool(values.isfinite().all()):
        return _nothing(name)
    return {
        name: float(values.mean()),
        f"{name}_error": float(values.std()) / len(values) ** 0.5,
        f"{name}_each": [round(value, 4) for value in values.tolist()],
    }


def _nothing(name: str) -> Json:
    return {name: None, f"{name}_error": None, f"{name}_each": None}


def _exact(model: ScoreModel, experiment: factory.Experiment) -> Json:
    """Exact likelihood, of a few images first: those that are there are not solved again."""
    with TemporaryDirectory() as folder:
        rows = Rows(Path(folder) / "rows.jsonl", {})
        try:
            for count in (TRIED_FIRST, experiment.config.likelihood.num_images):
                _solve(model, experiment, count, rows)
        except RunError as error:
            return {**_nothing("exact"), "exact_failed": str(error)}
    found = [rows.done[k] for k in sorted(rows.done)]
    bits = torch.tensor([row["bits_per_dim"] for row in found], dtype=torch.float64)
    evaluations = sum(row["evaluations"] for row in found) / len(found)
    return {**_summary("exact", bits), "exact_evaluations": evaluations}


def _solve(model: ScoreModel, experiment: factory.Experiment, count: int, rows: Rows) -> None:
    """Add to rows what they lack of the first `count` test images; a RunError if one is unsolved.

    The only place that knows how `evaluate` is called, and it fills in the rows.
    """
    config, data = experiment.config, experiment.data
    question = replace(factory.build_question(config, model, data), checked=0)
    measure(model, data, min(count, config.likelihood.num_images), question, rows=rows)


def _samples(model: ScoreModel, experiment: factory.Experiment) -> Json:
    c, data = experiment.config.sampling, experiment.data
    drawing = factory.build_drawing(experiment.config, "ancestral", model, data)
    noise = Noise.of(c.seed, 0, c.num_images, data.train.device)
    event = tuple(data.train.shape[1:])
    x = draw_samples(drawing, model.sde, noise, event, c.batch_size, "ancestral")
    if not bool(x.isfinite().all()):
        return {"two_sample": None, "two_sample_error": None}
    found = sample_metrics(x, data)["two_sample"]
    rate, n = found["accuracy"], 2 * found["num_each"]
    return {"two_sample": rate, "two_sample_error": rate_error(rate, n)}


CLAIMS = (
    ("noise prediction under L_simple has the best samples", "two_sample", 5, (0, 1, 2, 3, 4)),
    ("under L, predicting mean or noise gives equal samples", "two_sample", 1, (4,)),
    ("with the mean, a learned variance has worse samples", "two_sample", 1, (0,)),
    ("for noise prediction, L has a better bound than L_simple (Table 1)", "bound", 4, (5,)),
    ("L_hybrid has a better bound than L_simple (Nichol & Dhariwal)", "bound", 6, (5,)),
    ("and L has a better exact likelihood than L_simple", "exact", 4, (5,)),
)
"""What was published, the measure, the better cell, the worse ones; by place in `CELLS`."""


def verdicts(rows: list[Json]) -> list[str]:
    """Which of the published orderings came out, by two standard errors of the difference.

    A cell without the number is left out of its comparisons, and named.
    """
    said = []
    for claim, key, better, worse in CLAIMS:
        lost = [k for k in (better, *worse) if rows[k][key] is None]
        why = "; ".join(f"{_name(k)}: {_why_none(rows[k], key)}" for k in lost)
        others = [k for k in worse if k not in lost]
        if better in lost or not others:
            said.append(f"{claim}: not to be said ({why})")
            continue
        gaps = [_difference(rows[k], rows[better], key) for k in others]
        shown = ", ".join(f"{g:+.3f} ± {e:.3f}" for g, e in gaps)
        left_out = f"; left out, {why}" if lost else ""
        said.append(f"{claim}: {_verdict(gaps, 'equal' in claim)} ({shown}{left_out})")
    return said


def _verdict(gaps: list[tuple[float, float]], equal: bool) -> str:
    if equal:
        return "reproduced" if all(abs(g) < 2 * e for g, e in gaps) else "not reproduced"
    if all(g > 2 * e for g, e in gaps):
        return "reproduced"
    return "contradicted" if any(g < -2 * e for g, e in gaps) else "undecided here"


def _difference(a: Json, b: Json, key: str) -> tuple[float, float]:
    """A - b and its standard error; image by image where there are images."""
    if f"{key}_each" not in a:
        return a[key] - b[key], math.hypot(a[f"{key}_error"], b[f"{key}_error"])
    each = torch.tensor(a[f"{key}_each"]) - torch.tensor(b[f"{key}_each"])
    return float(each.mean()), float(each.std()) / len(each) ** 0.5


def _name(k: int) -> str:
    return f"{CELLS[k].prediction} {CELLS[k].title} {CELLS[k].variance}"


def _why_none(row: Json, key: str) -> str:
    if key == "exact" and "exact_failed" in row:
        return f"not solved within {row['max_evaluations']} evaluations"
    return "diverged"


def table(rows: list[Json]) -> str:
    """As Markdown."""
    lines = [
        "| network predicts | minimised | variance | bound, bits/dim | exact, bits/dim "
        "| two-sample accuracy |",
        "|---|---|---|---|---|---|",
    ]
    for cell, row in zip(CELLS, rows, strict=True):
        numbers = " | ".join(_number(row, key) for key in ("bound", "exact", "two_sample"))
        lines.append(f"| {cell.prediction} | {cell.title} | {cell.variance} | {numbers} |")
    return "\n".join(lines)


def _number(row: Json, key: str) -> str:
    if row[key] is None:
        return _why_none(row, key)
    return f"{row[key]:.3f} ± {row[f'{key}_error']:.3f}"


def caption(asked: Asked, rows: list[Json]) -> str:
    """What the numbers are of, in a line."""
    counts = [len(row["bound_each"]) for row in rows if row["bound"] is not None]
    others = "".join(f", {key} = {value}" for key, value in sorted(asked.overrides.items()))
    commits = sorted({str(row["commit"]) for row in rows})
    return (
        f"DDPM's Table 2 in small: config {asked.experiment}{others}; {asked.steps} training "
        f"steps a cell; {max(counts, default=0)} test images, the bound from {STRATA} strata of "
        f"its terms, at most {asked.config['likelihood.max_evaluations']} evaluations an exact "
        f"likelihood; {asked.images} samples of {asked.config['sampling.steps']} steps, "
        "two-sample accuracy 0.5 is best; ± one standard error. "
        f"On {asked.device}, commit {', '.join(commits)}, {_minutes(rows):.1f} minutes in all."
    )


def _minutes(rows: list[Json]) -> float:
    return sum(row["seconds"] for row in rows) / 60


def run(asked: Asked) -> None:
    """Measure the cells that are not there yet, and write OUT/table2.json and .md."""
    origin = environment(asked.command, str(asked.device))
    for cell in CELLS:
        asked.cell_config(cell)
    try:
        asked.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--out {asked.out} cannot be made ({error.strerror})") from error
    kept = Rows(asked.out / "table2.rows.jsonl", asked.settings(), key="cell")
    for k, cell in enumerate(CELLS):
        if k in kept.done:
            print(f"{_name(k)}: there already", file=sys.stderr)
        else:
            kept.append([{"cell": k, "commit": origin["commit"], **measured(cell, asked)}])
    rows = [kept.done[k] for k in range(len(CELLS))]
    said = verdicts(rows)
    parts = caption(asked, rows), table(rows), "\n".join(f"* {line}" for line in said)
    text = "\n\n".join(parts) + "\n"
    record = {"rows": rows, "verdicts": said, "settings": asked.settings(), **origin}
    record |= {"minutes": _minutes(rows)}
    write_atomic(asked.out / "table2.json", dumps(record, "table2.json", RunError, indent=1))
    write_atomic(asked.out / "table2.md", text.encode())
    kept.path.unlink()  # the next table is a new one
    print(text)


def main(argv: list[str]) -> int:
    """Make the table; returns the exit status, as `scoreflow.main` does."""
    try:
        run(parse(argv))
    except RequestError as error:
        return _fail(error, 2)
    except RunError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on after the cells that are done", file=sys.stderr)
        return 130
    return 0


def _fail(error: Exception, status: int) -> int:
    print(f"table2: {' '.join(str(error).split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv))
