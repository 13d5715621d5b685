"""The equivalence certificate: a fold a group of identities, failed ones open."""

from collections.abc import Iterator

from scoreflow.figures.plot import Plot
from scoreflow.report.blocks import Cell, Figures, Fold, Picture, Section, Table, Text, plain
from scoreflow.report.results import Results, picture_in_json
from scoreflow.storage.atomic_files import Json

TITLE = "Equivalence certificate"
WIDE = 640
"""CSS pixels of a picture."""
NOTE = (
    "Each line says that two ways to one quantity agree: by how much they differ (residual), and "
    "by how much they may (tolerance), which is derived from rounding, step sizes or chance."
)


def sections(results: Results) -> Iterator[Section]:
    """The certificate, where it was made."""
    found = results.show("equivalence", _certificate)
    if found is not None:
        yield found


def _certificate(result: Json) -> Section:
    rows = result["rows"]
    passed = sum(row["passed"] for row in rows)
    about = {"step": result["step"], **result["settings"]}
    where = result["environment"]
    about |= {key: where[key] for key in ("commit", "device_name") if where.get(key)}
    shown = ("sde", "precision", "trained", "step", "device", "commit", "device_name")
    said = "; ".join(f"{key} {plain(about[key])}" for key in shown if key in about)
    groups = dict.fromkeys(row["group"] for row in rows)
    folds = tuple(_group(name, [row for row in rows if row["group"] == name]) for name in groups)
    head = f"{passed} of {len(rows)}"
    seen = (_coverage(result),) if result.get("looked_at") else ()  # none before 0.3
    return Section(
        TITLE, (Text("identities hold", head), Text(said), Text(NOTE, small=True), *folds, *seen)
    )


def _coverage(result: Json) -> Fold:
    """What the certificate looked at, and what it did not."""
    seen = [(Cell("looked at"), Cell(str(each["what"]))) for each in result["looked_at"]]
    unseen = [(Cell("not looked at"), Cell(str(each))) for each in result["not_looked_at"]]
    table = Table(("", "what"), (*seen, *unseen), prose=True)
    count = f"{len(seen)} kinds of things, and {len(unseen)} that it did not"
    return Fold(f"What this certificate looked at: {count}", (table,))


def _group(name: str, rows: list[Json]) -> Fold:
    passed = sum(row["passed"] for row in rows)
    failed = passed < len(rows)
    columns = ("identity", "residual", "tolerance", "", "unit; where the tolerance comes from")
    blocks: list[Table | Figures] = [Table(columns, tuple(map(_row, rows)), prose=True)]
    items: list[Plot | Picture] = []
    for row in rows:  # certificates of 0.1 have no plots
        items += [Plot.from_json(plot) for plot in row.get("plots") or []]
        if row.get("picture"):
            items.append(_picture(row["picture"]))
    if items:
        blocks.append(Figures(tuple(items)))
    title = f"{name}: {passed} of {len(rows)} hold"
    return Fold(title, tuple(blocks), open=failed, mark="failed" if failed else "passed")


def _row(row: Json) -> tuple[Cell, ...]:
    verdict = Cell("passed", 1, "passed") if row["passed"] else Cell("FAILED", 0, "failed")
    residual, tolerance = (_size(row[key]) for key in ("residual", "tolerance"))
    return (Cell(row["identity"]), residual, tolerance, verdict, Cell(row["basis"]))


def _size(value: float | None) -> Cell:
    """A residual; None stands for one that is no finite number."""
    return Cell("not finite") if value is None else Cell(f"{value:.2e}", float(value))


def _picture(kept: Json) -> Picture:
    caption, _, rest = kept["caption"].partition("; ")
    return picture_in_json(kept["png"], WIDE, caption, (rest,) if rest else ())
