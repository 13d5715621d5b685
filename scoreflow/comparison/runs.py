"""Several runs on the same images and from the same noise: `scoreflow.compare`, `--runs`.

Of each run the exact likelihood, by the same dequantization and probes of each image; samples from
the same prior noise at equal budgets of evaluations; seconds. Rows of likelihoods lie in the runs'
own folders, where `--mode likelihood` keeps and finds them; all else in the folder of the
comparison:

results/runs.json           the result
results/run-NAME.jsonl      a row a case of samples
samples/run-NAME-CASE.png   its picture
report.html  env.json
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

from torch import Tensor

from scoreflow.comparison.budgets import LEAST, wanted_cases, with_budget
from scoreflow.comparison.judging import asked_for, judge_by, sampling_of
from scoreflow.comparison.rows_of_likelihood import (
    Weights,
    count_of,
    heading_of,
    kept_likelihood,
)
from scoreflow.comparison.summary import guesses, in_pairs, note, table
from scoreflow.data.dataset import Data, digest
from scoreflow.errors import RequestError, RunError, first_line
from scoreflow.evaluation import comparison
from scoreflow.evaluation.cached_cases import CachedCases, check_case, kept
from scoreflow.evaluation.comparison import Case
from scoreflow.evaluation.sample_quality import SampleQuality
from scoreflow.factory.likelihood import asked_of, build_question, labels_of
from scoreflow.factory.sampling import check_sampler
from scoreflow.likelihood.dataset_likelihood import Measured
from scoreflow.paths import short_name, user_path
from scoreflow.report.page import write_comparison
from scoreflow.run_table import RunTable
from scoreflow.run_table import table as table_of
from scoreflow.runtime import distributed
from scoreflow.runtime.environment import environment
from scoreflow.runtime.terminal import tell
from scoreflow.schema.config import Config, has_effect, without_effect_on_runs
from scoreflow.schema.request import Listing, Request, flatten, refuse_no_pairs
from scoreflow.storage.atomic_files import Json, check_writable, dumps, write_atomic
from scoreflow.storage.measurements import average_of, hash_in, keep
from scoreflow.storage.result_rows import Rows, owned_rows
from scoreflow.storage.run_folder import RunDir, Say, clear
from scoreflow.storage.sample_names import SHORT, hash_of
from scoreflow.storage.validation import Range, conform
from scoreflow.trained_run import TrainedRun, open_beside, open_run
from scoreflow.training.classifier_file import CLASSIFIER_FILE, OtherDataError

SECTIONS = ("likelihood", "sampling", "compare")
"""Of the first run, or as they are asked for: those of all runs."""
OF_LIKELIHOOD = ("value", "standard_error", "error_budget", "nfe", "t_min", "t_max", "warning")


def compare(
    runs: Sequence[str | Path],
    out: str | Path | None = None,
    device: str = "",
    **settings: Any,  # noqa: ANN401
) -> "RunsCompared":
    """Runs in pairs on the same images and noise; what was measured before is kept.

    Args:
        runs: folders of two trained runs or more, of the same test images; the first one's
            settings of likelihood, sampling and comparison are those of all.
        out: the folder of the comparison; None for runs/compare-HASH, of the folders' paths.
        device: "cpu", "cuda", "cuda:1"; "" for the best one found.
        settings: other values of these sections, a dict each: `likelihood={"probes": 4}`,
            `compare={"samplers": ("dpm",), "nfe": (20,)}`.

    Raises:
        RequestError: they cannot be compared, or a setting is wrong.
    """
    if isinstance(runs, str | Path):
        raise RequestError(f"compare takes a list of runs' folders, got {runs!r}")
    folders = tuple(user_path(each, "a run's folder") for each in runs)
    refuse_no_pairs(folders)
    overrides = flatten(settings)
    for key in overrides:
        if instead := without_effect_on_runs(key):
            raise RequestError(f"{key} has no effect on compare; {instead}")
    to = None if out is None else user_path(out, "out")
    request = Request("compare", to, device, "", {}, overrides, False, listing=Listing(folders))
    return compare_runs(request, f"scoreflow.compare of {len(folders)} runs", tell)


@dataclass(frozen=True)
class RunsCompared:
    """A comparison of runs; printed, it is tables for the terminal.

    Attributes:
        folder: of the comparison.
        result: what its results/runs.json holds.
    """

    folder: Path
    result: Json

    @property
    def report(self) -> Path:
        """The page."""
        return self.folder / "report.html"

    def refuse_failed(self) -> None:
        """Raise where a measurement of a run failed; all others are in the result.

        Raises:
            RunError: names the runs.
        """
        if failed := [each["name"] for each in self.result["runs"] if each["failed"]]:
            raise RunError(
                f"{', '.join(failed)}: not all could be measured, as said above; what could is in "
                f"{self.folder}, and the same command tries the rest again"
            )

    def __str__(self) -> str:
        return table(self.result)


@dataclass(frozen=True)
class Side:
    """One of the runs.

    Attributes:
        name: that stands for it, its folder's where that is no other's.
        trained: the run under the settings of all.
    """

    name: str
    trained: TrainedRun

    @cached_property
    def weights(self) -> Weights:
        """What its likelihood is of."""
        of = self.trained
        return Weights("ema", of.experiment, of.model, of.step, of.fingerprint, of.trained_with)


@dataclass(frozen=True)
class Common:
    """What all runs are measured by.

    Attributes:
        out: the folder of the comparison.
        data: what samples are to be like.
        judge: the metrics of samples.
        judged_by: what of these a row depends on.
        cases: samplers with their budgets.
        count: samples of each.
    """

    out: Path
    data: Data
    judge: SampleQuality
    judged_by: Json
    cases: list[tuple[str, int]]
    count: int


def compare_runs(request: Request, command: str, say: Say) -> RunsCompared:
    """Measure what is not there yet, and write the comparison; processes share the images.

    Args:
        request: with a listing of runs; its workdir is the folder of the comparison.
        command: that asked for it, as env.json keeps it.
        say: gets lines for the terminal.

    Raises:
        RequestError: they cannot be compared.
    """
    assert request.listing is not None, "checked by the caller"
    folders = request.listing.runs
    refuse_no_pairs(folders)
    out = _folder_for(request.workdir, folders)
    sides = _opened(request, say)
    common = _common(out, sides, say)
    facts = table_of(folders)
    entries, values = [], {}
    for side in sides:
        entry, found = _measured(common, side, say)
        entries.append({**entry, **_facts(facts, side)})
        if found is not None:
            values[side.name] = found
    if not distributed.is_main_process():
        return RunsCompared(out, {})
    result = _result(common, sides, entries, values, facts)
    question = {"runs": [side.trained.fingerprint for side in sides]}
    question |= {"settings": result["settings"], "num_images": result["num_images"]}
    told = keep(out / "results", "runs", result, question)
    device = str(sides[0].trained.experiment.device)
    env = {"command": command, **environment(device)}
    write_atomic(out / "env.json", dumps(env, "env", RunError, sort_keys=True))
    if told.remark:
        say(told.remark)
    write_comparison(RunDir(out, {}, None))
    return RunsCompared(out, result)


# ---- what is compared ---------------------------------------------------------------------------


def _folder_for(asked: Path | None, runs: Sequence[Path]) -> Path:
    """The folder of the comparison, refused where nothing can be written or a run lies."""
    paths = "\n".join(str(each.resolve()) for each in runs)
    out = asked or Path("runs") / f"compare-{_hash(paths)}"
    if any((out / name).exists() for name in ("config.json", "checkpoints", "metrics.jsonl")):
        raise RequestError(
            f"{out} holds a run, and a comparison of runs has a folder of its own: leave out "
            "--workdir, or name another folder"
        )
    for folder in (out, out / "results", out / "samples"):
        check_writable(folder, "name another by --workdir")
    if out.is_dir():
        clear(out)
    return out


def _opened(request: Request, say: Say) -> list[Side]:
    """The runs under the settings of the first, all of the same test data."""
    assert request.listing is not None, "checked by the caller"
    folders = request.listing.runs
    for each in folders:  # all are there before the first is read
        RunDir.open(each).check_writable()
    first = open_run(replace(request, workdir=folders[0], listing=None), say)
    others = [open_beside(first, each, SECTIONS, "--runs", say) for each in folders[1:]]
    for other in others:
        _refuse_other_data(first, other)
    return [
        Side(name, trained)
        for name, trained in zip(_names(folders), (first, *others), strict=True)
    ]


def _names(folders: Sequence[Path]) -> list[str]:
    """The name of each folder; where two have one, with a hash of its path behind."""
    paths = [each.resolve() for each in folders]
    names = [short_name(path.name) for path in paths]
    return [
        name if names.count(name) == 1 else f"{name}-{_hash(str(path))}"
        for name, path in zip(names, paths, strict=True)
    ]


def _hash(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:SHORT]


def _refuse_other_data(first: TrainedRun, other: TrainedRun) -> None:
    """Refuse a run whose test data are not those of the first: there would be no pairs."""
    one, two = first.data, other.data

    def facts(data: Data) -> dict[str, object]:
        return {
            "shape": tuple(data.test.shape[1:]),
            "levels": data.num_levels,
            "classes": data.num_classes,
            "test data (SHA-256)": digest(data.test, data.test_labels)[:12],
        }

    for (what, own), theirs in zip(facts(one).items(), facts(two).values(), strict=True):
        if own != theirs:
            raise RequestError(
                f"--runs: {other.folder.path} has other {what} than {first.folder.path} "
                f"({theirs}, not {own}), and runs are compared on the same images: leave it out"
            )


def _remarks(sides: Sequence[Side]) -> list[str]:
    """A line about runs that saw other training data than those that samples are held against."""
    own = digest(sides[0].trained.data.train)
    others = [side.name for side in sides if digest(side.trained.data.train) != own]
    if not others:
        return []
    return [
        f"samples are held against the training data of {sides[0].name}, and {', '.join(others)} "
        "had others"
    ]


def _common(out: Path, sides: Sequence[Side], say: Say) -> Common:
    """Data, metrics and cases of all; what a run cannot be asked is refused before any work."""
    first = sides[0].trained
    data = asked_for(first.config, first.model, first.data)
    count = min(first.config.compare.num_images, len(data.test), len(data.train))
    if count < LEAST:
        raise RequestError(f"compare needs {LEAST} images of test and training data, got {count}")
    cases: list[tuple[str, int]] = []
    for side in sides:
        own = _refused_or_cases(side)
        cases = own if side is sides[0] else [case for case in cases if case in own]
    if not cases:
        raise RequestError(
            "--runs: no sampler has a budget that all of these runs can use, whose chains have "
            f"{', '.join(str(side.trained.model.sde.num_steps) for side in sides)} steps"
        )
    return Common(out, data, *_judge(sides, data, say), cases, count)


def _refused_or_cases(side: Side) -> list[tuple[str, int]]:
    """The cases of a run; a RequestError, with its folder, for what it cannot be asked."""
    of = side.trained
    try:
        model = asked_of(of.config, of.model, of.data)
        build_question(of.config, model, of.data)
        labels_of(of.config, model, of.data)
        found = wanted_cases(of.config, of.model)
        for name in dict.fromkeys(name for name, _ in found):
            check_sampler(Config.of(of.config), name, of.model.sde, of.model.t_min, of.data)
    except RequestError as error:
        raise RequestError(f"{of.folder.path}: {error}") from error
    return found


def _judge(sides: Sequence[Side], data: Data, say: Say) -> tuple[SampleQuality, Json]:
    """The metrics, by the classifier of the first run that has one of these data."""
    first = sides[0].trained
    if data.train_labels is not None and data.num_levels is not None:
        for each in (side.trained for side in sides):
            file = each.folder.path / CLASSIFIER_FILE
            if not file.exists():
                continue
            try:
                classifier = each.classifier()
            except OtherDataError as error:
                say(f"{each.folder.path}: {error}")
                continue
            return judge_by(first.config.compare.inception, data, first.data, classifier, file)
        say("no feature distance: make a classifier of one of the runs with --mode classifier")
    return judge_by(first.config.compare.inception, data, first.data, None, Path())


# ---- a run --------------------------------------------------------------------------------------


def _measured(common: Common, side: Side, say: Say) -> tuple[Json, Tensor | None]:
    """A run's likelihood and samples; and the value of each datum, (n,), if it has them."""
    shard, of = distributed.shard(), side.trained
    heading = _heading(common, side)
    folder, agree = common.out / "results", shard.broadcast_from_rank_0
    entry: Json = {
        "name": side.name,
        "path": str(of.folder.path),
        "step": of.step,
        "weights": of.fingerprint,
        **of.averaged_as,
        "likelihood": None,
        "values": [],
        "samples": [],
    }
    values, failed = None, []
    with owned_rows(
        folder, f"run-{side.name}", heading, shard.rank, "case", _check, agree
    ) as rows:
        entry |= {"pictures": rows.path.stem, "likelihood_seconds": None}
        try:
            found, seconds = _likelihood(side, rows)
        except RunError as error:  # the others can still be compared
            failed.append(f"no likelihood: {first_line(error)}")
        else:
            values = found.values.mean(1)
            told = {key: found.result.get(key) for key in OF_LIKELIHOOD}
            entry |= {"likelihood": told, "values": values.tolist(), "likelihood_seconds": seconds}
        entry["samples"], unmade = _samples(common, side, rows)
    entry["failed"] = [*failed, *unmade]
    for line in entry["failed"]:
        say(f"{side.name}: {line}")
    return entry, values


@dataclass(frozen=True)
class Timed:
    """The schema of a row about a likelihood's time.

    Attributes:
        seconds: that solving took.
        solved: data that were.
    """

    seconds: Annotated[float, Range(0)]
    solved: Annotated[int, Range(1)]


def _check(row: Json) -> None:
    """Refuse what is no row of its case.

    Raises:
        InvalidError: with the field that is wrong.
    """
    if str(row["case"]).startswith("likelihood-"):
        conform(row, Timed)
    else:
        check_case(row)


def _heading(common: Common, side: Side) -> Json:
    """All that a row of samples depends on but its case."""
    of, data = side.trained, side.trained.data
    return {
        "seed": of.config.compare.seed,
        "num_images": common.count,
        "step": of.step,
        "device": of.experiment.device.type,
        "weights": of.fingerprint,
        "sampling": sampling_of(of.config, of.model, data),
        "judged_by": common.judged_by,
        "data": [digest(common.data.train), digest(common.data.test)],
        **of.trained_with,
    }


def _likelihood(side: Side, rows: Rows) -> tuple[Measured, float | None]:
    """The likelihood of the test data, and the seconds that it took; None where nobody knows."""
    of, c = side.trained, side.trained.config.likelihood
    found = kept_likelihood(of.folder, side.weights, of.data, "likelihood")
    count = len(found.values)
    asked = {**heading_of(side.weights, of.data), "num_images": count, "checked": c.checked}
    whole = hash_of(asked)
    case = f"likelihood-{whole[:SHORT]}"
    timed = rows.done.get(case, {"seconds": 0.0, "solved": 0})
    if found.solved:
        seconds = timed["seconds"] + found.result["seconds"]
        timed = {"seconds": seconds, "solved": timed["solved"] + found.solved}
        if distributed.is_main_process():
            rows.append([{"case": case, **timed}])
    if timed["solved"] >= count:
        return found, float(timed["seconds"])
    try:  # --mode likelihood has solved it, or the end of the training
        result = of.folder.read_result("likelihood")
    except RequestError:
        return found, None
    return found, float(result["seconds"]) if hash_in(result) == whole else None


def _samples(common: Common, side: Side, rows: Rows) -> tuple[list[Json], list[str]]:
    """The rows of all cases, drawn where they are missing; and why some are not to be had."""
    of, c = side.trained, side.trained.config
    names = {(name, budget): f"{name}-{budget}" for name, budget in common.cases}
    pictures = common.out / "samples"
    paths = {each: pictures / f"{rows.path.stem}-{name}.png" for each, name in names.items()}
    cases, failed = CachedCases(rows, names, paths), []
    missing = cases.missing()
    of.fast("eval", sum(budget for _, budget in missing), common.count)
    for name, budget in missing:
        made = Case(name, budget, of.plan(name, with_budget(c, name, budget)))
        try:
            row, png, x = comparison.measured(
                made,
                of.model.sde,
                common.data,
                c.compare.seed,
                common.count,
                c.sampling.batch_size,
            )
            if not bool(x.isfinite().all()):
                raise RunError("some samples are not finite")
        except RunError as error:  # the other cases can still be compared
            failed.append(f"{name}, {budget} evaluations: {first_line(error)}")
            continue
        if distributed.is_main_process():
            row["network"] = of.asked_in("eval", adaptive=name == "ode")
            cases.keep((name, budget), {**row, **common.judge.of_samples(x)}, png)
    return [rows.done[name] for name in names.values() if name in rows.done], failed


def _facts(facts: RunTable, side: Side) -> Json:
    """What the files of a run's folder tell: its size, the time of its training, what differs."""
    row = next(row for row in facts.rows if row.path == str(side.trained.folder.path))
    numbers = {name: entry.value for name, entry in row.entries.items()}
    config = flatten(side.trained.config.to_dict())
    return {
        "differs": {
            key: row.config[key]
            for key in facts.keys
            if key in row.config and has_effect(key, config)
        },
        "parameters": numbers.get("parameters"),
        "training_seconds": numbers.get("training, s"),
    }


def _result(
    common: Common,
    sides: Sequence[Side],
    entries: list[Json],
    values: dict[str, Tensor],
    facts: RunTable,
) -> Json:
    """The comparison as results/runs.json holds it."""
    first = sides[0].trained
    c = first.config
    heading = {"count": common.count, "judged_by": common.judged_by}
    heading["data"] = [digest(common.data.train), digest(common.data.test)]
    with owned_rows(common.out / "results", "data", heading, 0, "case", check_case) as rows:
        test_data: Json = {}
        if not common.data.one_part:
            make = partial(common.judge.of_test_data, common.count)
            test_data = kept(rows, "held-out data", make)
        floors = kept(rows, "floors", partial(common.judge.floors, common.count))
    settings = {
        "likelihood": c.likelihood.to_dict(),
        "sampling": sampling_of(c, first.model, first.data),
        "compare": c.compare.to_dict(),
        "device": str(first.experiment.device),
        "judged_by": common.judged_by,
        **first.averaged_as,
    }
    length = average_of({"settings": settings})
    count = count_of(first.data, c.likelihood)
    found = in_pairs(entries, values)
    return {
        **found,
        "note": note(len(found["pairs"]), count, guesses(entries), length),
        "unit": "nats" if first.data.num_levels is None else "bits/dim",
        "num_images": count,
        "runs": entries,
        "keys": list(facts.keys),
        "remarks": _remarks(sides),
        "test_data": test_data,
        "floors": floors,
        "settings": settings,
    }
