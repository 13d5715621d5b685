"""Other codes beside this run's file: bars and a table of the same images in bytes."""

from scoreflow.figures.bars import Bar, Bars
from scoreflow.report.blocks import Block, Cell, Figures, Table
from scoreflow.storage.atomic_files import Json

NOTE = (
    "All lossless: every file was decoded and held against the images. Stacked, the images lie "
    "below one another in one, so that headers do not decide."
)
KINDS = {"ours": "this run", "predicted": "predicted by the bound", "baseline": "other codes"}


def blocks(result: Json) -> tuple[Block, ...]:
    """Bars and table; none of a result that has no other codes."""
    if not result.get("baselines"):
        return ()
    rows = rows_of(result)
    known = [row for row in rows if row["bytes"] is not None]
    columns = ("code", "bytes", "bits/dim", "")
    table = Table(columns, tuple(_cells(row, _least(known)) for row in rows), note=NOTE)
    return (Figures((_bars(known),)), table)


def rows_of(result: Json) -> list[Json]:
    """This run's file, what was predicted, and the other codes, as rows of the table."""
    file = {
        "name": "this run's file",
        "bytes": result["bytes"]["file"],
        "bits_per_dim": result["value"],
        "kind": "ours",
        "note": "with header and borrowed bits",
    }
    bound = {
        "name": "bound of its chain",
        "bytes": round(result["predicted_bytes"]),
        "bits_per_dim": result["predicted"],
        "kind": "predicted",
        "note": "of the images alone",
    }
    return [file, bound, *result["baselines"]]


def _least(known: list[Json]) -> int | None:
    """The bytes of the smallest file; what is predicted is none."""
    return min((row["bytes"] for row in known if row["kind"] != "predicted"), default=None)


def _cells(row: Json, least: int | None) -> tuple[Cell, ...]:
    if row["bytes"] is None:
        return (Cell(row["name"]), Cell(), Cell(), Cell(row["note"]))
    best = row["bytes"] == least and row["kind"] != "predicted"
    return (
        Cell(row["name"]),
        Cell(f"{row['bytes']:,}", float(row["bytes"]), "best" if best else ""),
        Cell(f"{row['bits_per_dim']:.4f}", float(row["bits_per_dim"])),
        Cell(row["note"]),
    )


def _bars(known: list[Json]) -> Bars:
    """Bits/dim of each code, in the order of the table."""
    bars = tuple(
        Bar(row["name"], float(row["bits_per_dim"]), KINDS[row["kind"]], f"{row['bytes']:,} B")
        for row in known
    )
    return Bars("Bits/dim of the same images, and bytes", "bits/dim", bars, tuple(KINDS.values()))
