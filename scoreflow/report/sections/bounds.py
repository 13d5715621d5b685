"""Likelihood bounds: all bounds and estimates of the same images, and rate-distortion curves."""

from collections.abc import Iterator

from scoreflow.figures.plot import Plot, Series
from scoreflow.report.blocks import Cell, Figures, Picture, Section, Table, Text, number
from scoreflow.report.results import Results, measured_on
from scoreflow.storage.atomic_files import Json

TITLE = "Likelihood bounds"
NAME = "likelihood-ledger"
WIDE = 640
"""CSS pixels of the progressive reconstructions."""
KINDS = {"exact": "likelihood", "bound": "upper bound", "estimate": "estimate"}


def sections(results: Results) -> Iterator[Section]:
    """The table of bounds with its plots, where it was made."""
    found = results.show(NAME, lambda result: _bounds(results, result))
    if found is not None:
        yield found


def _bounds(results: Results, result: Json) -> Section:
    step = result["step"]
    note = (
        "Mean over the images and its standard error; differences to the first row are paired by "
        "image. The least upper bound, and those within one standard error of it, are marked."
    )
    columns = ("method", "kind", result["unit"], "minus the first", "terms")
    rows = tuple(map(_row, result["rows"], _least(result["rows"])))
    path = results.run.sample_path(step, NAME)
    title = "Progressive reconstruction"
    caption = ("Estimates of x_0 as more of the code arrives, then the test image",)
    shown: Picture | None = results.picture(path, WIDE, title, caption)
    figures = Figures((*_plots(result), *([] if shown is None else [shown])))
    images = f"{result['num_images']} images{measured_on(result, ' of ')}"
    said = f"The same {images} by every method, checkpoint of step {step}."
    return Section(TITLE, (Text(said), Table(columns, rows, note=note), figures))


def _least(rows: list[Json]) -> list[bool]:
    """Which rows have the least upper bound, or one within its standard error."""
    bounds = [k for k, row in enumerate(rows) if row["kind"] != "estimate"]
    if len(bounds) < 2:
        return [False] * len(rows)
    first = rows[min(bounds, key=lambda k: rows[k]["value"])]
    most = first["value"] + (first["standard_error"] or 0.0)
    return [k in bounds and row["value"] <= most for k, row in enumerate(rows)]


def _row(row: Json, least: bool) -> tuple[Cell, ...]:
    value = number(row["value"], row["standard_error"])
    parts = ", ".join(f"{name} {part:.4f}" for name, part in row["parts"].items())
    return (
        Cell(row["name"]),
        Cell(KINDS[row["kind"]]),
        Cell(value.text, value.sort, "best" if least else ""),
        number(row["minus_first"], row["minus_first_error"], sign="+"),
        Cell(parts),
    )


def _plots(result: Json) -> tuple[Plot, ...]:
    """The terms, distortion against rate, and both against t."""
    kept, unit = result["rate_distortion"], result["unit"]
    scale = "of 255" if unit == "bits/dim" else "in data units"
    root = f"distortion, RMS {scale}"
    terms = tuple(_line(name, kept["middles"], y) for name, y in kept["terms"].items())
    by_rate = _line("", kept["rate"], kept["distortion"])
    by_time = _line("", kept["times"], kept["distortion"])
    rate = _line("", kept["times"], kept["rate"])
    return (
        Plot(
            "Terms L_t of the discrete bound, by reverse variance",
            "t, steps",
            f"{unit} a step",
            terms,
        ),
        Plot("Distortion against rate", f"rate, {unit}", root, (by_rate,), log_y=False),
        Plot("Distortion against t", "t, steps", root, (by_time,), log_y=False),
        Plot("Rate against t", "t, steps", f"rate, {unit}", (rate,), log_y=False),
    )


def _line(name: str, x: list[float], y: list[float]) -> Series:
    """A line of numbers, as many abscissas as ordinates."""
    if len(x) != len(y):
        raise ValueError(f"a curve has {len(x)} abscissas and {len(y)} ordinates")
    return Series(name, [float(value) for value in x], [float(value) for value in y])
