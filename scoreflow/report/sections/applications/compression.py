"""Compression: bytes of images by this run, predicted, and by general codes; progressive files."""

from collections.abc import Iterator
from functools import partial

from scoreflow.figures.bars import Bar, Bars
from scoreflow.figures.plot import Plot, Series
from scoreflow.report.blocks import Cell, Figures, Section, Table, Text, number
from scoreflow.report.results import Results, measured_on
from scoreflow.storage.atomic_files import Json

TITLE = "Compression"
NAME, DATA = "compression", "compression-data-"
PROGRESSIVE, PROGRESSIVE_NAME = "Progressive compression", "compression-progressive"
NOTE = (
    "All lossless: every file was decoded and held against the images. Stacked, the images lie "
    "below one another in one, so that headers do not decide."
)
LEDGER = "likelihood-ledger"
MOST_RATE = 8.0
"""Bits/dim up to which the ledger's curve is drawn: it goes on to the place within a bin."""
KINDS = {"ours": "this run", "predicted": "predicted by the bound", "baseline": "other codes"}


def sections(results: Results) -> Iterator[Section]:
    """The bytes with their bars, and those of a progressive file, where there are such."""
    for name in (NAME, *results.named(DATA)):
        title = TITLE if name == NAME else f"{TITLE} of other data: {name.removeprefix(DATA)}"
        found = results.show(name, partial(_section, title))
        if found is not None:
            yield found
    for name in (PROGRESSIVE_NAME, *results.named(f"{PROGRESSIVE_NAME}-")):
        sent = results.show(name, partial(_progressive, results, name))
        if sent is not None:
            yield sent


def _section(title: str, result: Json) -> Section:
    rows = rows_of(result)
    known = [row for row in rows if row["bytes"] is not None]
    count, held = result["num_images"], result["bytes"]
    images = f"{count} image{'' if count == 1 else 's'}{measured_on(result, ' of ')}"
    apart = f"{100 * (held['images'] / result['predicted_bytes'] - 1):+.2f} %"
    said = (
        f"{images}, checkpoint of step {result['step']}. The images take {held['images']:,.0f} "
        f"bytes of the file, {apart} of what the discrete bound of its chain predicts; borrowed "
        f"bits {held['borrowed']:,}, header {held['header']:,}, names {held['names']:,}."
    )
    head = f"bytes, {result['value']:.4f} bits/dim: this run's file"
    columns = ("code", "bytes", "bits/dim", "")
    others = "baselines" in result
    table = Table(
        columns, tuple(_cells(row, _least(known)) for row in rows), note=NOTE if others else ""
    )
    blocks = (Text(head, f"{held['file']:,}"), Text(said), Figures((_bars(known),)), table)
    return Section(title, (*blocks, *_seconds(result)))


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
    return [file, bound, *result.get("baselines", [])]


def _seconds(result: Json) -> list[Text]:
    times = result.get("seconds_per_image") or {}
    told = ", ".join(f"{name} {each:.3f} s" for name, each in times.items())
    return [Text(f"Seconds an image: {told}.", small=True)] if told else []


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


# ---- progressive --------------------------------------------------------------------------------


def _progressive(results: Results, name: str, result: Json) -> Section:
    """Bytes against distortion, beside other codes' and the ledger's curve."""
    other = name.removeprefix(PROGRESSIVE_NAME).removeprefix("-")
    title = f"{PROGRESSIVE} of other data: {other}" if other else PROGRESSIVE
    rows, last = result["rows"], result["rows"][-1]
    count = result["num_images"]
    images = f"{count} image{'' if count == 1 else 's'}{measured_on(result, ' of ')}"
    said = (
        f"{images} sent from the noise down to t = {last['t']}, checkpoint of step "
        f"{result['step']}: {last['bytes']:,} bytes, {result['header_bytes']:,} of them the "
        "header. Every beginning of the file is all images, coarser."
    )
    note = (
        "The KL alone is what an ideal code of very many images at once would need; above it is "
        "what the indices of candidates take, for each of the parts of an image. RMSE and PSNR "
        "are of levels on the scale 0..255. Other codes have the same images in one sheet."
    )
    columns = ("t", "bytes", "bits/dim", "KL alone", "parts an image", "RMSE", "PSNR, dB")
    table = Table(columns, tuple(map(_state, rows)), note=note)
    return Section(title, (Text(said), Figures((_plot(results, result, not other),)), table))


def _state(row: Json) -> tuple[Cell, ...]:
    psnr = Cell("none") if row["psnr"] is None else number(row["psnr"], form=".2f")
    return (
        Cell(f"{row['t']}", float(row["t"])),
        Cell(f"{row['bytes']:,}", float(row["bytes"])),
        number(row["bits_per_dim"]),
        number(row["divergence"]),
        number(row["parts"], form=".1f"),
        number(row["rmse"], form=".2f"),
        psnr,
    )


def _plot(results: Results, result: Json, own: bool) -> Plot:
    """RMSE against bits/dim: real bytes, the KL alone, other codes, and the ledger's curve."""
    rows = result["rows"]
    distortion = [float(row["rmse"]) for row in rows]
    lines = [
        Series("real bytes", [float(row["bits_per_dim"]) for row in rows], distortion),
        Series("KL alone", [float(row["divergence"]) for row in rows], distortion),
    ]
    for code in dict.fromkeys(row["code"] for row in result["others"]):
        same = [row for row in result["others"] if row["code"] == code]
        rate, error = ([float(row[key]) for row in same] for key in ("bits_per_dim", "rmse"))
        lines.append(Series(code, rate, error))
    ledger = results.show(LEDGER, _curve) if own else None
    return Plot(
        "Distortion against rate",
        "rate, bits/dim",
        "distortion, RMS of 255",
        (*lines, *([] if ledger is None else [ledger])),
        log_y=False,
    )


def _curve(ledger: Json) -> Series:
    kept = ledger["rate_distortion"]
    rate, error = ([float(each) for each in kept[key]] for key in ("rate", "distortion"))
    most = [k for k, each in enumerate(rate) if each <= MOST_RATE]
    return Series("ledger's curve", [rate[k] for k in most], [error[k] for k in most])
