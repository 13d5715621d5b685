"""The comparison as Markdown."""

import math

from benchmarks.likelihood import settings
from benchmarks.measure import number, table
from scoreflow.storage.atomic_files import Json


def _small(value: float | None, form: str = ".1e") -> str:
    return "-" if value is None else f"{value:{form}}"


def _with_error(value: float | None, error: float | None) -> str:
    return "-" if value is None else f"{value:+.4f} ± {error or math.nan:.4f}"


def table_of_rows(rows: list[Json]) -> str:
    """Every case."""
    head = ["method", "settings", "seconds", "evaluations", "passes", "vjps", "error of an image"]
    head += ["as measured", "runs", "solver's part", "bias by the solver", "mean error, measured"]
    return table(head, (
        (row["method"], settings_of(row), f"{row['seconds']:.2f}",
         *(f"{row[key]:.0f}" for key in ("evaluations", "forwards", "products")),
         number(row["error"], ".4f"), number(row["rms_error"], ".4f"), str(row["repetitions"]),
         _small(row["solver_rms"]), _with_error(row["bias"], row["bias_error"]),
         _with_error(row["mean_error"], row["mean_error_error"]))
        for row in rows
    ))  # fmt: skip


def settings_of(row: Json) -> str:
    """Of a row, in a few letters."""
    if row["nodes"]:
        more = f", {row['substeps']} substeps" if row["substeps"] > 1 else ""
        return f"K = {row['nodes']}, P = {row['probes']}{more}"
    return f"{row['tolerance']:g}, P = {row['probes']}"


def table_of_seconds(found: Json) -> str:
    """Seconds of every procedure at every target, and times ours."""
    targets = list(found["image"])
    head = ["seconds", *(f"image to {target}" for target in targets)]
    head += [f"mean of {settings.MEAN_OF} to {settings.MEAN_ERROR:g}"]
    columns = [*found["image"].values(), found["mean"]]
    return table(head, ((name, *(_cell(each[name]) for each in columns)) for name in columns[0]))


def _cell(entry: Json) -> str:
    if entry["seconds"] is None:
        return "not reached"
    ratio = "" if entry["over_nodes"] is None else f" ({entry['over_nodes']:.1f})"
    return f"{entry['seconds']:.1f}{ratio}"


def lines_of_means(found: Json) -> list[str]:
    """By which settings the mean is reached, with their bias."""
    return [
        f"mean by {name}: " + "; ".join(
            f"{each['settings']} (scatter {each['scatter']:.4f}, bias "
            f"{_with_error(*each['bias'])})" for each in entry["between"]
        )
        for name, entry in found["mean"].items()
        if entry.get("between")
    ]  # fmt: skip


def section(found: Json, images: int, picture: str) -> str:
    """The whole section: seconds at equal error, the picture, the rows."""
    targets = ", ".join(found["image"])
    note = (
        f"Seconds for {settings.MEAN_OF} images (those of {images} in proportion) and, in "
        f"brackets, times ours: to an RMS error of an image of {targets} bits/dim, and to a "
        f"standard error of the mean, by probes and nodes, of {settings.MEAN_ERROR:g} with a bias "
        "below it; interpolated along each front. Errors of `nodes` are measured. Those of the "
        "others are scaled: the variance of one fixed probe, "
        f"{found['probe_variance']:.4f} (bits/dim)^2, over probes and, for the last three, over "
        "independent repetitions, whose seconds are as many times those of one; and the solver's "
        "part, measured in pairs."
    )
    parts = [
        "## Seconds at equal error",
        note,
        table_of_seconds(found),
        "\n".join(f"* {line}" for line in lines_of_means(found)),
        f"![error against seconds]({picture})",
        table_of_rows(found["rows"]),
    ]
    return "\n\n".join(part for part in parts if part)
