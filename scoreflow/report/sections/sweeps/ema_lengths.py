"""Averages of the weights compared: likelihood and samples against the length of the average."""

from collections.abc import Iterator

from scoreflow.evaluation.columns import COLUMNS, DIFFERENCES, Column
from scoreflow.figures.plot import Plot, Series
from scoreflow.report.blocks import Cell, Figures, Fold, Section, Table, Text
from scoreflow.report.results import Results, measured_on
from scoreflow.storage.atomic_files import Json

TITLE = "Averages compared"
WIDE = 300
"""CSS pixels of a picture."""
LENGTH = "length of the average (std of its profile)"


def sections(results: Results) -> Iterator[Section]:
    """The sweep over lengths, where it was made."""
    found = results.show("ema-lengths", lambda result: _section(results, result))
    if found is not None:
        yield found


def _section(results: Results, result: Json) -> Section:
    rows, unit, settings = result["rows"], result["unit"], result["settings"]
    column = next(each for each in COLUMNS if each.key == result["metric"])
    best = result["best"]
    said = (
        f"One training, averages of several lengths, reconstructed from its snapshots up to step "
        f"{result['step']}{measured_on(result, '; held against ')}. Best by the likelihood of "
        f"{result['num_images']} test data: {best['nll']}; by {column.title} of "
        f"{result['num_samples']} samples ({settings['sampler']}, {settings['budget']} "
        f"evaluations): {best['sample']}."
    )
    note = (
        "Likelihoods are of the same data, dequantization and probes, and their differences are "
        "taken datum by datum: a bar is one standard error of the mean difference, and two "
        "averages are told apart from two of them on. The best one is chosen from the same data. "
        "Samples begin with the same noise; the errors of their metric are added as if they did "
        "not, which is too cautious. The profile's error is what its reconstruction is off by in "
        "L2. Raw weights are those of the last step, without average."
    )
    plots = (
        _plot(rows, "nll_difference", "Likelihood", f"{unit} above the best", best["nll"]),
        _plot(rows, column.key, "Samples", column.title, best["sample"]),
    )
    blocks = (Text(said), Figures(plots), _table(rows, unit, column))
    return Section(TITLE, (*blocks, Text(note, small=True), *_pictures(results, result)))


def _plot(rows: list[Json], key: str, title: str, y_label: str, best: str) -> Plot:
    """A line over the lengths, the best one marked, the raw weights from end to end."""
    known = [row for row in rows if row["length"] is not None]
    series = [_series("averages", known, key)]
    series += [_series("best", [row for row in known if row["name"] == best], key)]
    ends = [min(row["length"] for row in known), max(row["length"] for row in known)]
    series += [
        Series("raw weights" + (", best" if row["name"] == best else ""), ends, [row[key]] * 2)
        for row in rows
        if row["length"] is None
    ]
    shown = tuple(each for each in series if len(each.x))
    return Plot(title, LENGTH, y_label, shown, log_x=True, log_y=False)


def _series(label: str, rows: list[Json], key: str) -> Series:
    x = [float(row["length"]) for row in rows]
    y = [float(row[key]) for row in rows]
    return Series(label, x, y, [float(row.get(f"{key}_error") or 0.0) for row in rows])


def _table(rows: list[Json], unit: str, column: Column) -> Table:
    columns = (
        "average",
        "profile's error",
        unit,
        "above the best",
        "",
        column.title,
        "above the best, samples",
        "samples",
    )
    return Table(columns, tuple(_cells(row, column) for row in rows))


def _cells(row: Json, column: Column) -> tuple[Cell, ...]:
    off, (nll, apart, further) = row["relative_error"], DIFFERENCES
    return (
        Cell(row["name"], row["length"]),
        Cell("" if off is None else f"{off:.2%}", off),
        _shown(nll, row),
        _shown(apart, row),
        _verdict(row["nll_verdict"]),
        _shown(column, row),
        _shown(further, row),
        _verdict(row["sample_verdict"]),
    )


def _shown(column: Column, row: Json) -> Cell:
    return Cell(column.text(row, "±"), float(row[column.key]))


def _verdict(verdict: str) -> Cell:
    return Cell(verdict, mark="best" if verdict == "best" else "")


def _pictures(results: Results, result: Json) -> list[Fold]:
    shown = [
        results.picture(
            results.run.sample_path(result["step"], f"{result['pictures']}-{row['name']}"),
            WIDE,
            row["name"],
        )
        for row in result["rows"]
    ]
    there = tuple(each for each in shown if each is not None)
    return [Fold("The same noise under each average", (Figures(there),))] if there else []
