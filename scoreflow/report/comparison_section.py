"""The comparison as a section of the report: plots, tables, and the images column by column."""

import base64
import html
from collections.abc import Sequence

from scoreflow.evaluation import convergence_order
from scoreflow.evaluation.columns import Column, columns_of
from scoreflow.figures.line_plot import Plot, Series, svg
from scoreflow.report.page import figure
from scoreflow.storage.atomic_files import Json

MEASURES = (
    ("wasserstein", "Wasserstein-2 to the truth", True),
    ("feature_distance", "feature distance to training data", True),
    ("fid", "FID", True),
    ("told_apart", "worse of the two rates of recognition, from 0.5 (0 is best)", False),
)
"""What is plotted, of what there is: key, name, and whether its axis is logarithmic."""
MOST_MEASURES = 2
WIDTH = "8.5rem"
"""Of a picture in the table of pictures."""


def section(
    rows: list[Json],
    real: list[Json],
    pictures: dict[tuple[str, int], bytes],
    seed: int,
    of_orders: list[Json],
) -> str:
    """The comparison as a part of the report.

    Args:
        rows: of the cases.
        real: what real data get, from `columns.reference_rows`.
        pictures: a PNG a sampler and budget.
        seed: of the noise.
        of_orders: the rows of `orders`, if any were measured.
    """
    measures = [each for each in MEASURES if each[0] in rows[0]][:MOST_MEASURES]
    plots = "".join(
        svg(_plot(rows, real, x, x_label, *measure))
        for measure in measures
        for x, x_label in (
            ("nfe", "evaluations an image"),
            ("seconds", f"seconds for {rows[0]['num_images']} images"),
        )
    )
    return (
        "<h2>Samplers compared</h2><p class=small>One network; every case starts from the same "
        f"noise (seed {seed}), so image k is in the same place in each picture. A bar, and the "
        "number behind &plusmn;, is one standard error.</p>"
        f"<div class=figures>{plots}</div>{_table(rows, real)}{_notes(rows)}"
        f"{_classes(rows, real)}{orders_section(of_orders)}{_pictures(rows, pictures)}"
    )


def _plot(
    rows: list[Json], real: list[Json], x: str, x_label: str, y: str, y_label: str, log_y: bool
) -> Plot:
    """A line a sampler; what real data get, from end to end."""
    series = [
        Series(
            name,
            [row[x] for row in rows if row["sampler"] == name],
            [row[y] for row in rows if row["sampler"] == name],
            [row.get(f"{y}_error", 0.0) for row in rows if row["sampler"] == name],
        )
        for name in dict.fromkeys(row["sampler"] for row in rows)
    ]
    ends = [min(row[x] for row in rows), max(row[x] for row in rows)]
    level = next((row for row in reversed(real) if row.get(y) is not None), None)
    if level is not None:
        series.append(Series(level["sampler"], ends, [level[y]] * 2))
    return Plot(f"{y_label} against {x_label}", x_label, tuple(series), log_x=True, log_y=log_y)


def _table(rows: list[Json], real: list[Json]) -> str:
    """The numbers of the cases and of real data, in a table a part."""
    columns = [column for column in columns_of([*rows, *real]) if column.title]
    parts = [
        [column for column in columns if column.part == part]
        for part in dict.fromkeys(column.part for column in columns)
    ]
    return "".join(_part(rows, real, part) for part in parts)


def _part(rows: list[Json], real: list[Json], columns: list[Column]) -> str:
    head = "".join(f"<th>{html.escape(column.title)}</th>" for column in columns)
    told = [row for row in real if any(column.key in row for column in columns)]
    body = "".join(_row(row, columns) for row in [*rows, *told])
    return (
        "<div class=scroll><table class='wide lined'>"
        f"<tr><th>sampler, budget</th>{head}</tr>{body}</table></div>"
    )


def _row(row: Json, columns: list[Column]) -> str:
    return f"<tr><td>{html.escape(_case(row))}</td>{cells(row, columns)}</tr>"


def cells(row: Json, columns: Sequence[Column]) -> str:
    """The cells of a row's numbers and errors."""
    return "".join(f"<td>{column.text(row, '&plusmn;')}</td>" for column in columns)


def _notes(rows: list[Json]) -> str:
    """What the numbers are, in a sentence each, of those that are there."""
    said = [
        "Two-sample accuracy is the mean of the two rates beside it, in which a miss above 0.5 "
        "and one below cancel.",
        "Precision is the share of samples among the data, recall that of data among the samples.",
        "A distance to the nearest training datum well below that of held-out data would be "
        "memorisation; copies are equal to a training datum in every value.",
    ]
    first = rows[0]
    if "feature_distance" in first:
        said.append(
            "Feature distance is the Fr&eacute;chet distance in the features of this run's own "
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
    return f"<p class=small>{' '.join(said)}</p>"


def _classes(rows: list[Json], real: list[Json]) -> str:
    """How many samples each case has of each class."""
    counted = [row for row in [*rows, *real] if "classes" in row]
    if not counted:
        return ""
    head = "".join(f"<th>{k}</th>" for k in range(max(len(row["classes"]) for row in counted)))
    body = "".join(
        f"<tr><td>{html.escape(_case(row))}</td>"
        f"{''.join(f'<td>{count}</td>' for count in row['classes'])}</tr>"
        for row in counted
    )
    by = "the classifier" if "feature_distance" in counted[0] else "the nearest training image"
    return (
        f"<h3>Classes of the samples, by {by}</h3><div class=scroll><table class='wide lined'>"
        f"<tr><th>sampler, budget</th>{head}</tr>{body}</table></div>"
    )


def _case(row: Json) -> str:
    return f"{row['sampler']}, {row['budget']}" if "budget" in row else row["sampler"]


def orders_section(rows: list[Json]) -> str:
    """Each sampler's order of convergence: a table and a plot."""
    if not rows:
        return ""
    body = "".join(
        f"<tr><td>{html.escape(row['sampler'])}</td><td>{html.escape(convergence_order.text(row))}</td>"
        f"<td>{_errors(row)}</td></tr>"
        for row in rows
    )
    lines = tuple(
        Series(row["sampler"], row["steps"], row["errors"], row["errors_error"])
        for row in rows
        if row["kind"] == "flow"
    )
    plot = Plot("RMS distance to the flow's own answer", "steps", lines, log_x=True)
    above = "<th>sampler</th><th>order</th><th>error by steps</th>"
    told = (
        "No network is in it. Steps are equal in log-SNR, from the prior to t = 1. Methods that "
        "follow the flow are held against a solution at a tolerance of "
        f"{convergence_order.TOLERANCE:g}, from the same noise; those that draw from the law, against the "
        "mean squared distance to the nearest component's centre. The error of an order is that "
        "of finitely many points; terms of higher order in the steps come on top."
    )
    return (
        "<h3>Order of convergence, on the exact denoiser of the truth</h3>"
        f"<div class=figures>{svg(plot) if lines else ''}</div>"
        f"<div class=scroll><table class='wide lined'><tr>{above}</tr>{body}</table></div>"
        f"<p class=small>{told}</p>"
    )


def _errors(row: Json) -> str:
    """An error for each number of steps."""
    sign = "" if row["kind"] == "flow" else "+"
    pairs = zip(row["steps"], row["errors"], row["errors_error"], strict=True)
    return ", ".join(f"{n}: {e:{sign}.2g} &plusmn; {s:.1g}" for n, e, s in pairs)


def _pictures(rows: list[Json], pictures: dict[tuple[str, int], bytes]) -> str:
    """A row a budget, a column a sampler."""
    names = list(dict.fromkeys(row["sampler"] for row in rows))
    budgets = sorted({row["budget"] for row in rows})
    by_case: dict[tuple[str, int], Json] = {(r["sampler"], r["budget"]): r for r in rows}

    def cell(name: str, budget: int) -> str:
        if (name, budget) not in pictures:
            return "<td></td>"
        source = base64.b64encode(pictures[name, budget]).decode()
        cost = f"{by_case[name, budget]['nfe']:.0f} evaluations"
        return f"<td style='min-width: {WIDTH}'>{figure(source, html.escape(name), cost)}</td>"

    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(
        f"<tr><td>{budget}</td>{''.join(cell(name, budget) for name in names)}</tr>"
        for budget in budgets
    )
    return (
        "<h3>The same noise</h3><div class=scroll><table class=wide>"
        f"<tr><th>budget</th>{head}</tr>{body}</table></div>"
    )
