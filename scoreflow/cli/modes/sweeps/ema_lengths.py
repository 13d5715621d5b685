"""--mode compare with compare.ema_lengths: which average of the weights is best, and at what.

ema-lengths.json             a row an average: likelihood, metrics of samples, differences
ema-lengths.jsonl            the metrics of samples, a row an average
likelihood.jsonl             the likelihood of each image under an average; of another one
likelihood-HASH.jsonl        under the hash of what it depends on, as --mode likelihood keeps it,
likelihood-against-raw.jsonl and of the raw weights as likelihood.against=raw keeps it

All rows are kept as they come, so a sweep that was stopped goes on, and one with more lengths
measures the new ones alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ml_collections import ConfigDict

from scoreflow.cli.console import recorded, say
from scoreflow.comparison.rows_of_likelihood import Weights, kept_likelihood
from scoreflow.data.dataset import Data
from scoreflow.evaluation import comparison
from scoreflow.evaluation.cached_cases import CachedCases
from scoreflow.evaluation.comparison import Case
from scoreflow.evaluation.sample_quality import SampleQuality
from scoreflow.evaluation.sweeps.ema_lengths import (
    RAW,
    Scored,
    check_row,
    metric_of,
    summarised,
    table,
)
from scoreflow.likelihood.dataset_likelihood import Measured
from scoreflow.runtime import distributed
from scoreflow.schema.request import flatten
from scoreflow.schema.resolve import resolve
from scoreflow.storage.atomic_files import Json
from scoreflow.storage.result_rows import Rows
from scoreflow.trained_run import TrainedRun
from scoreflow.training.posthoc_ema.snapshots import Snapshots

NAME = "ema-lengths"
"""Of the result."""


@dataclass(frozen=True)
class Sweep:
    """What the rows of a sweep have in common.

    Attributes:
        trained: the run.
        data: what samples are to be like.
        judge: the metrics.
        heading: all that a row of samples depends on but its weights, sampler and budget.
        sampler: its name.
        budget: evaluations an image.
        drawing: a config in which the sampler takes them.
        count: samples of each average.
    """

    trained: TrainedRun
    data: Data
    judge: SampleQuality
    heading: Json
    sampler: str
    budget: int
    drawing: ConfigDict
    count: int

    @property
    def measuring(self) -> ConfigDict:
        """A config whose likelihood is of compare.ema_images images, solved once."""
        config = self.trained.config
        asked = {
            "likelihood.num_images": config.compare.ema_images,
            "likelihood.checked": 0,
            "likelihood.step": 0,
            "likelihood.ema_length": 0.0,
        }
        return resolve({**flatten(config.to_dict()), **asked}, "the sweep")


def asked(config: ConfigDict) -> bool:
    """Whether a config wants averages compared, and not samplers."""
    return any(config.compare.ema_lengths)


def lengths_of(trained: TrainedRun) -> list[float]:
    """The lengths of a sweep, rising; one out of reach is refused before any work.

    Raises:
        RequestError: the run keeps no averages, or a length cannot be reconstructed.
    """
    snapshots = Snapshots(trained.folder, trained.step)
    wanted = trained.config.compare.ema_lengths
    found = sorted({length or snapshots.lengths[0] for length in wanted})
    for length in found:
        snapshots.plan(length)
    return found


def sweep(asked: Sweep, lengths: list[float]) -> None:
    """Measure what is not there yet; the result into results/ema-lengths.json."""
    trained, shard = asked.trained, distributed.shard()
    about = {
        **{key: value for key, value in asked.heading.items() if key != "weights"},
        "sampler": asked.sampler,
        "budget": asked.budget,
        "num_images": asked.count,
    }
    agree = shard.broadcast_from_rank_0
    with trained.folder.rows(NAME, about, shard.rank, "case", check_row, agree) as rows:
        found, unit = [], ""
        for name, run in _averages(trained, lengths):
            nll = _likelihood(asked, run, name)
            samples, unit = _samples(asked, run, name, rows), nll.result["unit"]
            ema = run.averaged_as.get("ema", {})
            length, error = ema.get("length"), ema.get("relative_error")
            values = nll.values.mean(1)
            found.append(Scored(name, length, error, run.fingerprint, values, samples))
        if distributed.is_main_process():
            _keep(asked, found, unit, about, rows.path.stem)


def _averages(trained: TrainedRun, lengths: list[float]) -> Iterator[tuple[str, TrainedRun]]:
    """The run with each average, and with the raw weights where its checkpoint is there."""
    for length in lengths:
        yield f"{length:g}", trained.with_average(length)
    if trained.step in trained.folder.checkpoint_steps():
        yield RAW, trained.with_raw_weights()


def _likelihood(asked: Sweep, run: TrainedRun, name: str) -> Measured:
    """The likelihood of the first images under some weights, where --mode likelihood has it."""
    experiment = replace(run.experiment, config=asked.measuring)
    weights = Weights(name, experiment, run.model, run.step, run.fingerprint, run.trained_with)
    file = "likelihood-against-raw" if name == RAW else "likelihood"
    return kept_likelihood(run.folder, weights, asked.trained.data, file)


def _samples(asked: Sweep, run: TrainedRun, name: str, rows: Rows) -> Json:
    """The metrics of samples of some weights: their row."""
    path = run.folder.sample_path(run.step, f"{rows.path.stem}-{name}")
    cases, c = CachedCases(rows, {name: name}, {name: path}), run.config
    there, missing = rows.done.get(name, {}), cases.missing()  # which all processes ask
    of_these = not missing and there.get("weights") == run.fingerprint
    if distributed.shard().broadcast_from_rank_0(of_these):
        return there
    case = Case(asked.sampler, asked.budget, run.plan(asked.sampler, asked.drawing))
    row, png, x = comparison.measured(
        case, run.model.sde, asked.data, c.compare.seed, asked.count, c.sampling.batch_size
    )
    if distributed.is_main_process():
        row |= {"weights": run.fingerprint, **asked.judge.of_samples(x)}
        row["network"] = run.asked_in("eval", adaptive=asked.sampler == "ode")
        cases.keep(name, row, png)
    return rows.done.get(name, {})


def _keep(asked: Sweep, found: list[Scored], unit: str, about: Json, pictures: str) -> None:
    """The result into results/ema-lengths.json, and onto the terminal."""
    trained, config = asked.trained, asked.measuring
    rows, metric = summarised(found), metric_of(found[0].samples)
    settings = recorded(config.compare, trained.experiment.device) | {
        "sampler": asked.sampler,
        "budget": asked.budget,
        "likelihood": config.likelihood.to_dict(),
        "judged_by": about["judged_by"],
    }
    best = {key: _best(rows, f"{key}_verdict") for key in ("nll", "sample")}
    result: Json = {
        "value": next(row["nll"] for row in rows if row["name"] == best["nll"]),
        "unit": unit,
        "rows": rows,
        "best": best,
        "metric": metric.key,
        "num_images": len(found[0].nll),
        "num_samples": asked.count,
        "step": trained.step,
        "settings": settings,
        "weights": trained.fingerprint,
        "pictures": pictures,
        **trained.measured_on,
    }
    question = {**about, "weights": [each.weights for each in found]}
    question["likelihood"] = config.likelihood.to_dict()
    written = trained.folder.keep_result(NAME, result, question, _rank)
    say(table(rows, unit))
    say(
        f"best by likelihood of {result['num_images']} test data: {best['nll']}; by "
        f"{metric.title} of {asked.count} samples, {asked.sampler} at {asked.budget} "
        f"evaluations: {best['sample']}"
    )
    if written.remark:
        say(written.remark)


def _best(rows: list[Json], key: str) -> str:
    return next(str(row["name"]) for row in rows if row[key] == "best")


def _rank(result: Json) -> dict[str, float]:
    """What makes a sweep the headline: newest weights, most images; of equals the newest."""
    return {
        "of newer weights": result["step"],
        "of more data": result["num_images"],
        "of more samples": result["num_samples"],
    }
