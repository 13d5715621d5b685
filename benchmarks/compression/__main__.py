"""The table of what `--mode compress` measured in some runs: results/compression*.json of each.

python -m benchmarks.compression RUN RUN ...
"""

import shlex
import sys
from pathlib import Path

from benchmarks.command_line import OneLineParser, exit_status
from benchmarks.measure import folder, keep, number, say, table
from scoreflow.errors import RequestError
from scoreflow.runtime.device import build_device
from scoreflow.storage.atomic_files import Json
from scoreflow.storage.atomic_files import load_json as load

COLUMNS = (
    "run",
    "images",
    "K",
    "b",
    "batch",
    "predicted, bits/dim",
    "images in the file",
    "apart, %",
    "file, bytes",
    "lent",
    "header",
    "file, bits/dim",
    "s an image, encode",
    "decode",
)
CODES = ("code", "bytes", "bits/dim", "")
NOTE = (
    "Predicted is the chain's bound on the same images, by noise of its own; *apart* is what the "
    "images take in the file more than that, with the standard error of the difference by image. "
    "*Lent* are the bytes that the first images draw from, *header* all else that is no image."
)


def rows_of(run: Path) -> list[Json]:
    """The measurements of a run, most images first, then by K, b and batch.

    Raises:
        RequestError: there are none.
    """
    found = [
        {**load(path, f"{path} is gone", "measure it again", Json), "run": run.resolve().name}
        for path in sorted((run / "results").glob("compression*.json"))
        if not path.name.startswith("compression-laws")
    ]
    if not found:
        raise RequestError(f"{run} has no results/compression.json: --mode compress writes it")
    return sorted(found, key=_order)


def _order(row: Json) -> tuple[int, ...]:
    c = row["settings"]
    return (-row["num_images"], c["steps"], c["precision"], c["batch_size"])


def _cells(row: Json) -> list[str]:
    held, c, seconds = row["bytes"], row["settings"], row["seconds_per_image"]
    apart, error = row["net_minus_predicted"], row["net_minus_predicted_error"]
    of_all = row["predicted_standard_error"]
    share = 100 * apart / row["predicted"]
    of_share = "" if error is None else f" ± {100 * error / row['predicted']:.2f}"
    return [
        row["run"],
        str(row["num_images"]),
        *(str(c[key]) for key in ("steps", "precision", "batch_size")),
        number(row["predicted"], ".4f") + ("" if error is None else f" ± {of_all:.4f}"),
        f"{row['net']:.4f}",
        f"{share:+.2f}{of_share}",
        str(held["file"]),
        str(held["borrowed"]),
        str(held["header"] + held["names"]),
        f"{row['value']:.4f}",
        number(seconds.get("encode"), ".3f"),
        number(seconds.get("decode"), ".3f"),
    ]


def beside(rows: list[Json]) -> str:
    """The smallest file of each run's most images, and other codes of the same, where tried."""
    told = []
    for run in dict.fromkeys(row["run"] for row in rows):
        own = [row for row in rows if row["run"] == run and row.get("baselines")]
        most = max((row["num_images"] for row in own), default=0)
        if not most:
            continue
        best = min(
            (row for row in own if row["num_images"] == most), key=lambda row: row["bytes"]["file"]
        )
        cells = [
            ["ours", f"{best['bytes']['file']:,}", f"{best['value']:.4f}", _said(best)],
            [
                "its images, predicted",
                f"{best['predicted_bytes']:,.0f}",
                f"{best['predicted']:.4f}",
                "",
            ],
            *map(_code, best["baselines"]),
        ]
        told.append(f"## {run}: {most} test images\n\n{table(CODES, cells)}")
    return "\n\n".join(told)


def _said(row: Json) -> str:
    c, held = row["settings"], row["bytes"]
    return (
        f"K = {c['steps']}, b = {c['precision']}; of it {held['borrowed']} bytes lent, "
        f"{held['header'] + held['names']} header"
    )


def _code(row: Json) -> list[str]:
    if row["bytes"] is None:
        return [row["name"], "-", "-", row["note"]]
    return [row["name"], f"{row['bytes']:,}", f"{row['bits_per_dim']:.4f}", row["note"]]


def run(argv: list[str]) -> None:
    """Write OUT/compression.json and .md."""
    parser = OneLineParser("compression", __doc__ or "")
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, which they were measured on")
    parser.add_argument("--out", type=Path, default=None, help="folder; default results/DEVICE")
    asked = parser.parse_args(argv[1:])
    rows = [row for each in asked.runs for row in rows_of(each)]
    parts = (table(COLUMNS, map(_cells, rows)), NOTE, beside(rows))
    text = "\n\n".join(filter(None, parts))
    result = {
        "command": shlex.join(["python", "-m", "benchmarks.compression", *argv[1:]]),
        "unit": "bits/dim",
        "settings": {"runs": [str(each) for each in asked.runs]},
        "rows": rows,
        "device": asked.device,
    }
    out = folder(build_device(asked.device), asked.out)
    keep(out, "compression", "Compression in real bytes", result, text)
    say(text)


def main(argv: list[str]) -> int:
    """Make the table; returns the exit status, as `scoreflow.cli.main` does."""
    return exit_status("compression", lambda: run(argv), "stopped; nothing was written")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
