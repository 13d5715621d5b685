"""A training step of the CIFAR-10 DDPM U-Net (35.7M parameters), against diffusers'.

    python -m benchmarks.training [--device cpu] [--batch 16] [--rounds 3] [--out DIR]
                                  [--variants float32,bfloat16,best]

`benchmarks/contenders.py` describes the step of each.

Variants: float32; float32 with one change, channels_last, compiled, tf32 (on a GPU) or bfloat16
(autocast); half_last (bfloat16, channels-last); gpu (tf32, compiled, channels-last: our defaults
there); best (bfloat16, compiled, channels-last); graphs (the same with CUDA graphs); float16,
float16_last, best16 and graphs16 (the same in float16 with a scaled loss: what is run in place of
bfloat16 by a GPU of a compute capability below 8.0, which has none, nor TF32). By default another
GPU runs float32, channels_last, bfloat16, best and graphs; a CPU float32, channels_last and, where
it supports it, bfloat16.

Each round runs one step of every contender (ten on a GPU), after two steps that are not counted;
figures are medians and quartiles, a ratio is the median of the ratios within a round. Peak rates
are measured in the same run: a product of large matrices, and a 3 x 3 convolution of the network's
size. The share of them is the rate of floating-point operations of the network as it is defined,
by torch's counter: operations that an implementation avoids count too. Peak memory is that of a
separate process; on a GPU what torch has allocated for this contender alone, in its third and
fourth step. Without diffusers (the `bench` extra) its rows are left out.
"""

import argparse
import statistics
import subprocess
import sys

import torch

from benchmarks import command_line, measure
from benchmarks.contenders import MAKERS, VARIANTS, Made, half_on, present, variants_in
from benchmarks.measure import flops_of_an_image, peak_memory, peaks, say, timed, wait
from scoreflow.runtime.environment import BFLOAT16, cpu_flags
from scoreflow.storage.atomic_files import Json

Times = dict[tuple[str, str], dict[str, list[float]]]
"""Seconds of every round, of "step" and "forward", by contender and variant."""


def measured(
    device: torch.device, batch: int, variants: list[str], rounds: int, channels: int
) -> list[Json]:
    """A row for each contender and variant."""
    cases = [(who, variant) for variant in variants for who in present()]
    made, memory_gb = {}, {}
    for case in cases:
        say(f"{', '.join(case)}: first steps")
        made[case], memory_gb[case] = begun(case, device, batch, channels)
    times = timed_in_turn(made, rounds, device)
    network = made["ours", variants[0]][2]
    flops = flops_of_an_image(
        network.to(memory_format=torch.contiguous_format), (3, 32, 32), device
    )
    rows = []
    for who, variant in cases:
        peak = peaks(device, batch, VARIANTS[variant]["precision"], channels)
        found = row(who, variant, times, batch, flops, peak)
        rows.append({**found, "memory_gb": memory_gb[who, variant]})
    return rows


def timed_in_turn(made: dict[tuple[str, str], Made], rounds: int, device: torch.device) -> Times:
    """The seconds of all contenders, which have taken their first steps, round after round."""
    count = 10 if device.type == "cuda" else 1
    times: Times = {case: {"step": [], "forward": []} for case in made}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for case, (step, forward, _) in made.items():
            times[case]["step"].append(timed(step, count, device))
            times[case]["forward"].append(timed(forward, count, device))
    return times


def begun(
    case: tuple[str, str], device: torch.device, batch: int, channels: int
) -> tuple[Made, float]:
    """A contender after its first steps, and its peak memory, GB.

    On a GPU others lie beside it, and what they hold is taken off; compiling is over by then.
    """
    who, variant = case
    on_gpu = device.type == "cuda"
    others = torch.cuda.memory_allocated(device) if on_gpu else 0
    made = MAKERS[who](device, batch, variant, channels)
    step, forward, _ = made
    step(2)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
        step(2)
        memory_gb = peak_memory(device) - others / 1e9
    else:
        memory_gb = memory(who, variant, device, batch, channels)
    forward(2)
    return made, memory_gb


def row(who: str, variant: str, times: Times, batch: int, flops: float, peak: Json) -> Json:
    """The row of one contender in one variant.

    Args:
        who: the contender.
        variant: one of `VARIANTS`.
        times: of all of them.
        batch: images a step.
        flops: of a forward pass of one image.
        peak: rates of the machine, of `measure.peaks`.
    """
    step, forward = times[who, variant]["step"], times[who, variant]["forward"]
    seconds = measure.middle("seconds", step)
    rate = batch / seconds["seconds"]
    return {
        "who": who,
        "variant": variant,
        **seconds,
        "images_per_second": rate,
        "forward_images_per_second": batch / statistics.median(forward),
        "ratio": ratio_to_diffusers(times, who, variant),
        "share_of_matrix_product": 3 * flops * rate / 1e9 / peak["matrix_product"],
        "share_of_convolution": 3 * flops * rate / 1e9 / peak["convolution"],
        "gflop_an_image_forward": flops / 1e9,
        "peak_gflops": peak,
    }


def ratio_to_diffusers(times: Times, who: str, variant: str) -> float | None:
    """How many times as fast as diffusers; None where that is not measured."""
    if ("diffusers", variant) not in times:
        return None
    return measure.ratio(times["diffusers", variant]["step"], times[who, variant]["step"])


def memory(who: str, variant: str, device: torch.device, batch: int, channels: int) -> float:
    """Peak memory of a separate process that takes three steps, in GB."""
    command = [sys.executable, "-m", "benchmarks.training", f"--memory-of={who}:{variant}"]
    command += [f"--device={device}", f"--batch={batch}", f"--channels={channels}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def print_memory(who: str, variant: str, device: torch.device, batch: int, channels: int) -> None:
    """Take three steps and print the peak memory: the process that `memory` starts."""
    MAKERS[who](device, batch, variant, channels)[0](3)
    wait(device)
    print(peak_memory(device))


def table(rows: list[Json]) -> str:
    """The rows as a Markdown table."""
    head = ["", "variant", "s a step", "images/s", "x diffusers", "forward images/s"]
    head += ["of matrix peak", "of convolution peak", "peak memory, GB"]
    cells = []
    for r in rows:
        line = [r["who"], r["variant"], measure.shown(r, "seconds")]
        line += [f"{r['images_per_second']:.2f}"]
        line += [measure.number(r["ratio"]), f"{r['forward_images_per_second']:.2f}"]
        line += [f"{r['share_of_matrix_product']:.0%}", f"{r['share_of_convolution']:.0%}"]
        cells.append([*line, f"{r['memory_gb']:.2f}"])
    return measure.table(head, cells)


def parsed(argv: list[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The parser, which reports errors, and the arguments."""
    parser = command_line.parser_of("a training step, against diffusers'")
    command_line.add_channels(parser)
    parser.add_argument("--variants", default="", help=f"of {','.join(VARIANTS)}")
    parser.add_argument("--memory-of", default="", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    command_line.check_counts(parser, args)
    return parser, args


def main(argv: list[str] | None = None) -> None:
    """Measure, print the table, and write it."""
    parser, args = parsed(argv)
    device = command_line.device_of(parser, args.device)
    on_gpu = device.type == "cuda"
    batch = args.batch or (128 if on_gpu else 16)
    if args.memory_of:
        print_memory(*args.memory_of.split(":"), device, batch, args.channels)
        return
    default = ["float32", "channels_last"]
    default += ["bfloat16"] if on_gpu or cpu_flags() & BFLOAT16 else []
    default += ["best", "graphs"] if on_gpu else []
    default = variants_in(half_on(device), default)
    variants = command_line.variants_of(parser, args.variants, VARIANTS, default)
    rows = measured(device, batch, variants, args.rounds, args.channels)
    command = f"python -m benchmarks.training --device {device} --batch {batch}"
    command += f" --rounds {args.rounds} --variants {','.join(variants)}"
    command += command_line.channels_of(args)
    settings = {"batch": batch, "rounds": args.rounds, "threads": torch.get_num_threads()}
    settings["channels"] = args.channels
    result = {"unit": "seconds a training step", "command": command, "settings": settings}
    result |= {"device": str(device), "rows": rows}
    title, text = "A training step of the CIFAR-10 DDPM U-Net", table(rows)
    measure.keep(measure.folder(device, args.out), "training", title, result, text)
    print(text)


if __name__ == "__main__":
    main()
