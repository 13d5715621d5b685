"""Runs compared by their samples: the same samplers, budgets and prior noise."""

from collections.abc import Iterator

from scoreflow.evaluation.columns import columns_of, reference_rows
from scoreflow.figures.plot import Plot, Series
from scoreflow.report.blocks import Block, Cell, Figures, Fold, Heading, Section, Table, Text
from scoreflow.report.results import Results, averaged
from scoreflow.report.sections.tables import MEASURES, MOST_MEASURES, metrics_table
from scoreflow.storage.atomic_files import Json

TITLE = "Samples of the runs"
WIDE = 260
"""CSS pixels of a picture in the tables of pictures."""
FOLDED = 3
"""Cases from which all but the first are folded."""

Case = tuple[str, int]


def sections(results: Results) -> Iterator[Section]:
    """The samples, where a comparison of runs was made."""
    found = results.show("runs", lambda result: _section(results, result))
    if found is not None:
        yield found


def _section(results: Results, result: Json) -> Section | None:
    rows = [row for run in result["runs"] for row in run["samples"]]
    if not rows:
        return None
    compared = result["settings"]["compare"]
    cases = list(dict.fromkeys(_case(row) for row in rows))
    said = (
        f"Every sample begins with the same noise for all runs (seed {compared['seed']}"
        f"{averaged(result)}), {rows[0]['num_images']} of each case, held against the "
        "training data. A number behind ± is one standard error, as if the samples of two "
        "runs were independent: differences of two numbers are no pairs here. Marks are as of one "
        "row; with many, some are by chance."
    )
    plots = tuple(_plots(result, rows, cases))
    blocks: list[Block] = [*map(Text, result["remarks"]), Text(said, small=True)]
    blocks += [Figures(plots)] if plots else []
    for case in cases:
        title = f"{case[0]}, {case[1]} evaluations"
        table, pictures = _table(result, case), _pictures(results, result, case)
        if len(cases) < FOLDED:
            blocks += [Heading(title), *table, *pictures]
        else:
            blocks.append(Fold(title, (*table, *pictures), open=case == cases[-1]))
    return Section(TITLE, tuple(blocks))


def _case(row: Json) -> Case:
    return row["sampler"], row["budget"]


def _of(run: Json, case: Case) -> Json | None:
    return next((row for row in run["samples"] if _case(row) == case), None)


def _plots(result: Json, rows: list[Json], cases: list[Case]) -> Iterator[Plot]:
    """Each sampler's metrics against evaluations, a line a run; none for a single budget."""
    measures = [each for each in MEASURES if each[0] in rows[0]][:MOST_MEASURES]
    for sampler in dict.fromkeys(name for name, _ in cases):
        if sum(name == sampler for name, _ in cases) < 2:
            continue
        for key, title, y_label, log_y in measures:
            yield Plot(
                f"{title}, {sampler}",
                "evaluations an image",
                y_label,
                tuple(_line(run, sampler, key) for run in result["runs"]),
                log_x=True,
                log_y=log_y,
            )


def _line(run: Json, sampler: str, key: str) -> Series:
    own = [row for row in run["samples"] if row["sampler"] == sampler and row.get(key) is not None]
    return Series(
        run["name"],
        [float(row["nfe"]) for row in own],
        [float(row[key]) for row in own],
        [float(row.get(f"{key}_error") or 0.0) for row in own],
    )


def _table(result: Json, case: Case) -> Iterator[Table]:
    """The metrics of a case, a row a run, a table a part."""
    rows = [
        {**row, "name": run["name"]}
        for run in result["runs"]
        if (row := _of(run, case)) is not None
    ]
    real = [
        {**row, "name": row["sampler"]}
        for row in reference_rows(result["test_data"], result["floors"])
    ]
    columns = [column for column in columns_of([*rows, *real]) if column.title]
    for part in dict.fromkeys(column.part for column in columns):
        own = [column for column in columns if column.part == part]
        foot = [row for row in real if any(column.key in row for column in own)]
        yield metrics_table("run", lambda row: str(row["name"]), rows, foot, own)


def _pictures(results: Results, result: Json, case: Case) -> list[Block]:
    """The first samples of each run side by side; image k of each is of one noise."""
    pictures = {
        run["name"]: results.picture(
            results.run.path / "samples" / f"{run['pictures']}-{case[0]}-{case[1]}.png", WIDE, ""
        )
        for run in result["runs"]
        if _of(run, case) is not None
    }
    there = {name: each for name, each in pictures.items() if each is not None}
    if not there:
        return []
    row = tuple(Cell(picture=each) for each in there.values())
    return [Table(tuple(there), (row,), sortable=False)]
