"""How time and memory of a training step grow with resolution, batch and processes.

    python -m benchmarks.growth [--device cpu] [--rounds 3] [--out DIR] [--limit GB]
                                [--resolutions 32,64,128,256] [--batches 1,2,4,8,16,32]
                                [--processes 1,2]

Steps of the project's own `Trainer`, channels-last, float32 on a CPU and bfloat16 on a GPU; each
case runs in a separate process (`benchmarks/growth/case.py`). Resolution grows at a batch of 1 on
a CPU and 16 on a GPU, with and without training.recompute; the batch grows at 32 x 32, its two
largest also in four micro-batches; processes at a fixed total batch, one thread each on a CPU, one
GPU each otherwise, with and without the exchange of gradients. What limits a row is decided by the
rules of `benchmarks/growth/rules.py`, which the table repeats.

An empty list (--batches=) leaves that part of the table out. A case whose memory, predicted from
the row before, exceeds `--limit` (the memory of the machine or the GPU) is not tried; that, or a
process that dies, is reported in the row.
"""

import argparse
import math
import os
import statistics
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch

from benchmarks import command_line, measure
from benchmarks.growth.case import LAYOUTS, Case, precision_of
from benchmarks.growth.launch import run
from benchmarks.growth.rules import RULES, limited_by, too_large
from benchmarks.measure import say
from scoreflow.storage.atomic_files import Json

BYTES_A_PARAMETER = 20
"""Bytes of weight, gradient, two moments and average in float32."""
MICRO_BATCHES = 4
Run = Callable[[Case, str, int], Json]


def cases(
    device: torch.device, resolutions: list[int], batches: list[int], processes: list[int]
) -> list[Case]:
    """All cases, smaller ones before larger ones of their kind."""
    on_gpu = device.type == "cuda"
    batch = 16 if on_gpu else 1
    found = [
        Case("resolution", resolution, batch, recompute)
        for recompute in (False, True)
        for resolution in resolutions
    ]
    found += [Case("batch", 32, batch) for batch in batches]
    found += [
        Case("batch", 32, batch, micro_batches=MICRO_BATCHES)
        for batch in batches[-2:]
        if batch >= MICRO_BATCHES
    ]
    batch, threads = (256, 0) if on_gpu else (8, 1)
    for count in processes:
        for exchange in (True, False)[: 1 if count == 1 else 2]:
            case = Case("processes", 32, batch, processes=count, exchange=exchange)
            found.append(replace(case, threads=threads))
    return found


def row(case: Case, found: Json) -> Json:
    """The row of a case, without what limits it."""
    if found["failed"]:
        return {**asdict(case), "failed": found["failed"]}
    low, middle, high = statistics.quantiles(found["seconds"], n=4)
    rate = case.batch / middle
    passes = 4 if case.recompute else 3
    weights = BYTES_A_PARAMETER * found["parameters"] / 1e9
    beyond = found["peak_gb"] - found["base_gb"] - weights
    gflop = passes * found["gflop_an_image_forward"]
    return {
        **asdict(case),
        **found,
        "seconds": middle,
        "seconds_low": low,
        "seconds_high": high,
        "seconds_each": found["seconds"],
        "images_per_second": rate,
        "gflop_an_image": gflop,
        "share_of_convolution": gflop * rate / found["convolution_gflops"],
        "weights_gb": weights,
        "gb_an_image": beyond / (case.batch / case.processes),
    }


def measured(cases: list[Case], device: str, rounds: int, limit: float, run: Run) -> list[Json]:
    """A row for each case, with what limits it.

    Args:
        cases: in order of growth.
        device: its name.
        rounds: timed steps of a case.
        limit: available memory, GB.
        run: (case, device, rounds) -> the figures of a case.
    """
    rows: list[Json] = []
    for number, case in enumerate(cases, start=1):
        say(f"case {number} of {len(cases)}: {named(asdict(case))}")
        unfit = too_large(asdict(case), rows, limit)
        rows.append(row(case, {"failed": unfit} if unfit else run(case, device, rounds)))
    return [{**each, "limited_by": limited_by(each, rows, limit)} for each in rows]


def named(row: Json) -> str:
    """A case in words."""
    words = [f"{row['resolution']} x {row['resolution']}", f"batch {row['batch']}"]
    words += ["recompute"] * row["recompute"]
    words += [f"{row['micro_batches']} micro-batches"] * (row["micro_batches"] > 1)
    if row["axis"] == "processes":
        words.append(f"{row['processes']} process" + "es" * (row["processes"] > 1))
    words += ["without exchange"] * (not row["exchange"])
    return ", ".join(words)


def table(rows: list[Json]) -> str:
    """The rows as a Markdown table."""
    head = ["grows", "case", "s a step", "images/s", "GFLOP an image", "of convolution peak"]
    head += ["peak GB", "of them weights' share", "GB an image beyond", "limited by"]
    return measure.table(head, [cells(each) for each in rows])


def cells(row: Json) -> list[str]:
    """The cells of a row."""
    if row["failed"]:
        return [row["axis"], named(row), row["failed"], *[""] * 6, row["limited_by"]]
    seconds = f"{row['seconds']:.3f} ({row['seconds_low']:.3f}-{row['seconds_high']:.3f})"
    line = [row["axis"], named(row), seconds, f"{row['images_per_second']:.2f}"]
    line += [f"{row['gflop_an_image']:.0f}", f"{row['share_of_convolution']:.0%}"]
    line += [f"{row['peak_gb']:.2f}", f"{row['weights_gb']:.2f}", f"{row['gb_an_image']:.3f}"]
    return [*line, row["limited_by"]]


def notes(device: torch.device, limit: float, left_out: list[int]) -> str:
    """Notes below the table: layouts, arithmetic, definitions, rules."""
    layouts = "; ".join(f"{size}: {each['multipliers']}" for size, each in LAYOUTS.items())
    text = f"""128 channels, attention at 16 x 16; multipliers {layouts}.
Those of 32 and 256 are DDPM's (Appendix B), those of 64 and 128 lie between them and are ours.
{arithmetic_of(device)}. Seconds: median and middle half. An image's GFLOP: three forward
passes', with recompute four, at most, of the network as it is defined, a doubling as repeat and
3 x 3 convolution: what an implementation does without counts as done, here and in the share. The
peak is that of a 3 x 3 convolution of 256 channels, measured by each case's own processes after
its steps. Peak GB: of a process; the weights' share: {BYTES_A_PARAMETER} bytes a
parameter (weight, gradient, two moments, average), computed; beyond: less that, and less what the
process had before there was a network; it has a part that is the same for any batch.
Limit: {limit:.1f} GB."""
    if left_out:
        text += f"\n\nNot measured, for want of GPUs: {', '.join(map(str, left_out))} processes."
    return f"{text}\n\n{RULES}"


def arithmetic_of(device: torch.device) -> str:
    """Precision and memory format of the steps, in words."""
    return f"{precision_of(device.type == 'cuda')}, channels-last"


def memory_gb(device: torch.device) -> float:
    """Memory of the GPU, or of the machine, in GB."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / 1e9
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments, checked, with the defaults of this device."""
    parser = argparse.ArgumentParser("benchmarks.growth", description="how a training step grows")
    parser.add_argument("--device", default="")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--limit", type=float, default=0.0, help="GB; 0 for what there is")
    parser.add_argument("--resolutions", default=",".join(map(str, LAYOUTS)))
    parser.add_argument("--batches", default=None)
    parser.add_argument("--processes", default="1,2")
    command_line.add_channels(parser)
    args = parser.parse_args(argv)
    if args.rounds < 2 or not 0 <= args.limit < math.inf:
        parser.error(
            f"--rounds must be 2 or more and --limit a number of GB, 0 or more, got "
            f"{args.rounds} and {args.limit:g}"
        )
    args.device = command_line.device_of(parser, args.device)
    on_gpu = args.device.type == "cuda"
    if args.batches is None:
        args.batches = "16,32,64,128,256,512,1024" if on_gpu else "1,2,4,8,16,32"
    _read_lists(parser, args)
    args.limit = args.limit or memory_gb(args.device)
    return args


AXES = ("resolutions", "batches", "processes")
"""Options that list whole numbers; each is a part of the table."""


def _read_lists(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Turn the text of the lists into sorted numbers; argparse's error for what is no list."""
    try:
        for name in AXES:
            numbers = {int(each) for each in getattr(args, name).split(",") if each}
            setattr(args, name, sorted(numbers))
    except ValueError:
        parser.error(f"--{name} must be whole numbers, as 1,2, got {getattr(args, name)!r}")
    if unknown := set(args.resolutions) - set(LAYOUTS):
        parser.error(f"--resolutions must be among {list(LAYOUTS)}, got {sorted(unknown)}")
    for name in ("batches", "processes"):
        if min([*getattr(args, name), 1]) < 1:
            parser.error(f"--{name} must be 1 or more, got {getattr(args, name)}")
    if not (args.resolutions or args.batches or args.processes):
        parser.error("--resolutions, --batches and --processes must not all be empty")


def main(argv: list[str] | None = None) -> None:
    """Measure, print the table, and write it."""
    args = parse(argv)
    device, there = args.device, torch.cuda.device_count()
    left_out = [k for k in args.processes if device.type == "cuda" and k > there]
    if left_out:
        say(f"{there} GPU: {left_out} processes are not measured")
    processes = [k for k in args.processes if k not in left_out]
    every = cases(device, args.resolutions, args.batches, processes)
    every = [replace(case, channels=args.channels) for case in every]
    rows = measured(every, str(device), args.rounds, args.limit, run)
    command = f"python -m benchmarks.growth --device {device} --rounds {args.rounds}"
    for name in AXES:
        command += f" --{name}={','.join(map(str, getattr(args, name)))}"
    command += command_line.channels_of(args)
    settings = {"rounds": args.rounds, "limit_gb": args.limit}
    settings |= {
        "threads": torch.get_num_threads(),
        "arithmetic": arithmetic_of(device),
        "layouts": {str(k): v for k, v in LAYOUTS.items()},
    }
    result = {"unit": "seconds a training step", "command": command, "settings": settings}
    result |= {"device": str(device), "rows": rows}
    text = f"{table(rows)}\n\n{notes(device, args.limit, left_out)}"
    title = "How a training step grows with resolution, batch and processes"
    measure.keep(measure.folder(device, args.out), "growth", title, result, text)
    print(text)
