"""Other measurements: what was measured under other settings than the results above."""

from collections.abc import Iterator

from scoreflow.report.blocks import Block, Cell, Heading, Section, Table, Text, number, plain
from scoreflow.report.results import DAMAGE, Results, flat, measured_on
from scoreflow.storage.atomic_files import Json

TITLE = "Other measurements"
NOTE = (
    "The first row of each is the result above: of the newest weights the largest measurement, "
    "and of equal ones the newest. Settings that are alike in all rows are left out."
)
ALWAYS = ("seed", "probes", "tolerance")
"""Settings that are shown of every measurement that has them."""
UNSHOWN = ("num_images", "batch_size", "data", "against", "task")
"""Settings that another column has, or that no result is a function of."""
MOST = 8
"""Columns of settings."""


def sections(results: Results) -> Iterator[Section]:
    """One section, where something was measured more than once: a table a kind of result."""
    blocks: list[Block] = []
    for name in sorted(results.others):
        found = [(name, results.by_name[name])] if name in results.by_name else []
        found += results.others[name]
        try:
            blocks += [Heading(name), _table(found)]
        except DAMAGE as error:
            results.damaged.append(f"results/{name}-*.json: one is damaged ({error}): remove it")
    if blocks:
        yield Section(TITLE, (Text(NOTE, small=True), *blocks))


def _table(found: list[tuple[str, Json]]) -> Table:
    """A row a measurement, the headline first and then the newest."""
    settings = [flat(result.get("settings") or {}) for _, result in found]
    keys = _shown(settings)
    elsewhere = any(measured_on(result) for _, result in found)
    metric = any("metric" in result for _, result in found)
    columns = (
        "file",
        "value",
        "count",
        *keys,
        "step",
        *(("data",) if elsewhere else ()),
        *(("metric",) if metric else ()),
        "date",
    )
    rows = tuple(
        (
            Cell(name, link=f"results/{name}.json"),
            _value(result),
            _count(result),
            *(_setting(key, its) for key in keys),
            _whole(result.get("step")),
            *((Cell(measured_on(result)),) if elsewhere else ()),
            *((Cell(str(result.get("metric", ""))),) if metric else ()),
            Cell(str((result.get("kept") or {}).get("date", ""))[:16].replace("T", " ")),
        )
        for (name, result), its in zip(found, settings, strict=True)
    )
    return Table(columns, rows)


def _setting(key: str, settings: Json) -> Cell:
    """The value of a setting; results older than it have none."""
    if key not in settings:
        return Cell()
    value = settings[key]
    return Cell("none" if key == "label" and value == -1 else plain(value))


def _shown(settings: list[Json]) -> list[str]:
    """The settings that tell the rows apart, and those that are shown always."""
    keys = list(dict.fromkeys(key for each in settings for key in each))
    wanted = [
        key
        for key in keys
        if key.rpartition(".")[2] not in UNSHOWN
        and (key in ALWAYS or len({repr(each.get(key)) for each in settings}) > 1)
    ]
    return wanted[:MOST]


def _count(result: Json) -> Cell:
    """How many images, or of a comparison of how many images how many cases."""
    rows = result.get("rows")
    if isinstance(rows, list) and rows and "num_images" in rows[0]:
        images = rows[0]["num_images"]
        return Cell(f"{len(rows)} x {images}", float(len(rows) * images))
    count = result.get("num_images", result.get("num_test"))
    return _whole(count)


def _whole(value: object) -> Cell:
    return Cell(f"{value:,}", float(value)) if isinstance(value, int) else Cell("")


def _value(result: Json) -> Cell:
    """The number of a result, or of a certificate how many identities hold."""
    rows = result.get("rows")
    if isinstance(rows, list) and rows and "passed" in rows[0]:
        passed = sum(bool(row["passed"]) for row in rows)
        return Cell(f"{passed} of {len(rows)}", float(passed))
    value = result.get("value")
    return Cell("") if value is None else number(value, result.get("standard_error"))
