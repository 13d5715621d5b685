"""What benchmarks share: clocks, the machine's own peaks, tables, and where results are kept."""

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from scoreflow import factory
from scoreflow.errors import RequestError
from scoreflow.models.score_model import arithmetic
from scoreflow.models.unet_blocks import Doubling
from scoreflow.runtime.environment import environment
from scoreflow.storage.atomic_files import Json, dumps, write_atomic

Steps = Callable[[int], object]
"""Does a number of steps."""


def timed(steps: Steps, count: int, device: torch.device) -> float:
    """Seconds of one step."""
    wait(device)
    start = time.perf_counter()
    steps(count)
    wait(device)
    return (time.perf_counter() - start) / count


def wait(device: torch.device) -> None:
    """Until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> float:
    """Of this process, in GB: on a GPU what torch has allocated, else all that lay in memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    # ru_maxrss begins, in a child, with what its parent had
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9


def peaks(device: torch.device, batch: int, precision: str) -> Json:
    """The machine's own rates, in GFLOP/s: a product of matrices, and a convolution's.

    Args:
        device: where.
        batch: of the convolution.
        precision: "float32", "tf32" or "bfloat16".
    """
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    x = torch.randn(batch, 256, 32, 32, device=device, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last) if device.type == "cuda" else x
    weight = torch.randn(256, 256, 3, 3, device=device, dtype=dtype)
    work = {
        "matrix_product": (lambda: a @ b, 2 * side**3),
        "convolution": (lambda: F.conv2d(x, weight, padding=1), 2 * batch * 1024 * 9 * 256**2),
    }
    found = {}
    with arithmetic(precision), torch.no_grad():
        for name, (run, flops) in work.items():
            run()
            seconds = min(timed(lambda n, run=run: [run() for _ in range(n)], 5, device)
                          for _ in range(3))  # fmt: skip
            found[name] = flops / seconds / 1e9
    return found


def flops_of_an_image(network: nn.Module, x_shape: Sequence[int], device: torch.device) -> float:
    """Floating-point operations of a forward pass; a training step has three times as many.

    Of the network as it is defined: what an implementation does without counts as done.
    """
    x, index = torch.zeros(1, *x_shape, device=device), torch.zeros(1, device=device)
    defined = patch.object(Doubling, "forward", nn.Sequential.forward)
    with torch.no_grad(), defined, FlopCounterMode(display=False) as counter:
        network(x, index)
    return float(counter.get_total_flops())


def middle(prefix: str, values: Sequence[float]) -> Json:
    """Median and middle half, as a row has them: NAME, NAME_low and NAME_high."""
    low, median, high = statistics.quantiles(values, n=4)
    return {prefix: median, f"{prefix}_low": low, f"{prefix}_high": high}


def ratio(ours: Iterable[float], theirs: Iterable[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def shown(row: Json, name: str, form: str = ".3f") -> str:
    """What `middle` put into a row, in words."""
    low, median, high = (row[f"{name}{end}"] for end in ("_low", "", "_high"))
    return f"{median:{form}} ({low:{form}}-{high:{form}})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(cells) + " |" for cells in rows])


def parser_of(description: str) -> argparse.ArgumentParser:
    """What every benchmark is asked: --device, --batch, --rounds and --out."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("--device", default="", help="cpu, cuda or cuda:N; the best one found")
    parser.add_argument("--batch", type=int, default=0, help="images; 0 for the device's own")
    parser.add_argument("--rounds", type=int, default=3, help="2 or more")
    parser.add_argument("--out", type=Path, default=None, help="folder; default results/DEVICE")
    return parser


def device_of(parser: argparse.ArgumentParser, asked: argparse.Namespace) -> torch.device:
    """The device of a command line that has rounds and a batch; else argparse's error."""
    if asked.rounds < 2 or asked.batch < 0:
        parser.error(
            f"--rounds must be 2 or more and --batch 1 or more (0 for the device's own), got "
            f"{asked.rounds} and {asked.batch}"
        )
    try:
        return factory.build_device(asked.device)
    except RequestError as error:
        parser.error(str(error))


def variants_of(
    parser: argparse.ArgumentParser, asked: str, known: Iterable[str], usual: Iterable[str]
) -> list[str]:
    """The variants named on a command line, the usual ones if none are; else argparse's error."""
    variants, known = asked.split(",") if asked else list(usual), list(known)
    if unknown := sorted(set(variants) - set(known)):
        parser.error(f"--variants must be of {', '.join(known)}, got {', '.join(unknown)}")
    return variants


def folder(device: torch.device, out: Path | None) -> Path:
    """Where results of this device go: `out`, or results/ and its name; made if it is missing."""
    name = "cpu"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device).lower().replace(" ", "-")
    out = out or Path("results") / name
    out.mkdir(parents=True, exist_ok=True)
    return out


def keep(out: Path, name: str, title: str, result: Json, text: str) -> None:
    """Write NAME.json, with where it was made, and NAME.md.

    Args:
        out: folder, there.
        name: of both files.
        title: of the Markdown.
        result: with `command`, `unit`, `settings`, `rows` and `device`.
        text: the table, and what else a reader needs.
    """
    where = environment(str(result["device"]))
    if "diffusers" in sys.modules:  # it ran beside
        where = {**where, "diffusers": sys.modules["diffusers"].__version__}
    write_atomic(out / f"{name}.json", dumps({**result, "environment": where}, name, ValueError))
    written = f"# {title}\n\n    {result['command']}\n\n{text}\n"
    write_atomic(out / f"{name}.md", written.encode())
