"""The record of a likelihood benchmark as Markdown: a caption, and a section for each part."""

from benchmarks.likelihood import settings
from benchmarks.likelihood.budget import z_scores
from benchmarks.likelihood.equal_error.report import section
from benchmarks.measure import table
from scoreflow.storage.atomic_files import Json


def _error(value: float | None, sign: str = "") -> str:
    return "not known" if value is None else f"{value:{sign}.1e}"


def _seconds(row: Json) -> str:
    return f"> {row['seconds']:.1f}, gave up" if row["unsolved"] else f"{row['seconds']:.2f}"


def _effort(row: Json) -> tuple[str, ...]:
    return tuple(f"{row[key]:.0f}" for key in ("evaluations", "forwards", "products"))


def table_of_curves(rows: list[Json]) -> str:
    """Every method at each tolerance."""
    head = ["method", "tolerance", "seconds", "evaluations", "passes", "vjps"]
    head += ["mean error, bits/dim", "RMS error of an image", "worst"]
    return table(head, (
        (row["method"], f"{row['tolerance']:g}", _seconds(row), *_effort(row),
         _error(row["mean_error"], "+"), _error(row["rms_error"]), _error(row["worst_error"]))
        for row in rows
    ))  # fmt: skip


def table_of_crowds(rows: list[Json]) -> str:
    """Batches with two outliers."""
    head = ["outliers", "method", "tolerance", "seconds", "times faster", "evaluations"]
    head += ["of the outliers", "RMS error of the others"]
    capped = {row["outliers"]: bool(row["unsolved"]) for row in reversed(rows)}
    return table(head, (
        (row["outliers"], row["method"], f"{row['tolerance']:g}" if row["tolerance"] else "",
         _seconds(row),
         f"{'> ' * capped[row['outliers']]}{row['usual_over_this']:.1f}", _effort(row)[0],
         ", ".join(map(str, row["outlier_evaluations"])), _error(row["rms_error"]))
        for row in rows
    ))  # fmt: skip


def table_of_probes(rows: list[Json]) -> str:
    """The divergence by some probes and exactly."""
    head = ["divergence", "probes", "seconds", "evaluations", "RMS error of an image, bits/dim"]
    head += ["expected", "of independent signs"]
    return table(head, (
        (row["divergence"], str(row["probes"] or "none"), _seconds(row), _effort(row)[0],
         _error(row["rms_error"]), f"{row['expected']:.1e}",
         "" if row["independent"] is None else f"{row['independent']:.1e}")
        for row in rows
    ))  # fmt: skip


def conclusions(record: Json) -> list[str]:
    """The gains of the solver alone, in sentences."""
    tolerance, lines = record["gains"]["ours_tolerance"], []
    if tolerance is None:
        lines.append(
            f"at no tolerance is our mean's error below {settings.GOOD_ENOUGH:g} bits/dim"
        )
    for name, gain in record["gains"]["against"].items():
        lines += _gain(name, gain, tolerance)
    return lines


def _gain(name: str, gain: Json, tolerance: float | None) -> list[str]:
    """What is said of one method against ours, whose tolerance is good enough."""
    lines = []
    if tolerance is not None:
        more = "more than " if gain["capped"] else ""
        lines.append(
            f"{name} at {settings.USUAL:g} takes {more}{gain['usual_tolerance_over_ours']:.1f} "
            f"times the seconds of ours at {tolerance:g}, the loosest with a mean's error below "
            f"{settings.GOOD_ENOUGH:g} bits/dim"
        )
    lines.append(f"{name} at equal RMS error: {at_equal_error(gain['equal_error'])}")
    each = ", ".join(
        f"{'none' if ratio is None else f'{ratio:.2f}'} at {tol:g}"
        for tol, ratio in gain["as_accurate"]
    )
    lines.append(f"{name} over our cheapest row that is as accurate (RMS), seconds: {each}")
    return lines


def _outlier_lines(rows: list[Json], size: int) -> list[str]:
    capped = {row["outliers"] for row in rows if row["unsolved"]}
    return [
        f"two outliers ({row['outliers']}) among {size}: the usual procedure takes "
        f"{'more than ' * (row['outliers'] in capped)}{row['usual_over_this']:.1f} times the "
        f"seconds of {row['method']}"
        for row in rows
        if row["method"].endswith("at a time") or row["method"].startswith("nodes")
    ]


def at_equal_error(gain: Json) -> str:
    """The result of `accuracy.seconds_at_equal_error` in words."""
    if gain["overlap"] is None:
        if "slow_range" not in gain:
            return "not known, for there is no error"
        slow, fast = ("{:.1e} .. {:.1e}".format(*gain[f"{k}_range"]) for k in ("slow", "fast"))
        return f"no overlap, {slow} there and {fast} ours"
    low, high = gain["overlap"]
    return (
        f"{gain['min']:.2f} (least) and {gain['median']:.2f} (median) times the seconds of ours, "
        f"over {low:.1e} .. {high:.1e} bits/dim"
    )


def caption(record: Json) -> str:
    """Settings and environment, in a paragraph."""
    s = record["settings"]
    return (
        f"`{record['command']}`: {s['images']} test images of {s['workdir']} (step {s['step']}, "
        f"{s['dims']} dimensions, {s['num_levels']} levels), uniform dequantization, float32, "
        f"from t = {s['t']:g}; seconds are the median of {s['repeats']} runs in turn, "
        f"of `nodes` {max(s['repeats'], settings.REPETITIONS)} (one where the first took more "
        f"than {settings.SLOW:g} s), the usual procedure gives up after "
        f"{settings.CAP_SECONDS:g} s; passes and vjps an image. The usual procedure runs on the "
        f"schedule {s['usual_schedule']!r}. On {record['device']} ({s['threads']} threads, load "
        f"{s['load'][0]:.1f}), commit {record['commit']}, {record['minutes']:.1f} minutes in all."
    )


def markdown(record: Json, picture: str = "likelihood-benchmark.png") -> str:
    """The whole report.

    Args:
        record: of `command.measured`.
        picture: name of its file, beside the report.
    """
    parts = ["# Exact likelihood: error against seconds", caption(record)]
    if "equal_error" in record:
        parts.append(section(record["equal_error"], record["settings"]["images"], picture))
    if "crowds" in record:
        parts += _crowds(record)
    if "methods" in record:
        parts += _solvers(record)
    if "divergence" in record:
        parts += _divergence(record)
    if "budget" in record:
        parts += z_scores.section(record["budget"])
    return "\n\n".join(parts) + "\n"


def _crowds(record: Json) -> list[str]:
    crowd = record["settings"]["crowd"]
    return [
        f"## Two outliers among {crowd}",
        f"Errors against dopri5 at tolerance {settings.TRUTH:g} with the same probe.",
        _listed(_outlier_lines(record["crowds"], crowd)),
        table_of_crowds(record["crowds"]),
    ]


def _solvers(record: Json) -> list[str]:
    return [
        "## The solvers alone, by one probe",
        f"Ours is dopri5 per sample; errors against it at tolerance {settings.TRUTH:g} with the "
        "same probe.",
        _listed(conclusions(record)),
        table_of_curves(record["methods"]),
    ]


def _divergence(record: Json) -> list[str]:
    return [
        f"## The divergence by fixed probes, {record['settings']['divergence_images']} images at "
        f"tolerance {settings.DIVERGENCE_TOLERANCE:g}",
        "Signs are drawn without replacement; expected and independent follow from the spread of "
        "the whole set. What all signs still miss is the solver's.",
        table_of_probes(record["divergence"]),
    ]


def _listed(lines: list[str]) -> str:
    return "\n".join(f"* {line}" for line in lines)
