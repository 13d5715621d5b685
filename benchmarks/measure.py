"""What all benchmarks use: clocks, peak rates, a trained run, tables, files of results."""

import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.sources import fingerprint
from scoreflow.models.layers import Doubling
from scoreflow.models.score_model import HALF, arithmetic
from scoreflow.runtime.environment import environment
from scoreflow.storage.atomic_files import Json, dumps, write_atomic
from scoreflow.trained_run import TrainedRun, load

CHANNELS = 128
"""Of the CIFAR-10 DDPM U-Net."""
Steps = Callable[[int], object]
"""Runs a number of steps."""


def load_run(workdir: Path, device: torch.device) -> TrainedRun:
    """`scoreflow.load` with the weights read at once, and its remarks on stderr.

    Raises:
        RequestError: the folder holds no run, no checkpoint, or a config that is not valid.
    """
    with redirect_stdout(sys.stderr):
        run = load(workdir, str(device))
        run.model  # noqa: B018, as it is read when first used
    return run


def say(line: str) -> None:
    """Print progress on stderr."""
    print(line, file=sys.stderr, flush=True)


def timed(steps: Steps, count: int, device: torch.device) -> float:
    """Seconds of one step."""
    wait(device)
    start = time.perf_counter()
    steps(count)
    wait(device)
    return (time.perf_counter() - start) / count


def wait(device: torch.device) -> None:
    """Wait until the device has finished all that was queued on it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> float:
    """Peak memory of this process, GB: allocated by torch on a GPU, else its resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    # ru_maxrss of a child starts at its parent's
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9


def peaks(device: torch.device, batch: int, precision: str, channels: int = CHANNELS) -> Json:
    """Peak rates of the machine, in GFLOP/s: of a matrix product and of a convolution.

    Args:
        device: where they run.
        batch: images of the convolution.
        precision: "float32", "tf32", "bfloat16" or "float16".
        channels: of the network; the convolution has twice as many, and the matrices grow alike.
    """
    dtype = HALF.get(precision, torch.float32)
    side, wide = (64 if device.type == "cuda" else 16) * channels, 2 * channels
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    x = torch.randn(batch, wide, 32, 32, device=device, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last) if device.type == "cuda" else x
    weight = torch.randn(wide, wide, 3, 3, device=device, dtype=dtype)
    work = {
        "matrix_product": (lambda: a @ b, 2 * side**3),
        "convolution": (lambda: F.conv2d(x, weight, padding=1), 2 * batch * 1024 * 9 * wide**2),
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

    Counted for the network as it is defined: operations that an implementation avoids count too.
    """
    x, index = torch.zeros(1, *x_shape, device=device), torch.zeros(1, device=device)
    defined = patch.object(Doubling, "forward", nn.Sequential.forward)
    with torch.no_grad(), defined, FlopCounterMode(display=False) as counter:
        network(x, index)
    return float(counter.get_total_flops())


def middle(prefix: str, values: Sequence[float]) -> Json:
    """Median and quartiles as entries of a row: PREFIX, PREFIX_low and PREFIX_high."""
    low, median, high = statistics.quantiles(values, n=4)
    return {prefix: median, f"{prefix}_low": low, f"{prefix}_high": high}


def ratio(ours: Iterable[float], theirs: Iterable[float]) -> float:
    """Median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def shown(row: Json, name: str, form: str = ".3f") -> str:
    """Text of an entry of `middle`: median (low-high)."""
    low, median, high = (row[f"{name}{end}"] for end in ("_low", "", "_high"))
    return f"{median:{form}} ({low:{form}}-{high:{form}})"


def number(value: float | None, form: str = ".2f") -> str:
    """A number of a table; a dash where there is none."""
    return "-" if value is None else f"{value:{form}}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(cells) + " |" for cells in rows])


def folder(device: torch.device, out: Path | None) -> Path:
    """Folder of this device's results: `out`, or results/DEVICE; created if missing."""
    name = "cpu"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device).lower().replace(" ", "-")
    out = out or Path("results") / name
    out.mkdir(parents=True, exist_ok=True)
    return out


def keep(out: Path, name: str, title: str, result: Json, text: str) -> None:
    """Write NAME.json, with the environment it was made in, and NAME.md.

    Args:
        out: an existing folder.
        name: of both files, without ending.
        title: heading of the Markdown.
        result: with `command`, `unit`, `settings`, `rows` and `device`.
        text: the table, and notes for its reader.
    """
    where = {**environment(str(result["device"])), "sources": fingerprint()}
    if "diffusers" in sys.modules:  # it was measured too
        where = {**where, "diffusers": sys.modules["diffusers"].__version__}
    write_atomic(out / f"{name}.json", dumps({**result, "environment": where}, name, ValueError))
    written = f"# {title}\n\n    {result['command']}\n\n{text}\n"
    write_atomic(out / f"{name}.md", written.encode())
