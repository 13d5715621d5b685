"""What a comparison of the processes says: by process for clocks.json, in words for clocks.md."""

import math

import torch
from torch import Tensor

from benchmarks.clocks.differences import MARKED, differences, training_noise
from benchmarks.clocks.options import Options
from benchmarks.clocks.processes import CLOCKS, START, Clock
from benchmarks.measure import table
from scoreflow.comparison.paired import ERRORS
from scoreflow.storage.atomic_files import Json
from scoreflow.uncertainty import standard_error

SHOWN = ("dpm", 20)
"""The case of samples that the table shows; the report has all."""
METRICS = (("told_apart", "told apart"), ("precision", "precision"), ("recall", "recall"))


def summarised(options: Options, found: Json) -> Json:
    """The comparison by process, its seeds taken together, as clocks.json keeps it.

    Args:
        options: of the command.
        found: results/runs.json of the comparison.
    """
    by_name = {each["name"]: each for each in found["runs"]}
    runs = {
        clock.name: [by_name[f"{clock.name}-{seed}"] for seed in range(options.seeds)]
        for clock in CLOCKS
    }
    values = {
        name: torch.tensor([each["values"] for each in of], dtype=torch.float64)
        for name, of in runs.items()
        if all(each["values"] for each in of)
    }
    noise = training_noise(values)
    rows = [_row(clock, runs[clock.name], values.get(clock.name)) for clock in CLOCKS]
    return {
        "unit": found["unit"],
        "settings": {
            "steps": options.steps,
            "seeds": options.seeds,
            "num_images": found["num_images"],
            "objective": options.objective,
            "start": START,
            "more": list(options.more),
            "compare": found["settings"],
        },
        "rows": rows,
        "training_noise": noise,
        "pairs": differences(values, noise),
        "runs": [{k: v for k, v in each.items() if k != "path"} for each in found["runs"]],
        "held_out": found["test_data"],
    }


def _row(clock: Clock, runs: list[Json], values: Tensor | None) -> Json:
    """A process: each seed's likelihood, the metrics of samples over seeds, seconds."""
    row: Json = {
        "process": clock.name,
        "t_min": clock.t_min,
        "each": [] if values is None else values.mean(1).tolist(),
        "value": None if values is None else float(values.mean()),
        "standard_error": None if values is None else standard_error(values.mean(0)),
        "nfe": _mean([each["likelihood"] and each["likelihood"]["nfe"] for each in runs]),
        "training_seconds": _mean([each["training_seconds"] for each in runs]),
        "likelihood_seconds": _mean([each["likelihood_seconds"] for each in runs]),
        "failed": [why for each in runs for why in each["failed"]],
    }
    shown = [
        sample
        for each in runs
        for sample in each["samples"]
        if (sample["sampler"], sample["budget"]) == SHOWN
    ]
    for key, _ in METRICS:
        row[key] = _mean([each.get(key) for each in shown])
        errors = [each.get(f"{key}_error") for each in shown]
        known = [each for each in errors if each is not None]
        row[f"{key}_error"] = math.hypot(*known) / len(known) if known else None
    return row


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def text_of(options: Options, result: Json) -> str:
    """The table and what is to be read from it, in Markdown."""
    rows = sorted(result["rows"], key=lambda row: (row["value"] is None, row["value"] or 0.0))
    titles = {clock.name: clock.title for clock in CLOCKS}
    head = ["process", "bits/dim", *(f"seed {seed}" for seed in range(options.seeds))]
    head += ["minus the best", *(title for _, title in METRICS), "evaluations a likelihood"]
    head += ["training, s", "likelihood, s"]
    best = rows[0]["process"]
    lines = [
        (
            titles[row["process"]],
            _number(row["value"], row["standard_error"]),
            *(_number(each) for each in _seeds(row, options.seeds)),
            _to_best(result["pairs"], row["process"], best),
            *(_number(row[key], row[f"{key}_error"], ".3f") for key, _ in METRICS),
            _number(row["nfe"], form=".0f"),
            _number(row["training_seconds"], form=".0f"),
            _number(row["likelihood_seconds"], form=".0f"),
        )
        for row in rows
    ]
    said = [f"* {line}" for line in verdicts(result, titles)]
    failed = [f"* {titles[row['process']]}: {why}" for row in rows for why in row["failed"]]
    return "\n\n".join(
        (_caption(options, result), table(head, lines), "\n".join([*said, *failed]))
    )


def _seeds(row: Json, count: int) -> list[float | None]:
    return row["each"] or [None] * count


def _number(value: float | None, error: float | None = None, form: str = ".4f") -> str:
    if value is None:
        return "-"
    return f"{value:{form}}" + ("" if error is None else f" ± {error:{form}}")


def _to_best(pairs: list[Json], name: str, best: str) -> str:
    """A difference to the best, above 0, with its whole error and its mark."""
    for pair in pairs:
        if {pair["first"], pair["second"]} == {name, best} and name != best:
            mark = "**" if pair["larger_of_all"] else "*" if pair["larger"] else ""
            sign = 1 if pair["first"] == name else -1
            shown = f"{sign * pair['value']:+.4f} ± {pair['standard_error']:.4f} {mark}"
            return shown.strip().replace("*", "\\*")
    return ""


def _caption(options: Options, result: Json) -> str:
    settings = result["settings"]
    sampler, budget = SHOWN
    return (
        f"Config digits; {settings['steps']} steps, {options.seeds} "
        f"{'seed' if options.seeds == 1 else 'seeds'} a process; the network predicts v, and "
        f"objective {settings['objective']} is minimised at times uniform in each process's own "
        f"t, of EDM at log-normal noise scales, from sigma/alpha = {START:g}. "
        f"Exact likelihood of {settings['num_images']} test images, the same dequantization and "
        f"probes for all; {sampler} at {budget} evaluations from the same noise, told apart 0 is "
        f"best. ± one standard error: of bits/dim by the choice of images, of a difference in "
        f"pairs, with that of the trainings. {result['seconds'] / 60:.1f} minutes in all (of the "
        "last command, if it went on with an earlier one)."
    )


def verdicts(result: Json, titles: dict[str, str]) -> list[str]:
    """A line a pair, the largest first, and what the errors hold."""
    pairs, noise = result["pairs"], result["training_noise"]
    found = []
    for pair in sorted(pairs, key=lambda each: -abs(each["value"])):
        better, worse = pair["first"], pair["second"]
        if pair["value"] > 0:
            better, worse = worse, better
        if pair["larger_of_all"]:
            verdict = "larger than its error, among all pairs too"
        else:
            verdict = "larger than its error as one pair" if pair["larger"] else "within its error"
        size = f"{abs(pair['value']):.4f} ± {pair['standard_error']:.4f}"
        found.append(f"{titles[better]} is better than {titles[worse]} by {size}: {verdict}")
    if not pairs:
        return found
    if noise is None:
        found.append(
            "one seed a process: what another seed would change is not known, and is in no error"
        )
    else:
        moved = ", ".join(f"{titles[name]} {each:.4f}" for name, each in noise.items())
        found.append(
            "another seed moves a training's likelihood by, as standard deviation over the seeds: "
            f"{moved}; of a difference the error has those of its own two processes, as if the "
            "trainings of a seed were independent. Few seeds know them badly, so the law allows "
            "for more errors than 2, and a difference that is not marked may still be one"
        )
    found.append(
        f"marked (\\*) are differences that equal processes show with a chance below "
        f"{MARKED:.2%}, as beyond {ERRORS:g} errors of a normal law (by Student's, with "
        f"Welch's degrees of freedom), and (\\*\\*) below a {len(pairs)}th of that, for there are "
        f"{len(pairs)} pairs"
    )
    return found
