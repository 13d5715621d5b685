"""--mode compare: every sampler at every budget of evaluations, kept row by row; or runs."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ml_collections import ConfigDict

from scoreflow.cli.command_line import command_of
from scoreflow.cli.console import recorded, say
from scoreflow.cli.modes.sweeps import ema_lengths
from scoreflow.comparison.budgets import LEAST, wanted_cases, with_budget
from scoreflow.comparison.judging import asked_for, judge_by, sampling_of
from scoreflow.comparison.runs import compare_runs
from scoreflow.data import toy
from scoreflow.data.classes import as_asked, names_of
from scoreflow.data.dataset import Data
from scoreflow.errors import RequestError
from scoreflow.evaluation import columns, comparison, convergence_order, guidance_sweep
from scoreflow.evaluation.cached_cases import CachedCases, check_case, kept
from scoreflow.evaluation.comparison import Case
from scoreflow.evaluation.sample_quality import SampleQuality
from scoreflow.generation.plan import SamplingPlan
from scoreflow.report.page import write_report
from scoreflow.runtime import distributed
from scoreflow.schema.request import Request, flatten
from scoreflow.schema.resolve import resolve
from scoreflow.storage.atomic_files import Json
from scoreflow.storage.measurements import average_of
from scoreflow.storage.result_rows import Rows
from scoreflow.trained_run import TrainedRun, open_run
from scoreflow.training.classifier_file import CLASSIFIER_FILE, OtherDataError


def run(request: Request, argv: list[str]) -> None:
    """Compare; processes share the images of each case, and the first one judges and writes."""
    if request.listing is not None:
        found = compare_runs(request, command_of(argv), say)
        if distributed.is_main_process():
            say(f"{found}\nlook at {found.report}")
            found.refuse_failed()
        return
    trained = open_run(request, say)
    compare(trained)
    if distributed.is_main_process():
        say(f"look at {write_report(trained.folder)}")


@dataclass(frozen=True)
class Comparing:
    """What the cases of a comparison have in common.

    Attributes:
        trained: the run.
        data: what samples are to be like.
        judge: the metrics.
        rows: those that are there already, and room for more.
        count: images a case.
    """

    trained: TrainedRun
    data: Data
    judge: SampleQuality
    rows: Rows
    count: int


def compare(trained: TrainedRun) -> None:
    """Measure what is not there yet; the result into results/compare.json."""
    config = trained.config
    data = asked_for(config, trained.model, trained.data)
    c = config.compare
    count = min(c.num_images, len(data.test), len(data.train))
    if count < LEAST:
        raise RequestError(f"compare needs {LEAST} images of test and training data, got {count}")
    if ema_lengths.asked(config):
        _sweep_averages(trained, data, count)
        return
    wanted = wanted_cases(config, trained.model)
    judge, judged_by = _judge_of(trained, data)
    sweeps = _sweeps(trained, judge, bool(judged_by["classifier"]))
    heading, shard = _heading(trained, count, judged_by), distributed.shard()
    agree = shard.broadcast_from_rank_0
    with trained.folder.rows("compare", heading, shard.rank, "case", check_case, agree) as rows:
        if rows.path.stem != "compare" and distributed.is_main_process():
            say(
                "the rows in compare.jsonl are of other settings, weights or classifier, and "
                f"stay: these go to {rows.path.name}"
            )
        common = Comparing(trained, data, judge, rows, count)
        cases = _draw(common, wanted)
        sweep = _swept(common) if sweeps else None
        if distributed.is_main_process():
            _keep(common, cases, sweep, heading)


def _sweep_averages(trained: TrainedRun, data: Data, count: int) -> None:
    """Averages of compare.ema_lengths, by one sampler at the middle one of the budgets."""
    lengths, c = ema_lengths.lengths_of(trained), trained.config.compare
    name = c.samplers[0] if len(c.samplers) == 1 else guidance_sweep.SAMPLER
    judge, judged_by = _judge_of(trained, data)
    heading = _heading(trained, count, judged_by)
    drawing = with_budget(trained.config, name, _middle(c))
    swept = ema_lengths.Sweep(trained, data, judge, heading, name, _middle(c), drawing, count)
    ema_lengths.sweep(swept, lengths)


def _keep(
    common: Comparing,
    cases: CachedCases[tuple[str, int]],
    sweep: CachedCases[float] | None,
    heading: Json,
) -> None:
    """The result into results/compare.json, and onto the terminal."""
    trained, data, rows = common.trained, common.data, common.rows
    c = trained.config.compare
    result = _result(common, [rows.done[case] for case in cases.names.values()])
    settings = recorded(c, trained.experiment.device) | {"judged_by": heading["judged_by"]}
    settings |= trained.averaged_as
    settings |= trained.asked_in("eval")  # a row says if it differs, as one of an earlier command
    result |= {"step": trained.step, "settings": settings, **trained.measured_on}
    result["guidance"] = [rows.done[case] for case in sweep.names.values()] if sweep else []
    result |= {"pictures": rows.path.stem, "weights": trained.fingerprint}
    if data.class_names:
        result["class_names"] = list(data.class_names)
    if (label := heading["sampling"]["label"]) != -1:
        result["label"] = label
    asked = {**heading, "samplers": list(c.samplers), "nfe": list(c.nfe)}
    asked["guidance"] = list(c.guidance) if sweep else []
    kept = trained.folder.keep_result("compare", result, asked, _rank)
    _print(result)
    if kept.remark:
        say(kept.remark)


def _rank(result: Json) -> dict[str, float]:
    """What makes a comparison the headline: of all classes, newest weights, most images."""
    rows, of_all = result["rows"], result.get("label", -1) == -1
    return {
        "of all classes": of_all,
        "of the weights as trained": not average_of(result),
        "of newer weights": result["step"],
        "of more data": rows[0]["num_images"],
        "of more cases": len(rows),
    }


def _judge_of(trained: TrainedRun, data: Data) -> tuple[SampleQuality, Json]:
    """The metrics of samples against data, and what of them a row depends on."""
    file, classifier = trained.folder.path / CLASSIFIER_FILE, None
    if data.train_labels is not None and data.num_levels is not None:
        try:
            classifier = trained.classifier() if file.exists() else None
        except OtherDataError as error:
            say(f"no feature distance: {error}")
        else:
            if classifier is None:
                say("no feature distance: make a classifier with --mode classifier")
    inception = trained.config.compare.inception
    return judge_by(inception, data, trained.data, classifier, file)


def _heading(trained: TrainedRun, count: int, judged_by: Json) -> Json:
    """All that a row depends on but its case."""
    config = trained.config
    return {
        "seed": config.compare.seed,
        "num_images": count,
        "step": trained.step,
        "device": trained.experiment.device.type,
        "weights": trained.fingerprint,
        "sampling": sampling_of(config, trained.model, trained.data),
        "judged_by": judged_by,
        **trained.trained_with,
        **trained.data_digests,
    }


def _draw(common: Comparing, wanted: list[tuple[str, int]]) -> CachedCases[tuple[str, int]]:
    """Draw and judge the cases that are missing."""
    trained, c = common.trained, common.trained.config
    names = {(name, budget): f"{name}-{budget}" for name, budget in wanted}
    paths = {
        each: trained.folder.sample_path(trained.step, f"{common.rows.path.stem}-{name}")
        for each, name in names.items()
    }
    cases = CachedCases(common.rows, names, paths)
    seed, batch_size = c.compare.seed, c.sampling.batch_size
    missing = cases.missing()
    trained.fast("eval", sum(budget for _, budget in missing), common.count)
    for name, budget in missing:
        made = Case(name, budget, trained.plan(name, with_budget(c, name, budget)))
        row, png, x = comparison.measured(
            made, trained.model.sde, common.data, seed, common.count, batch_size
        )
        if distributed.is_main_process():
            row["network"] = trained.asked_in("eval", adaptive=name == "ode")
            cases.keep((name, budget), {**row, **common.judge.of_samples(x)}, png)
    return cases


def _result(common: Comparing, found: list[Json]) -> Json:
    """The rows of the cases, of held-out data, and what two sets of the truth get."""
    judge, rows, count = common.judge, common.rows, common.count
    test_data: Json = {}
    if not common.data.one_part:
        test_data = kept(rows, "held-out data", lambda: judge.of_test_data(count))
    floors = kept(rows, "floors", lambda: judge.floors(count))
    orders = _orders(common) if common.data.is_toy else []
    return {
        "unit": "a row a sampler and budget",
        "rows": found,
        "test_data": test_data,
        "floors": floors,
        "orders": orders,
    }


def _print(result: Json) -> None:
    say(
        columns.table(
            [*result["rows"], *columns.reference_rows(result["test_data"], result["floors"])]
        )
    )
    if result["orders"]:
        say(convergence_order.table(result["orders"]))
    if result["guidance"]:
        say(guidance_sweep.table(result["guidance"]))


def _orders(common: Comparing) -> list[Json]:
    """The order of each sampler that takes fixed steps, on the exact denoiser of the truth."""
    trained, found = common.trained, []
    for name in dict.fromkeys(trained.config.compare.samplers):
        if name == "ode":  # adaptive: it has a tolerance, and no steps
            continue
        sampler, sde = trained.plan(name).sampler, trained.model.sde
        make = partial(convergence_order.measured_order, name, sampler, toy.distribution(), sde)
        found.append(kept(common.rows, f"order-{name}", make))
    return found


# ---- guidance swept -----------------------------------------------------------------------------


def _sweeps(trained: TrainedRun, judge: SampleQuality, exists: bool) -> bool:
    """Whether there is something to guide by; what cannot be swept is refused before any work."""
    one_class = trained.config.sampling.label not in (-1, "none")
    weights = trained.config.compare.guidance
    guides = bool(trained.model.num_classes) or exists
    if one_class or not weights or judge.labels is None or not guides:
        return False
    _guided(trained, max(weights), 0)
    return True


def _guided(trained: TrainedRun, weight: float, label: int) -> SamplingPlan:
    """A class drawn under a weight, by the sampler and at the budget of the sweep."""
    names = names_of(trained.data, trained.model.num_classes or trained.data.num_classes)
    asked = {"sampling.label": as_asked(label, names), "sampling.guidance": weight}
    config = resolve({**flatten(trained.config.to_dict()), **asked}, "the sweep")
    name = guidance_sweep.SAMPLER
    return trained.plan(name, with_budget(config, name, _middle(config.compare)))


def _swept(common: Comparing) -> CachedCases[float]:
    """A row and a picture of each weight."""
    trained, data, c = common.trained, common.trained.data, common.trained.config.compare
    weights, folder = sorted(set(c.guidance)), trained.folder
    names = {w: f"guidance-{w:g}-{_middle(c)}" for w in weights}
    paths: dict[float, Path] = {
        w: folder.sample_path(trained.step, f"{common.rows.path.stem}-guidance-{w:g}")
        for w in weights
    }
    cases = CachedCases(common.rows, names, paths)
    batch_size = trained.config.sampling.batch_size
    asked = guidance_sweep.SweepSettings(
        partial(_guided, trained), c.seed, common.count, batch_size
    )
    for weight in cases.missing():
        row, x, labels = guidance_sweep.measured(weight, asked, trained.model.sde, data)
        if distributed.is_main_process():
            judged = guidance_sweep.judged(x, labels, common.judge)
            row["network"] = trained.asked_in("eval", adaptive=guidance_sweep.SAMPLER == "ode")
            cases.keep(weight, {**row, **judged}, guidance_sweep.shown(x, data))
    return cases


def _middle(c: ConfigDict) -> int:
    """The budget of the sweep: the middle one of those compared."""
    return int(sorted(set(c.nfe))[len(set(c.nfe)) // 2])
