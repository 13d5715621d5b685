"""Samplers compared: plots, tables, orders of convergence, pictures from the same noise."""

from collections.abc import Iterator

from scoreflow.evaluation.columns import GUIDANCE, columns_of, reference_rows
from scoreflow.figures.plot import Plot, Series
from scoreflow.report.blocks import (
    Block,
    Cell,
    Figures,
    Fold,
    Heading,
    Picture,
    Section,
    Table,
    Text,
    with_error,
)
from scoreflow.report.results import Results, averaged, measured_on
from scoreflow.report.sections.tables import MEASURES, MOST_MEASURES, class_table, metrics_table
from scoreflow.storage.atomic_files import Json

TITLE = "Samplers compared"
WIDE = 300
"""CSS pixels of a picture in the tables of pictures."""
FOLDED = 8
"""Rows of pictures and classes from which they are folded."""


def sections(results: Results) -> Iterator[Section]:
    """The comparison and the guidance sweep, where they were made."""
    found = results.show("compare", lambda result: _comparison(results, result))
    if found is not None:
        yield found
    swept = results.show("compare", lambda result: _sweep(results, result)) if found else None
    if swept is not None:
        yield swept


def _comparison(results: Results, result: Json) -> Section:
    rows, seed = result["rows"], result["settings"]["seed"]
    real = reference_rows(result["test_data"], result["floors"])
    measures = [each for each in MEASURES if each[0] in rows[0]][:MOST_MEASURES]
    seconds = f"seconds for {rows[0]['num_images']} images"
    plots = tuple(
        _plot(rows, real, x, x_label, *measure)
        for measure in measures
        for x, x_label in (("nfe", "evaluations an image"), ("seconds", seconds))
    )
    said = (
        "One network; every case starts from the same noise "
        f"(seed {seed}), so image k is in the same place in each picture. A bar, and the number "
        f"behind ±, is one standard error. Checkpoint of step {result['step']}{averaged(result)}"
        f"{measured_on(result, ', held against ')}."
    )
    return Section(
        TITLE,
        (
            Text(said),
            Figures(plots),
            *_tables(rows, real),
            *_notes(rows[0]),
            *_classes(rows, real, tuple(result.get("class_names", ()))),
            *_orders(result.get("orders") or []),
            *_pictures(results, rows, result["step"], result.get("pictures", "compare")),
        ),
    )


def _plot(
    rows: list[Json],
    real: list[Json],
    x: str,
    x_label: str,
    y: str,
    title: str,
    y_label: str,
    log_y: bool,
) -> Plot:
    """A line a sampler; what real data have, from end to end."""
    series = [
        Series(
            name,
            [float(row[x]) for row in rows if row["sampler"] == name],
            [float(row[y]) for row in rows if row["sampler"] == name],
            [float(row.get(f"{y}_error") or 0.0) for row in rows if row["sampler"] == name],
        )
        for name in dict.fromkeys(row["sampler"] for row in rows)
    ]
    ends = [min(row[x] for row in rows), max(row[x] for row in rows)]
    level = next((row for row in reversed(real) if row.get(y) is not None), None)
    if level is not None:
        series.append(Series(level["sampler"], ends, [level[y]] * 2))
    return Plot(
        f"{title} against {x_label}", x_label, y_label, tuple(series), log_x=True, log_y=log_y
    )


def _tables(rows: list[Json], real: list[Json]) -> Iterator[Table]:
    """The metrics of the cases and of real data, a table a part."""
    columns = [column for column in columns_of([*rows, *real]) if column.title]
    for part in dict.fromkeys(column.part for column in columns):
        own = [column for column in columns if column.part == part]
        foot = [row for row in real if any(column.key in row for column in own)]
        yield metrics_table("sampler, budget", _case, rows, foot, own)


def _case(row: Json) -> str:
    return f"{row['sampler']}, {row['budget']}" if "budget" in row else str(row["sampler"])


def _notes(first: Json) -> list[Text]:
    """What the metrics are, a sentence each, of those that are there."""
    said = [
        "Two-sample accuracy is the mean of the two recognition rates, in which a miss above 0.5 "
        "and one below cancel.",
        "Precision is the share of samples among the data, recall that of data among the samples.",
        "A distance to the nearest training datum well below that of held-out data would be "
        "memorisation; copies are equal to a training datum in every value.",
    ]
    if "feature_distance" in first:
        said.append(
            "Feature distance is the Fréchet distance in the features of this run's own "
            "classifier. It is not FID, and compares only within this table."
        )
    if "class_distance" in first:
        said.append(
            "The total variation of the classes is half the sum of the differences of their "
            "shares; it and the feature distance are above 0 for real data too."
        )
    if "wasserstein" in first:
        said.append(
            "Wasserstein-2 is by the exact assignment; two sets of the truth are as far apart as "
            "its last row says."
        )
    if "fid" in first:
        said.append("FID from so few images is biased upwards, and no match for published ones.")
    return [Text(" ".join(said), small=True)]


def _classes(rows: list[Json], real: list[Json], names: tuple[str, ...]) -> list[Block]:
    """How many samples each case has of each class."""
    counted = [(_case(row), row["classes"]) for row in rows if "classes" in row]
    if not counted:
        return []
    foot = [(_case(row), row["classes"]) for row in real if "classes" in row]
    by = "the classifier" if "feature_distance" in rows[0] else "the nearest training image"
    return [
        _folded(f"Classes of the samples, by {by}", class_table(counted, foot, names), len(rows))
    ]


def _folded(title: str, table: Table, rows: int) -> Fold:
    return Fold(title, (table,), open=rows < FOLDED)


def _orders(rows: list[Json]) -> list[Block]:
    """Each sampler's order of convergence: a table and a plot."""
    if not rows:
        return []
    lines = tuple(
        Series(
            row["sampler"],
            *([float(v) for v in row[key]] for key in ("steps", "errors", "errors_error")),
        )
        for row in rows
        if row["kind"] == "flow"
    )
    title = "RMS distance to the exact solution of the flow"
    plot = Plot(title, "steps", "RMS distance", lines, log_x=True)
    note = (
        "No network is in it. Steps are equal in log-SNR, from the prior to t = 1. Deterministic "
        "samplers are compared with the adaptive solver, at a tolerance far below these errors, "
        "from the same noise; stochastic ones with the distribution, by the mean squared distance "
        "to the nearest component's centre. The error of an order is that of finitely many "
        "points; terms of higher order in the steps come on top."
    )
    columns = ("sampler", "compared with", "stated order", "measured order", "error by steps")
    table = Table(columns, tuple(map(_order, rows)), note=note)
    figures = [Figures((plot,))] if lines else []
    return [Heading("Order of convergence, on the exact denoiser of the truth"), *figures, table]


def _order(row: Json) -> tuple[Cell, ...]:
    sign = "" if row["kind"] == "flow" else "+"
    pairs = zip(row["steps"], row["errors"], row["errors_error"], strict=True)
    errors = ", ".join(f"{n}: {e:{sign}.2g} ± {s:.1g}" for n, e, s in pairs)
    measured = Cell("not measured: errors too small to see, or of both signs")
    if row["order"] is not None:
        over = f" over {row['over'][0]} to {row['over'][-1]} steps"
        text = with_error(row["order"], row["order_error"], ".2f") + over
        measured = Cell(text, float(row["order"]))
    stated = Cell("") if row["stated"] is None else Cell(str(row["stated"]), row["stated"])
    against = "the flow" if row["kind"] == "flow" else "the distribution"
    return (Cell(row["sampler"]), Cell(against), stated, measured, Cell(errors))


def _pictures(results: Results, rows: list[Json], step: int, stem: str) -> list[Block]:
    """A row a budget, a column a sampler; `stem` begins the names of the pictures."""
    by_case: dict[tuple[str, int], Json] = {(r["sampler"], r["budget"]): r for r in rows}
    names = list(dict.fromkeys(row["sampler"] for row in rows))
    budgets = sorted({row["budget"] for row in rows})
    shown: dict[tuple[str, int], Picture | None] = {
        (name, budget): results.picture(
            results.run.sample_path(step, f"{stem}-{name}-{budget}"),
            WIDE,
            "",
            (f"{name}, {row['nfe']:.0f} evaluations",),
        )
        for (name, budget), row in by_case.items()
    }
    if not any(shown.values()):
        return []
    table = Table(
        ("budget", *names),
        tuple(
            (Cell(str(budget)), *(Cell(picture=shown.get((name, budget))) for name in names))
            for budget in budgets
        ),
        sortable=False,
    )
    return [_folded("The same noise, by budget and sampler", table, len(budgets))]


def _sweep(results: Results, result: Json) -> Section | None:
    """Fidelity against diversity, a row a guidance weight."""
    rows = result.get("guidance") or []
    if not rows:
        return None
    sampler = rows[0].get("sampler", "dpm")  # the only one before rows named it
    stem = result.get("pictures", "compare")
    plots = [
        _by_weight(rows, ("accuracy", "precision", "recall"), "Fidelity and diversity", "rate")
    ]
    if "feature_distance" in rows[0]:
        title = "Feature distance to training data"
        plots.append(_by_weight(rows, ("feature_distance",), title, "feature distance"))
    pictures = [
        results.picture(
            results.run.sample_path(result["step"], f"{stem}-guidance-{row['weight']:g}"),
            WIDE,
            f"guidance {row['weight']:g}",
        )
        for row in rows
    ]
    said = (
        f"By {sampler}; image i is of class i mod K, from the same noise at every weight. At "
        "weight 0 there is no guidance. The classifier's own opinion flatters samples that it "
        "guided."
    )
    columns = [column for column in GUIDANCE if column.key in rows[0]]
    table = metrics_table("guidance", lambda row: f"{row['weight']:g}", rows, [], columns)
    shown = Figures(tuple(each for each in pictures if each is not None))
    blocks = (Text(said), Figures(tuple(plots)), table, shown)
    return Section("Guidance: fidelity against diversity", blocks)


def _by_weight(rows: list[Json], keys: tuple[str, ...], title: str, y_label: str) -> Plot:
    x = [float(row["weight"]) for row in rows]
    series = tuple(
        Series(
            key if len(keys) > 1 else "",
            x,
            [float(row[key]) for row in rows],
            [float(row[f"{key}_error"]) for row in rows],
        )
        for key in keys
    )
    return Plot(title, "guidance weight", y_label, series, log_y=len(keys) == 1)
