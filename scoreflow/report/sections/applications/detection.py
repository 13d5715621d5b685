"""Anomaly detection: which score tells which other data from the test set."""

from collections.abc import Iterator
from functools import partial

from scoreflow.figures.plot import Plot
from scoreflow.report.blocks import Block, Cell, Figures, Fold, Section, Table, Text, with_error
from scoreflow.report.results import Results, given, measured_on
from scoreflow.storage.atomic_files import Json

TITLE = "Anomaly detection"
WIDE = 460
"""CSS pixels of the picture."""


def sections(results: Results) -> Iterator[Section]:
    """The table of scores and sets, where it was made."""
    found = results.show("detection", partial(_section, results))
    if found is not None:
        yield found


def _section(results: Results, result: Json) -> Section:
    names = list(result["scores"][0]["sets"])
    notes = (
        "An AUROC of 0.5 is chance, 1 separates a set from the test set without error, and below "
        "0.5 a score takes the other set for the more ordinary. Errors of the AUROC are DeLong's. "
        "Which way a score points, and what density it has, is learned from the reference alone. "
        "The last two know no network: the size as a PNG, and the distance to the nearest image "
        "of the reference; all together are those of the network. "
        "The last column should be 0.5: it tells the test set from images of the reference that "
        "taught nothing there."
    )
    passing = (
        "The share of each set that passes where 95 % of the test images do; its error is that of "
        "the share and of the threshold."
    )
    warned = [Text(result["warning"])] if result["warning"] else []
    blocks: tuple[Block, ...] = (
        Text(_how(result)),
        *warned,
        _areas(result["scores"], names, notes),
        Fold("False positives at 95 %", (_rates(result["scores"], names, passing),)),
        Figures(tuple(Plot.from_json(each) for each in result["histograms"])),
        Text("What lies far from the test set's scores counts in the outermost bin.", small=True),
        *_picture(results, result),
        *_extremes(result),
    )
    return Section(TITLE, blocks)


def _how(result: Json) -> str:
    kept = result["reference"]
    whose = "training" if kept["of"] == "train" else "other test"
    return (
        f"AUROC against {result['num_images']} test images{measured_on(result, ' of ')}"
        f"{given(result)}; the reference is {kept['num_images']} {whose} images."
    )


def _areas(rows: list[Json], names: list[str], note: str) -> Table:
    columns = ("score", "evaluations an image", *names, "worst", "test set against the reference")
    cells = tuple(
        (
            Cell(row["name"]),
            Cell(f"{row['evaluations']:.0f}", float(row["evaluations"])),
            *(_area(row["sets"][name]) for name in names),
            Cell(f"{row['worst']['auroc']:.3f}, {row['worst']['set']}", row["worst"]["auroc"]),
            Cell(with_error(row["shift"]["auroc"], row["shift"]["standard_error"], ".3f")),
        )
        for row in rows
    )
    return Table(columns, cells, note=note)


def _area(told: Json) -> Cell:
    value, error = told["auroc"], told["standard_error"]
    return Cell(with_error(value, error, ".3f"), value, shade=value)


def _rates(rows: list[Json], names: list[str], note: str) -> Table:
    cells = tuple(
        (Cell(row["name"]), *(_rate(row["sets"][name]) for name in names)) for row in rows
    )
    return Table(("score", *names), cells, note=note)


def _rate(told: Json) -> Cell:
    value, error = told["fpr95"], told["fpr95_error"]
    return Cell(with_error(value, error, ".2f"), value, shade=1 - value)


def _picture(results: Results, result: Json) -> list[Figures]:
    if not result.get("picture"):
        return []
    path = results.run.path / "samples" / f"{result['picture']}.png"
    rows = ", ".join(result["sets"])
    shown = results.picture(path, WIDE, "Images of each set", (f"A row each: {rows}.",))
    return [] if shown is None else [Figures((shown,))]


def _extremes(result: Json) -> list[Fold]:
    """The images that all scores together take for the least and the most anomalous."""
    rows = tuple(
        (Cell(name), Cell(f"{about['bits_per_dim']:.3f}", about["bits_per_dim"]), *_named(about))
        for name, about in result["sets"].items()
    )
    columns = ("set", "bits/dim", "least anomalous", "most anomalous")
    return [
        Fold(
            "The least and the most anomalous images by all scores together",
            (Table(columns, rows, prose=True),),
        )
    ]


def _named(about: Json) -> tuple[Cell, Cell]:
    least, most = (
        ", ".join(str(each.get("name", each["image"])) for each in about.get(side, []))
        for side in ("least", "most")
    )
    return Cell(least), Cell(most)
