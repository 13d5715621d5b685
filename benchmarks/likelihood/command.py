"""The command of the likelihood benchmark: its options, the measurement, the files it writes."""

import os
import shlex
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.command_line import ROOT, OneLineParser, exit_status, whole_number
from benchmarks.gpu.sources import fingerprint
from benchmarks.likelihood import settings
from benchmarks.likelihood.accuracy import curves, gains, truths
from benchmarks.likelihood.bench import Bench, Points, load_bench
from benchmarks.likelihood.budget.z_scores import z_scores
from benchmarks.likelihood.equal_error.comparison import equal_error
from benchmarks.likelihood.equal_error.picture import png
from benchmarks.likelihood.equal_error.reference import reference_of, same_probe
from benchmarks.likelihood.outliers import crowds
from benchmarks.likelihood.probes import divergence
from benchmarks.likelihood.report import markdown
from scoreflow.errors import RequestError, RunError
from scoreflow.runtime.device import build_device
from scoreflow.runtime.environment import environment
from scoreflow.runtime.gpu.tf32 import switch_tf32
from scoreflow.storage.atomic_files import Json, dumps, write_atomic

PARTS = ("equal", "outliers", "solver", "divergence", "budget")
"""What can be measured: seconds at equal error of an image and of a mean; what outliers cost their
batch; the error of the solvers alone, by one probe; the divergence by some fixed probes; whether
the parts of an error budget are right."""
DEFAULT = PARTS[:2]
WORK = Path("runs/bench-likelihood")


@dataclass(frozen=True)
class Options:
    """A command line.

    Attributes:
        workdir: folder of a trained run.
        parts: some of `PARTS`.
        images: of its test set, for all parts but the outliers.
        crowd: images of a batch with two outliers.
        repeats: runs of each row.
        device: where it is measured.
        out: the JSON to write; a Markdown table and a picture go to the same folder.
        work: folder where reference solutions are kept for the next call.
        command: the command line, to reproduce the result.
    """

    workdir: Path
    parts: list[str]
    images: int
    crowd: int
    repeats: int
    device: torch.device
    out: Path
    work: Path
    command: list[str]


def parse(argv: list[str]) -> Options:
    """The options of a command line, or a RequestError."""
    parser = OneLineParser("likelihood", "exact likelihood, timed")
    parser.add_argument("--workdir", type=Path, required=True, help="a trained run's folder")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=DEFAULT, metavar="PART",
                        help=f"of {', '.join(PARTS)}; the first two")  # fmt: skip
    parser.add_argument("--images", type=whole_number(2), default=24, help="of the test set")
    parser.add_argument("--crowd", type=whole_number(3), default=16, help="two of them outliers")
    parser.add_argument("--repeats", type=whole_number(1), default=2, help="of what is cheap")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="JSON; a table goes to the same folder")
    parser.add_argument("--work", type=Path, default=WORK, help="keeps reference solutions")
    own = parser.parse_args(argv[1:])
    device = build_device(own.device)
    out = own.out or ROOT / "results" / device.type / "likelihood-benchmark.json"
    if out.suffix != ".json":
        raise RequestError(f"--out must end in .json, got {out}")
    command = ["python", "-m", "benchmarks.likelihood", *argv[1:]]
    return Options(
        own.workdir, list(own.parts), own.images, own.crowd, own.repeats, device, out, own.work,
        command,
    )  # fmt: skip


def measured(options: Options) -> Json:
    """The record: the parts, settings and environment."""
    start = time.monotonic()
    counts = {"--images": options.images, "--crowd": options.crowd}
    bench = load_bench(options.workdir, options.device, counts)
    for name, folder in (("--out", options.out.parent), ("--work", options.work)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(f"{name} {folder} cannot be written ({error.strerror})") from error
    origin = {"command": shlex.join(options.command), **environment(str(options.device))}
    origin["sources"] = fingerprint()
    shown = settings_of(options, bench)
    points = bench.points(bench.test[: options.images])
    return {
        **_parts(options, bench, points),
        "settings": shown,
        **origin,
        "minutes": (time.monotonic() - start) / 60,
    }


def _parts(options: Options, bench: Bench, points: Points) -> Json:
    """The results of each part that is asked for."""
    found: Json = {}
    if "equal" in options.parts:
        reference = reference_of(bench, points, options.work)
        found["equal_error"] = equal_error(bench, points, reference, options.repeats)
    if "solver" in options.parts:
        truth, rows = truths(bench, points)
        found["truth"] = rows
        found["truth_bits"] = {name: bits.tolist() for name, bits in truth.items()}
        found["methods"] = curves(bench, points, truth, options.repeats)
        found["gains"] = gains(found["methods"])
    if "outliers" in options.parts:
        tolerance = found.get("gains", {}).get("ours_tolerance") or settings.CURVE[0]
        same = same_probe(bench, points, options.work)["as trained"]
        found["crowds"] = crowds(bench, options.crowd, tolerance, same, options.repeats)
    if "divergence" in options.parts:
        count = min(settings.DIVERGENCE_IMAGES, options.images)
        found["divergence"] = divergence(bench, count, options.repeats)
    if "budget" in options.parts:
        found["budget"] = z_scores(bench)
    return found


def settings_of(options: Options, bench: Bench) -> Json:
    """All that the numbers depend on, but the code and the machine's type."""
    return {
        "workdir": str(options.workdir),
        "step": bench.step,
        "parts": options.parts,
        "images": options.images,
        "crowd": options.crowd,
        "repeats": options.repeats,
        "divergence_images": min(settings.DIVERGENCE_IMAGES, options.images),
        "dims": bench.test[0].numel(),
        "num_levels": bench.num_levels,
        "t": bench.t,
        "seed": settings.SEED,
        "usual_schedule": bench.song,
        "cap_seconds": settings.CAP_SECONDS,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg(),
    }


def main(argv: list[str]) -> int:
    """Measure and write; returns the exit status, as `scoreflow.cli.main` does."""
    # scipy's remark on rtol = 0, which the log-density has on purpose
    warnings.filterwarnings("ignore", message="At least one element of `rtol` is too small")
    switch_tf32(False)
    return exit_status("likelihood", lambda: _run(argv), "stopped; nothing was written")


def _run(argv: list[str]) -> None:
    options = parse(argv)
    record = measured(options)
    picture = options.out.with_suffix(".png")
    text = markdown(record, picture.name)
    data = dumps(record, options.out.name, RunError, indent=1)
    write_atomic(options.out, data)
    write_atomic(options.out.with_suffix(".md"), text.encode())
    if "equal_error" in record:
        write_atomic(picture, png(record["equal_error"]["rows"]))
    print(text)
