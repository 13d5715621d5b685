"""Compression: bytes of the same images by this run, predicted, and by general codes."""

from collections.abc import Iterator

from scoreflow.figures.bars import Bar, Bars
from scoreflow.report.blocks import Cell, Figures, Section, Table, Text
from scoreflow.report.results import Results, measured_on
from scoreflow.storage.atomic_files import Json

TITLE = "Compression"
NAME = "compress"
KINDS = {"ours": "this run", "predicted": "predicted by the bound", "baseline": "other codes"}


def sections(results: Results) -> Iterator[Section]:
    """The bytes with their bars, where images were compressed."""
    found = results.show(NAME, _section)
    if found is not None:
        yield found


def _section(result: Json) -> Section:
    rows = result["rows"]
    known = [row for row in rows if row["bytes"] is not None]
    count = result["num_images"]
    images = f"{count} image{'' if count == 1 else 's'}{measured_on(result, ' of ')}"
    said = f"The same {images}, checkpoint of step {result['step']}."
    note = (
        "All lossless: every file was decoded and held against the images. Stacked, the "
        "images lie below one another in one, so that headers do not decide."
    )
    columns = ("code", "bytes", "bits/dim", "")
    table = Table(columns, tuple(_cells(row, _least(known)) for row in rows), note=note)
    return Section(TITLE, (*_head(known), Text(said), Figures((_bars(known),)), table))


def _head(known: list[Json]) -> list[Text]:
    """The bytes of this run's file, in large."""
    own = [row for row in known if row["kind"] == "ours"]
    return [
        Text(f"bytes, {row['bits_per_dim']:.4f} bits/dim: {row['name']}", f"{row['bytes']:,}")
        for row in own[:1]
    ]


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
