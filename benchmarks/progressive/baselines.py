"""`python -m benchmarks.progressive.baselines --case DIR IMAGES ...`: other codes, lossless.

The first test images of runs as PNG, WebP and JPEG XL, a file each and stacked, by zlib and LZMA,
and by the histogram of each pixel: the rows that `--mode compress` shows beside its own bytes.
"""

import shlex
import sys
from pathlib import Path

from benchmarks.command_line import OneLineParser, exit_status
from benchmarks.measure import folder, keep, load_run, say, table
from scoreflow.errors import RequestError
from scoreflow.likelihood.compression import baselines
from scoreflow.runtime.device import build_device
from scoreflow.storage.atomic_files import Json

NAME = "compression-baselines"


def text_of(cases: list[Json]) -> str:
    """A table a case."""
    head = ("code", "bytes", "bits/dim", "")
    told = []
    for case in cases:
        rows = [
            (row["name"], f"{row['bytes']:,}", f"{row['bits_per_dim']:.4f}", row["note"])
            if row["bytes"] is not None
            else (row["name"], "-", "-", row["note"])
            for row in case["rows"]
        ]
        title = f"## {case['run']}: {case['num_images']} test images"
        told.append(f"{title}\n\n{table(head, rows)}")
    return "\n\n".join(told)


def run(argv: list[str]) -> None:
    """Code, and write OUT/compression-baselines.json and .md."""
    parser = OneLineParser("baselines", __doc__ or "")
    parser.add_argument(
        "--case",
        nargs=2,
        action="append",
        required=True,
        metavar=("DIR", "IMAGES"),
        help="a run, and how many test images",
    )
    parser.add_argument("--out", type=Path, default=None, help="folder; default results/cpu")
    asked = parser.parse_args(argv[1:])
    device = build_device("cpu")
    cases = []
    for where, number in asked.case:
        if not number.isdecimal() or int(number) < 1:
            raise RequestError(f"--case DIR and a whole number from 1 up, got {number!r}")
        data = load_run(Path(where), device).data
        if data.num_levels is None:
            raise RequestError(f"{where} is of vectors, and these codes are for images")
        levels = data.test[: int(number)]
        rows = baselines.table(levels, data.num_levels, data.train)
        say(baselines.lines(rows))
        cases.append({"run": Path(where).name, "num_images": len(levels), "rows": rows})
    result = {
        "command": shlex.join(["python", "-m", "benchmarks.progressive.baselines", *argv[1:]]),
        "unit": "bytes",
        "settings": {},
        "rows": cases,
        "device": "cpu",
    }
    keep(folder(device, asked.out), NAME, "Other codes, lossless", result, text_of(cases))


def main(argv: list[str]) -> int:
    """Make the table; returns the exit status, as `scoreflow.cli.main` does."""
    return exit_status("baselines", lambda: run(argv), "stopped")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
