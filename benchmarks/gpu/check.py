"""Agreement of a device with the CPU: noise, samples, likelihood, training and its switches.

    python -m benchmarks.gpu.check [--device cuda] [--out DIR]

The digits' network, with random weights that are not near 0, on both devices from the same
addressed noise, in float32 (TensorFloat-32 off) where nothing else is said. Each row has what it
may differ by, and why. Bits are equal, of the noise and of the units that dropout drops; normals
agree to the last bits of each device's log, sin and cos; float32 products to about 1e-6, which a
sampler's steps and a network's layers may raise a hundred times; less precise products as their
mantissa. Our kernels are compared with torch's own in float64 (not on a CPU, which has none), and
what is asked in float64 agrees to its roundings: a GPU has float64 too. Below compute capability
8.0 the rows of TF32 and bfloat16 are left out, and there is float16 in their place.

Switches of a training (compiled ones on a GPU alone) are compared with the device's own float32
training without any switch: losses and gradient norms of some steps, relative, with the tolerances
of tests/scoreflow/training/test_switches.py. So is a training without our kernels. The
certificate's rows about the network come last, in each precision: its tolerances are its own.
"""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import command_line, measure
from benchmarks.gpu import agreement
from benchmarks.gpu.agreement import Figure, Found
from benchmarks.measure import say
from scoreflow.sde.noise import kernels
from scoreflow.storage.atomic_files import Json

EXACT, ROUGH = 1e-4, 0.02
"""Relative tolerances of a switch: another order of sums, and bfloat16's 8 bits."""
SWITCHES: tuple[tuple[Json, float, str], ...] = (
    ({"channels_last": True}, EXACT, agreement.ADAM),
    ({"micro_batches": 5}, EXACT, agreement.ADAM),
    ({"recompute": True}, EXACT, agreement.ADAM),
    ({"precision": "bfloat16"}, ROUGH, agreement.HALVES["bfloat16"]),
)
COMPILED: tuple[tuple[Json, float, str], ...] = (
    ({"precision": "tf32"}, ROUGH, agreement.HALVES["tf32"]),
    ({"compile": True}, EXACT, agreement.ADAM),
    ({"compile": True, "compile_mode": "reduce-overhead"}, EXACT, agreement.ADAM),
)
"""On a GPU as well: the last is one graph a step."""
CHECKS: tuple[Callable[[torch.device, bool], Found], ...] = (
    agreement.noise,
    agreement.our_kernels,
    agreement.samples,
    agreement.likelihood,
    agreement.training,
)


def switched(device: torch.device) -> list[Json]:
    """A row for each switch, against the device's own training without any."""
    plain, _ = agreement.trained(device)
    found: Found = {}
    able, ours = agreement.precisions(device), kernels.fused_on(device)
    for switches, tolerance, why in SWITCHES + COMPILED * (device.type == "cuda"):
        if switches.get("precision", "float32") not in able:
            continue
        words = ", ".join(f"{key}={value}" for key, value in switches.items())
        say(words)
        rows, _ = agreement.trained(device, **switches)
        named = f"{words}, from {device}'s plain training, relative"
        found[named] = Figure(rows / plain, tolerance, why)
    if ours:
        rows, _ = agreement.without_our_kernels(device)
        named = f"without our kernels, from {device}'s plain training, relative"
        found[named] = Figure(rows / plain, EXACT, agreement.ADAM)
    one = Figure(torch.ones_like(plain), 0.0, "")
    return compared(found, dict.fromkeys(found, one))


def compared(ours: Found, theirs: Found) -> list[Json]:
    """A row for each name: the largest difference, and whether it is allowed."""
    rows = []
    for name, figure in ours.items():
        apart = float((figure.value.double() - theirs[name].value.double()).abs().max())
        row = {
            "name": name,
            "difference": apart if math.isfinite(apart) else None,
            "tolerance": figure.allowed,
            "passed": apart <= figure.allowed,
            "why": figure.why,
        }
        rows.append(row)
    return rows


def table(rows: list[Json]) -> str:
    """The rows as a Markdown table."""
    cells = []
    for r in rows:
        apart = "not finite" if r["difference"] is None else f"{r['difference']:.2g}"
        line = [r["name"], apart, f"{r['tolerance']:.2g}", "yes" if r["passed"] else "NO"]
        cells.append([each.replace("|", "\\|") for each in (*line, r["why"])])
    return measure.table(["", "largest difference", "allowed", "agrees", "why"], cells)


def parsed(argv: list[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The parser, which reports errors, and the arguments."""
    parser = argparse.ArgumentParser(description="agreement of a device with the CPU")
    parser.add_argument("--device", default="")
    parser.add_argument("--out", type=Path, default=None)
    return parser, parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Compare, print the table, and write it; returns 1 if something differs."""
    parser, args = parsed(argv)
    device, cpu = command_line.device_of(parser, args.device), torch.device("cpu")
    rows = []
    for check in CHECKS:
        none = device.type == "cpu" and check is agreement.our_kernels
        say(check.__name__.replace("_", " ") + ": not compared on a CPU, which has none" * none)
        rows += compared(check(device, False), check(cpu, True))
    rows += switched(device)
    say("certificate")
    rows += agreement.certified(device)
    command = f"python -m benchmarks.gpu.check --device {device}"
    result = {"unit": "largest difference", "command": command, "settings": {}}
    result |= {"device": str(device), "rows": rows}
    out = measure.folder(device, args.out)
    measure.keep(out, "check", f"Agreement of {device} with a CPU", result, table(rows))
    print(table(rows))
    return 0 if all(row["passed"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
