"""`python -m benchmarks.progressive --case DIR IMAGES STOP BITS ...`: real bytes and distortion.

Sends the first test images of trained runs from the noise down to a time by relative entropy
coding (`--config.compress.stop`), decodes the file, and puts bytes and distortion at each time
beside the bound of the same chain on the same images, beside JPEG, WebP and JPEG XL, and beside
the curve of the run's ledger, where `--config.likelihood.ledger=true` has measured it.
"""

import io
import math
import shlex
import sys
import time
from itertools import pairwise
from pathlib import Path

import torch

from benchmarks.command_line import OneLineParser, exit_status, whole_number
from benchmarks.measure import folder, keep, load_run, number, say, table
from scoreflow.cli.modes.applications.progressive import Asked, Encoded, decode, encode, result_of
from scoreflow.errors import RequestError, RunError
from scoreflow.figures.plot import Plot, Series
from scoreflow.likelihood.compression.chain import Chain, bound
from scoreflow.likelihood.compression.error_law import ErrorLaw
from scoreflow.likelihood.compression.progressive.file import unpacked
from scoreflow.likelihood.compression.progressive.rates import distortion
from scoreflow.models.score_model import arithmetic
from scoreflow.runtime.device import build_device
from scoreflow.sde.noise import Noise
from scoreflow.storage.atomic_files import Json, write_atomic
from scoreflow.storage.run_folder import RunDir
from scoreflow.trained_run import TrainedRun
from scoreflow.uncertainty import standard_error

NAME, LEDGER = "compression-lossy", "likelihood-ledger"
CLOSE = (45.0, 30.0, 20.0, 10.0)
"""RMSE of 255 at which bytes are compared."""


def measured(run: TrainedRun, asked: Asked, images: int) -> Json:
    """A case: what `compression-progressive.json` has, the bound, seconds and a decoded file."""
    levels = run.data.test[:images]
    if len(levels) < images:
        raise RequestError(f"{run.folder.path} has {len(levels)} test images, {images} asked for")
    start = time.perf_counter()
    encoded = encode(run, asked, levels, str(run.folder.path))
    seconds, content = time.perf_counter() - start, encoded.file.packed()
    start = time.perf_counter()
    back, _ = decode(run, unpacked(content, "the file"), "the file")
    decoded = time.perf_counter() - start
    again = distortion(back, levels.cpu(), encoded.file.num_levels)
    if again != encoded.rows[-1]["rmse"] or len(content) != encoded.rows[-1]["bytes"]:
        raise RunError(f"the file decodes to other images: RMSE {again}, not the encoder's")
    said = _bound(run, encoded, images)
    return {
        **result_of(encoded, run, levels, seconds),
        "decode_seconds": decoded,
        "bound": float(said.mean()),
        "bound_error": standard_error(said),
        "part_bits": asked.part_bits,
        "ledger": ledger_of(run.folder, run.fingerprint),
        "run": run.folder.path.name,
    }


def ledger_of(folder: RunDir, weights: str) -> list[Json]:
    """The ledger's rate and distortion, from N down; none where it is of other weights or none."""
    if not (folder.path / "results" / f"{LEDGER}.json").exists():
        return []
    ledger = folder.read_result(LEDGER)
    if ledger.get("weights") != weights:
        return []
    curve = ledger["rate_distortion"]
    pairs = zip(curve["rate"][::-1], curve["distortion"][::-1], strict=True)
    return [{"bits_per_dim": rate, "rmse": rmse} for rate, rmse in pairs]


def _bound(run: TrainedRun, encoded: Encoded, images: int) -> torch.Tensor:
    """Bits/dim of each image from N down to the last time, by fresh noise: (n,)."""
    file, model = encoded.file, run.model.in_precision("float32")
    rows = torch.cat([file.law.squares[:1], file.law.squares])  # `bound` asks at every time
    law = ErrorLaw(file.law.kind, file.times[1:], rows, rows)
    chain = Chain(model, model.sde, law, file.times, file.event, file.num_levels)
    with arithmetic("float32"):
        terms = bound(chain, run.data.test[:images], Noise.of(1, 0, images))[:, 1:].sum(1)
    return terms / math.log(2) / math.prod(file.event)


def bits_at(rows: list[Json], rmse: float) -> float | None:
    """Bits/dim at a distortion, between the rows next to it; None beyond them."""
    for worse, better in pairwise(rows):
        if better["rmse"] <= rmse <= worse["rmse"] and better["rmse"] < worse["rmse"]:
            share = (worse["rmse"] - rmse) / (worse["rmse"] - better["rmse"])
            return worse["bits_per_dim"] * (1 - share) + better["bits_per_dim"] * share
    return None


def text_of(cases: list[Json]) -> str:
    """The tables of all cases."""
    return "\n\n".join(map(_text, cases))


def _text(case: Json) -> str:
    rows, last = case["rows"], case["rows"][-1]
    head = ("t", "bytes", "bits/dim", "KL alone", "parts an image", "RMSE of 255", "PSNR, dB")
    lines = [
        (str(row["t"]), f"{row['bytes']:,}", f"{row['bits_per_dim']:.4f}",
         f"{row['divergence']:.4f}", f"{row['parts']:.1f}", f"{row['rmse']:.2f}",
         number(row["psnr"]))
        for row in rows
    ]  # fmt: skip
    ideal = [{**row, "bits_per_dim": row["divergence"]} for row in rows]
    by_code = {"this file": rows, "KL alone": ideal}
    if case["ledger"]:
        by_code["ledger's curve"] = case["ledger"]
    for row in case["others"]:
        by_code.setdefault(row["code"], []).append(row)
    equal = [
        (name, *(number(bits_at(own, rmse)) for rmse in CLOSE)) for name, own in by_code.items()
    ]
    payload = 8 * (last["bytes"] - case["header_bytes"]) / last["bytes"] * last["bits_per_dim"] / 8
    over = payload / last["divergence"] - 1
    error = "" if case["bound_error"] is None else f" ± {case['bound_error']:.4f}"
    return (
        f"## {case['run']}: {case['num_images']} test images down to t = {last['t']}, parts of at "
        f"most {case['part_bits']:g} bits\n\n{table(head, lines)}\n\n"
        f"The KL of what was sent is {last['divergence']:.4f} bits/dim, and the bound of the same "
        f"chain on the same images {case['bound']:.4f}{error}, by other noise; indices and counts "
        f"of parts take {over:.0%} above it, the header {case['header_bytes']} bytes. "
        f"{sum(row['cut'] for row in rows[-1:])} of {last['parts'] * case['num_images']:.0f} "
        f"searches were given up. {case['seconds'] / case['num_images']:.2f} s an image to encode "
        f"with the measurement of the laws, {case['decode_seconds'] / case['num_images']:.3f} to "
        f"decode. Bits/dim at equal distortion:\n\n"
        f"{table(('RMSE of 255', *(f'{rmse:g}' for rmse in CLOSE)), equal)}"
    )


def picture(cases: list[Json]) -> bytes:
    """Distortion against rate of all cases, as a PNG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from scoreflow.figures.svg import STYLE

    with mpl.rc_context(fname=STYLE), mpl.rc_context({"figure.facecolor": "white"}):
        figure = Figure(figsize=(4.2 * len(cases), 3.2), layout="constrained")
        for place, case in enumerate(cases, 1):
            axes, plot = figure.add_subplot(1, len(cases), place), _plot(case)
            for line in plot.series:
                axes.plot(line.x, line.y, label=line.label)
            axes.set(title=plot.title, xlabel=plot.x_label, ylabel=plot.y_label)
            axes.set_xlim(0, 1.6 * case["rows"][-1]["bits_per_dim"])
            axes.legend()
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=130, facecolor="white")
    return stream.getvalue()


def _plot(case: Json) -> Plot:
    rows = case["rows"]
    error = [row["rmse"] for row in rows]
    lines = [
        Series("real bytes", [row["bits_per_dim"] for row in rows], error),
        Series("KL alone", [row["divergence"] for row in rows], error),
    ]
    for code in dict.fromkeys(row["code"] for row in case["others"]):
        own = [row for row in case["others"] if row["code"] == code]
        x, y = ([row[key] for row in own] for key in ("bits_per_dim", "rmse"))
        lines.append(Series(code, x, y))
    ledger = [row for row in case["ledger"] if row["bits_per_dim"] <= rows[-1]["bits_per_dim"]]
    if ledger:
        x, y = ([row[key] for row in ledger] for key in ("bits_per_dim", "rmse"))
        lines.append(Series("ledger's curve", x, y))
    title = f"{case['run']}, {case['num_images']} images"
    return Plot(title, "rate, bits/dim", "distortion, RMS of 255", tuple(lines), log_y=False)


def run(argv: list[str]) -> None:
    """Measure, and write OUT/NAME.json, .md and .png."""
    parser = OneLineParser("progressive", __doc__ or "")
    parser.add_argument(
        "--case",
        nargs=4,
        action="append",
        required=True,
        metavar=("DIR", "IMAGES", "STOP", "BITS"),
        help="a run, how many test images, the last time, bits of a part at most",
    )
    parser.add_argument("--name", default=NAME, help="of the results")
    parser.add_argument(
        "--fit-images", type=whole_number(2), default=256, help="training images of the laws"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, default=None, help="folder; default results/DEVICE")
    asked = parser.parse_args(argv[1:])
    device = build_device(asked.device)
    cases = []
    for where, *numbers in asked.case:
        if not all(each.isdecimal() and int(each) > 0 for each in numbers):
            raise RequestError(f"--case DIR and three whole numbers from 1 up, got {numbers}")
        images, stop, bits = map(int, numbers)
        wanted = Asked(stop, bits, 0, asked.fit_images)
        cases.append(measured(load_run(Path(where), device), wanted, images))
        say(_text(cases[-1]))
    result = {
        "command": shlex.join(["python", "-m", "benchmarks.progressive", *argv[1:]]),
        "unit": "bits/dim",
        "settings": {"seed": 0, "fit_images": asked.fit_images},
        "rows": cases,
        "device": asked.device,
    }
    out = folder(device, asked.out)
    keep(
        out, asked.name, "Progressive files: real bytes against distortion", result, text_of(cases)
    )
    write_atomic(out / f"{asked.name}.png", picture(cases))


def main(argv: list[str]) -> int:
    """Make the table; returns the exit status, as `scoreflow.cli.main` does."""
    return exit_status("progressive", lambda: run(argv), "stopped")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
