"""Progressive files: bytes against distortion, beside other codes' and the ledger's curve."""

from collections.abc import Iterator
from functools import partial

from scoreflow.figures.plot import Plot, Series
from scoreflow.report.blocks import Cell, Figures, Section, Table, Text, number
from scoreflow.report.results import Results, measured_on
from scoreflow.storage.atomic_files import Json

TITLE, NAME = "Progressive compression", "compression-progressive"
LEDGER = "likelihood-ledger"
MOST_RATE = 8.0
"""Bits/dim up to which the ledger's curve is drawn: it goes on to the place within a bin."""


def sections(results: Results) -> Iterator[Section]:
    """That of the test set, and those of other images."""
    for name in (NAME, *results.named(f"{NAME}-")):
        found = results.show(name, partial(_progressive, results, name))
        if found is not None:
            yield found


def _progressive(results: Results, name: str, result: Json) -> Section:
    """Bytes against distortion, beside other codes' and the ledger's curve."""
    other = name.removeprefix(NAME).removeprefix("-")
    title = f"{TITLE}: {other}" if other else TITLE
    rows, last = result["rows"], result["rows"][-1]
    count = result["num_images"]
    images = f"{count} image{'' if count == 1 else 's'}{measured_on(result, ' of ')}"
    said = (
        f"{images} sent from the noise down to t = {last['t']}, checkpoint of step "
        f"{result['step']}: {last['bytes']:,} bytes, {result['header_bytes']:,} of them the "
        "header. Every beginning of the file is all images, coarser."
    )
    note = (
        "The KL alone is what an ideal code of very many images at once would need for these "
        "few states, and the ledger's curve what it would need for all N of them; above the KL is "
        "what the indices of candidates take, for each of the parts of an image. Bytes by a time "
        "are those of a file that ends there. RMSE and PSNR are of levels on the scale 0..255. "
        "Other codes have the same images in one sheet."
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
    ledger = results.show(LEDGER, partial(_curve, result)) if own else None
    return Plot(
        "Distortion against rate",
        "rate, bits/dim",
        "distortion, RMS of 255",
        (*lines, *([] if ledger is None else [ledger])),
        log_y=False,
    )


def _curve(result: Json, ledger: Json) -> Series | None:
    """That of the same weights."""
    if ledger.get("weights") != result.get("weights"):
        return None
    kept = ledger["rate_distortion"]
    rate, error = ([float(each) for each in kept[key]] for key in ("rate", "distortion"))
    most = [k for k, each in enumerate(rate) if each <= MOST_RATE]
    return Series("ledger's curve", [rate[k] for k in most], [error[k] for k in most])
