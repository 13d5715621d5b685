"""Runs compared by their likelihoods: a table, plots with error bars, every pair."""

from collections.abc import Iterator

from scoreflow.figures.plot import Plot, Series
from scoreflow.report.blocks import (
    Block,
    Cell,
    Figures,
    Heading,
    Section,
    Table,
    Text,
    number,
    plain,
    with_error,
)
from scoreflow.report.results import Results, averaged
from scoreflow.storage.atomic_files import Json

TITLE = "Likelihoods in pairs"
MOST_KEYS = 6
"""Differing keys of the configs that are shown."""
BUDGET = (
    ("probes", "probes, nodes"),
    ("solver", "solver"),
    ("truncation_at_most", "truncation, at most"),
    ("prior_at_most", "prior, at most"),
)


def sections(results: Results) -> Iterator[Section]:
    """The likelihoods, where a comparison of runs was made."""
    found = results.show("runs", _section)
    if found is not None:
        yield found


def solved(result: Json) -> list[Json]:
    """The runs that have a likelihood, the best first."""
    there = [each for each in result["runs"] if each["likelihood"] is not None]
    return sorted(there, key=lambda each: float(each["likelihood"]["value"]))


def _section(result: Json) -> Section:
    runs = solved(result)
    blocks: list[Block] = [_failed(each) for each in result["runs"] if each["failed"]]
    if not runs:
        return Section(TITLE, tuple(blocks))
    best = runs[0]
    found = best["likelihood"]
    head = with_error(found["value"], found["standard_error"])
    said = f"{result['unit']} of {best['name']}, the best of {len(runs)} (lower is better)"
    said += averaged(result)
    blocks = [Text(said, head), *blocks, _table(result, runs)]
    blocks += [Text(result["note"], small=True), Figures(tuple(_plots(result, runs)))]
    if len(runs) > 2:
        blocks += [Heading("Every pair"), _matrix(result, runs)]
    return Section(TITLE, (*blocks, _budget(result, runs)))


def _failed(run: Json) -> Text:
    return Text(f"{run['name']}: {'; '.join(run['failed'])}")


def difference(result: Json, first: str, second: str) -> Json | None:
    """The pair of two runs as first - second; None for a run and itself."""
    for each in result["pairs"]:
        if (each["first"], each["second"]) == (first, second):
            return dict(each)
        if (each["first"], each["second"]) == (second, first):
            return {**each, "value": -each["value"]}
    return None


def _mark(pair: Json) -> str:
    return " **" if pair["larger_of_all"] else " *" if pair["larger"] else ""


def _apart(pair: Json | None) -> Cell:
    """A difference, its error and its mark."""
    if pair is None:
        return Cell()
    text = with_error(pair["value"], pair["standard_error"], sign="+") + _mark(pair)
    return Cell(text, float(pair["value"]))


def _larger(pair: Json | None) -> Cell:
    """Whether a difference is larger than its error, in words."""
    if pair is None:
        return Cell("the best")
    said = "yes, as one pair" if pair["larger"] else "no"
    said = "yes, among all pairs too" if pair["larger_of_all"] else said
    return Cell(f"{said}; the solver's part guessed" if pair.get("guessed") else said)


def _table(result: Json, runs: list[Json]) -> Table:
    keys = result["keys"][:MOST_KEYS]
    best = runs[0]["name"]
    pairs = {each["name"]: difference(result, each["name"], best) for each in runs}
    rows = tuple(
        (
            Cell(each["name"]),
            number(each["likelihood"]["value"], each["likelihood"]["standard_error"]),
            _apart(pairs[each["name"]]),
            _larger(pairs[each["name"]]),
            number(each["step"], form=",.0f"),
            _seconds(each["training_seconds"]),
            _seconds(each["likelihood_seconds"]),
            number(each["likelihood"]["nfe"], form=".0f"),
            *(Cell(plain(each["differs"].get(key, ""))) for key in keys),
        )
        for each in runs
    )
    columns = ("run", result["unit"], f"minus {best}, in pairs", "larger than its error")
    costs = ("steps", "training, s", "likelihood, s", "evaluations an image")
    left = len(result["keys"]) - len(keys)
    note = f"{left} more keys of the configs differ: --mode table has all." if left > 0 else ""
    return Table((*columns, *costs, *keys), rows, note=note)


def _seconds(value: float | None) -> Cell:
    return Cell("-") if value is None else number(value, form=",.1f")


def _plots(result: Json, runs: list[Json]) -> Iterator[Plot]:
    """The likelihoods with their own errors, and the differences with those of pairs."""
    unit, place = result["unit"], "place, the best first"
    yield Plot(
        f"{unit}, each with the error by the choice of images",
        place,
        unit,
        tuple(
            _point(
                k, each["name"], each["likelihood"]["value"], each["likelihood"]["standard_error"]
            )
            for k, each in enumerate(runs, start=1)
        ),
        log_y=False,
        places=True,
    )
    best = runs[0]["name"]
    apart = [difference(result, each["name"], best) for each in runs]
    yield Plot(
        f"The same minus {best}, in pairs",
        place,
        f"difference, {unit}",
        tuple(
            _point(k, each["name"], *_number(pair))
            for k, (each, pair) in enumerate(zip(runs, apart, strict=True), start=1)
        ),
        log_y=False,
        places=True,
    )


def _number(pair: Json | None) -> tuple[float, float | None]:
    """A difference and its error; 0 of a run and itself."""
    return (0.0, None) if pair is None else (float(pair["value"]), pair["standard_error"])


def _point(place: int, name: str, value: float, error: float | None) -> Series:
    return Series(name, [float(place)], [float(value)], [float(error or 0.0)])


def _matrix(result: Json, runs: list[Json]) -> Table:
    """Row minus column, of every pair."""
    names = [each["name"] for each in runs]
    rows = tuple(
        (Cell(row), *(_apart(difference(result, row, column)) for column in names))
        for row in names
    )
    note = "Row minus column, ± one standard error of the difference in pairs."
    return Table(("", *names), rows, note=note, sortable=False)


def _budget(result: Json, runs: list[Json]) -> Table:
    """What besides the choice of images makes each number uncertain."""
    budgets = [each["likelihood"]["error_budget"] for each in runs]
    kinds = [(key, name) for key, name in BUDGET if any(b.get(key) is not None for b in budgets)]
    rows = tuple(
        (
            Cell(each["name"]),
            Cell(f"t = {each['likelihood']['t_min']:g}", float(each["likelihood"]["t_min"])),
            *(_part(b, key) for key, _ in kinds),
        )
        for each, b in zip(runs, budgets, strict=True)
    )
    note = (
        "Error budget of each number. Truncation and prior are bounds on what the model itself "
        "pays by where its flow starts and ends, no errors of the measurement: they are part of "
        "the differences above."
    )
    if any(b.get("solver_guess") for b in budgets):
        note += " Guessed: the solver's own estimate, for no image was solved more finely."
    columns = ("run", "flow starts at", *(f"{name}, {result['unit']}" for _, name in kinds))
    return Table(columns, rows, note=note)


def _part(budget: Json, key: str) -> Cell:
    """A part of an error budget; a guess is called one."""
    if budget.get(key) is None:
        return Cell("-")
    value = number(budget[key], form=".5f")
    if key != "solver" or not budget.get("solver_guess"):
        return value
    return Cell(f"{value.text}, guessed", float(budget[key]))
