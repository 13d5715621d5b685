"""What --mode compare does: every sampler at every budget, kept row by row."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from ml_collections import ConfigDict
from torch import Tensor

from scoreflow import factory
from scoreflow.cli import command_line
from scoreflow.data import toy
from scoreflow.data.dataset import Data
from scoreflow.drawings import drawing_of
from scoreflow.errors import RequestError
from scoreflow.evaluation import (
    columns,
    comparison,
    convergence_order,
    fid,
    guidance_sweep,
    nearest_neighbours,
)
from scoreflow.evaluation.comparison import Case
from scoreflow.evaluation.features import clean_features
from scoreflow.evaluation.sample_quality import Judge
from scoreflow.factory import Experiment
from scoreflow.models.score_model import ScoreModel
from scoreflow.report import comparison_section
from scoreflow.runtime import distributed
from scoreflow.storage.atomic_files import Json, write_atomic
from scoreflow.storage.fingerprint import fingerprint
from scoreflow.storage.result_rows import Rows
from scoreflow.storage.run_folder import RunDir
from scoreflow.trained_run import load_classifier
from scoreflow.training.classifier_trainer import FILE

Say = Callable[[str], None]
REFERENCE = (1e-3, 56.0)
"""A tolerance of the adaptive flow and the evaluations that it took on the digits; they grow with
the fifth root."""
LEAST = 8


def run(experiment: Experiment, folder: RunDir, model: ScoreModel, step: int, say: Say) -> str:
    """Measure what is not there yet; returns the section of the report.

    Several processes share the images of each case; the first of them judges and writes, and the
    others return "".
    """
    c, data = experiment.config.compare, _asked_for(experiment)
    count = min(c.num_images, len(data.test), len(data.train))
    if count < LEAST:
        raise RequestError(f"compare needs {LEAST} images of test and training data, got {count}")
    wanted = _wanted(experiment.config, model)
    judge, judged_by = judge_of(experiment, data, folder, model, say)
    heading = {
        "seed": c.seed,
        "num_images": count,
        "step": step,
        "device": experiment.device.type,
        "weights": fingerprint(model),
        "sampling": {
            key: value
            for key, value in experiment.config.sampling.items()
            if f"sampling.{key}" not in command_line.IDLE["compare"]
        },
        "judged_by": judged_by,
    }
    rows = folder.rows("compare", heading, key="case")
    if rows.stale:
        say(
            f"{rows.stale} kept rows are of other settings, weights or classifier: they are made "
            "again, and the old ones go"
        )
    paths = {
        (name, budget): folder.sample_path(step, f"compare-{name}-{budget}")
        for name, budget in wanted
    }
    sweeps = _sweeps(experiment, folder, model, judge)
    missing = [
        each for each in wanted if _case(*each) not in rows.done or not paths[each].exists()
    ]
    for name, budget in distributed.shard().of_the_first(missing):
        config = _with_budget(experiment.config, name, budget)
        made = Case(name, budget, drawing_of(experiment, config, name, folder, model))
        batch = experiment.config.sampling.batch_size
        row, png, x = comparison.measured(made, model.sde, data, c.seed, count, batch)
        if distributed.leads():
            folder.write_image(paths[name, budget], png)
            rows.append([{"case": _case(name, budget), **row, **judge.of_samples(x)}])
    swept = _swept(experiment, folder, model, step, judge, rows, count) if sweeps else []
    if not distributed.leads():
        return ""
    found = [rows.done[_case(*each)] for each in wanted]
    test_data = _kept(rows, "held-out data", lambda: judge.of_test_data(count))
    floors = _kept(rows, "floors", lambda: judge.floors(count))
    of_orders = _orders(experiment, folder, model, rows) if data.name == "toy" else []
    settings = {**c.to_dict(), "device": str(experiment.device), "judged_by": judged_by}
    result = {"unit": "a row a sampler and budget", "step": step, "settings": settings}
    result |= {"rows": found, "test_data": test_data, "floors": floors, "orders": of_orders}
    result["guidance"] = [row for row, _ in swept]
    folder.write_result("compare", result)
    real = columns.beside(test_data, floors)
    say(columns.table([*found, *real]))
    if of_orders:
        say(convergence_order.table(of_orders))
    if swept:
        say(guidance_sweep.table(result["guidance"]))
    pictures = {each: path.read_bytes() for each, path in paths.items()}
    page = comparison_section.section(found, real, pictures, c.seed, of_orders)
    if swept:
        page += guidance_sweep.section(result["guidance"], [png for _, png in swept], _middle(c))
    write_atomic(folder.path / "results" / "compare.html", page.encode())
    return page


def _case(name: str, budget: int) -> str:
    return f"{name}-{budget}"


def _asked_for(experiment: Experiment) -> Data:
    """The data that samples are to be like: those of sampling.label, or all."""
    data, label = experiment.data, experiment.config.sampling.label
    if label < 0 or data.train_labels is None or data.test_labels is None:
        return data
    train, test = ((each == label).to(data.train.device) for each in (
        data.train_labels, data.test_labels
    ))  # fmt: skip
    return replace(
        data,
        train=data.train[train],
        test=data.test[test],
        train_labels=data.train_labels[train.to(data.train_labels.device)],
        test_labels=data.test_labels[test.to(data.test_labels.device)],
    )


def _kept(rows: Rows, case: str, make: Callable[[], Json]) -> Json:
    """What was found under this heading, or is now."""
    if case not in rows.done:
        rows.append([{"case": case, **make()}])
    return {key: value for key, value in rows.done[case].items() if key != "case"}


def judge_of(
    experiment: Experiment, data: Data, folder: RunDir, model: ScoreModel, say: Say
) -> tuple[Judge, Json]:
    """What samples are held against, and what of it a row depends on."""
    asked = experiment.config.compare.inception
    by: Json = {"classifier": "", "inception": asked}
    scores = fid.scores(asked, data.num_levels, data.train.device) if asked else None
    if asked and asked != fid.DOWNLOAD:
        by["inception"] = hashlib.sha256(Path(asked).read_bytes()).hexdigest()
    truth = toy.distribution() if data.name == "toy" else None
    if data.train_labels is None or data.num_levels is None:
        return Judge(data, truth, inception=scores), by
    if not (folder.path / FILE).exists():
        say("no feature distance: make a classifier with --mode classifier")
        among = experiment.data  # all classes, also where samples of one are judged
        nearest = partial(
            nearest_neighbours.nearest_labels, real=among.train, labels=among.train_labels
        )
        return Judge(data, truth, nearest, inception=scores), by
    by["classifier"] = hashlib.sha256((folder.path / FILE).read_bytes()).hexdigest()
    least = experiment.objective.least_time
    classifier = load_classifier(folder, model.sde, least, data.train.device)
    features = partial(clean_features, classifier, num_levels=data.num_levels)

    def labels(values: Tensor) -> Tensor:
        return classifier.network.head(features(values).float()).argmax(1)

    return Judge(data, truth, labels, features, scores), by


def _orders(experiment: Experiment, folder: RunDir, model: ScoreModel, rows: Rows) -> list[Json]:
    """The order of each sampler that takes fixed steps, on the exact denoiser of the truth."""
    found = []
    for name in dict.fromkeys(experiment.config.compare.samplers):
        if name == "ode":  # adaptive: it has a tolerance, and no steps
            continue
        sampler = drawing_of(experiment, experiment.config, name, folder, model).sampler
        make = partial(
            convergence_order.measured_order, name, sampler, toy.distribution(), model.sde
        )
        found.append(_kept(rows, f"order-{name}", make))
    return found


def _sweeps(experiment: Experiment, folder: RunDir, model: ScoreModel, judge: Judge) -> bool:
    """Whether there is something to guide by; what cannot be swept is refused before any work."""
    exists = (folder.path / FILE).exists()
    one_class = experiment.config.sampling.label >= 0
    weights = experiment.config.compare.guidance
    if one_class or not weights or judge.labels is None or not (model.num_classes or exists):
        return False
    _guided(experiment, folder, model, max(weights), 0)
    return True


def _guided(
    experiment: Experiment, folder: RunDir, model: ScoreModel, weight: float, label: int
) -> factory.Drawing:
    """A class drawn under a weight, by the sampler and at the budget of the sweep."""
    config = ConfigDict(experiment.config.to_dict())
    config.sampling.label, config.sampling.guidance = label, weight
    config = _with_budget(config, guidance_sweep.SAMPLER, _middle(config.compare))
    return drawing_of(experiment, config, guidance_sweep.SAMPLER, folder, model)


def _swept(
    experiment: Experiment,
    folder: RunDir,
    model: ScoreModel,
    step: int,
    judge: Judge,
    rows: Rows,
    count: int,
) -> list[tuple[Json, bytes]]:
    """A row and a picture of each weight, where there is something to guide by."""
    c, data = experiment.config.compare, experiment.data
    weights = sorted(set(c.guidance))
    paths = {w: folder.sample_path(step, f"compare-guidance-{w:g}") for w in weights}
    cases = {w: f"guidance-{w:g}-{_middle(c)}" for w in weights}
    missing = [w for w in weights if cases[w] not in rows.done or not paths[w].exists()]

    def drawing(weight: float, label: int) -> factory.Drawing:
        return _guided(experiment, folder, model, weight, label)

    asked = guidance_sweep.Asked(drawing, c.seed, count, experiment.config.sampling.batch_size)
    for weight in distributed.shard().of_the_first(missing):
        row, x, labels = guidance_sweep.measured(weight, asked, model.sde, data)
        if distributed.leads():
            folder.write_image(paths[weight], guidance_sweep.shown(x, data))
            rows.append(
                [{"case": cases[weight], **row, **guidance_sweep.judged(x, labels, judge)}]
            )
    if not distributed.leads():
        return []
    return [(rows.done[cases[w]], paths[w].read_bytes()) for w in weights]


def _middle(c: ConfigDict) -> int:
    """The budget of the sweep: the middle one of those compared."""
    return sorted(set(c.nfe))[len(set(c.nfe)) // 2]


def _wanted(config: ConfigDict, model: ScoreModel) -> list[tuple[str, int]]:
    """Each sampler with each budget that it can use: a chain has no more steps than N."""
    c, whole = config.compare, config.sampling.grid == "least_cost"
    names = [
        factory.choose("--samplers", name, factory.SAMPLERS) for name in dict.fromkeys(c.samplers)
    ]
    return [
        (name, budget)
        for name in names
        for budget in sorted(set(c.nfe))
        if (factory.high_order(config, name) and not whole) or budget <= model.sde.num_steps
    ]


def _with_budget(config: ConfigDict, name: str, budget: int) -> ConfigDict:
    """A config whose evaluations come to the budget, or near it; guidance may double them."""
    config = ConfigDict(config.to_dict())
    c = config.sampling
    heun = "heun" in (name, c.predictor if name == "pc" else "")  # two a step, but in the last
    a_step = (2 if heun else 1) + (c.corrections if name == "pc" else 0)
    c.steps = max(1, (budget + heun) // a_step)
    tolerance, evaluations = REFERENCE
    wanted = tolerance * (evaluations / budget) ** 5
    c.tolerance = min(max(wanted, 1e-10), 1.0)
    assert math.isfinite(wanted), "budgets are whole numbers from 1"
    return config
