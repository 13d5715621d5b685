"""Memory of a training against the size of its data: `python -m benchmarks.large_data`.

Sets of 256 x 256 RGB images are made as PNG files (a few pictures under many names, so that making
them is no work), decoded by a training into its store, and trained on for some steps; every
training is a process of its own. Peak memory is what the system says that it ever held (VmHWM).
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.command_line import OneLineParser, exit_status
from benchmarks.measure import folder, keep, peak_memory, say, table
from scoreflow.errors import RunError
from scoreflow.storage.atomic_files import Json

SIDE, PICTURES = 256, 64
IMAGE_BYTES = 3 * SIDE * SIDE
BATCH = 4
KINDS = ("decoded into the store", "from the store", "in memory")


def make_images(root: Path, gigabytes: float) -> int:
    """Write a set of so many bytes once it is decoded; how many images it has."""
    root.mkdir(parents=True)
    count = int(gigabytes * 1e9 / IMAGE_BYTES)
    generator = np.random.default_rng(0)
    for k in range(min(PICTURES, count)):
        pixels = generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{k:08d}.png", compress_level=0)
    for k in range(PICTURES, count):
        os.link(root / f"{k % PICTURES:08d}.png", root / f"{k:08d}.png")
    return count


def train(data: Path, work: Path, cache: str, steps: int) -> Json:
    """Train on a set in this process: seconds to the first step and after it, and peak memory."""
    import scoreflow as sf

    tiny = {
        "data": {"name": "images", "path": str(data), "cache": cache},
        "model": {"channels": 8, "num_groups": 4, "blocks": 1, "multipliers": (1, 1)}
        | {"attention_sizes": (), "attention_middle": False},
        "training": {"num_steps": steps, "batch_size": BATCH, "log_every": 1}
        | {"checkpoint_every": steps},
    }
    start, first = time.perf_counter(), 0.0
    for interval in sf.train("default", work, tiny, "cpu"):
        first = first or time.perf_counter() - start
        assert interval.loss > 0, "it learns something"
    rest = time.perf_counter() - start - first
    return {
        "peak_gb": peak_memory(torch.device("cpu")),
        "seconds_to_first_step": first,
        "seconds_a_step": rest / (steps - 1),
    }


def measured(data: Path, work: Path, cache: str, steps: int) -> Json:
    """The same in a process of its own.

    Raises:
        RunError: it failed.
    """
    call = f"train(Path({str(data)!r}), Path({str(work)!r}), {cache!r}, {steps})"
    code = f"import json; from benchmarks.large_data import *; print(json.dumps({call}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"the training failed: {done.stderr.strip().splitlines()[-1:]}")
    found: Json = json.loads(done.stdout.splitlines()[-1])
    return found


def rows_of(sizes: list[float], steps: int, scratch: Path) -> list[Json]:
    """A row a size and kind; the smallest set alone is trained on in memory as well."""
    rows = []
    for size in sorted(sizes):
        place = scratch / f"{size:g}"
        count = make_images(place / "images", size)
        for kind in KINDS if size == min(sizes) else KINDS[:2]:
            cache = "" if kind == KINDS[2] else str(place / "cache")
            work = place / kind.replace(" ", "-")
            row = {"gigabytes": size, "images": count, "kind": kind}
            rows.append(row | measured(place / "images", work, cache, steps))
            say(json.dumps(rows[-1]))
        shutil.rmtree(place)
    return rows


def _table(rows: list[Json]) -> str:
    head = ("GB decoded", "images", "where", "peak memory, GB", "s to the first step", "s a step")
    names = ("gigabytes", "images", "kind", "peak_gb", "seconds_to_first_step", "seconds_a_step")
    forms = ("g", "d", "s", ".3f", ".1f", ".3f")
    cells = [[format(row[n], f) for n, f in zip(names, forms, strict=True)] for row in rows]
    stored = [row["peak_gb"] for row in rows if row["kind"] == KINDS[1]]
    spread = max(stored) / min(stored) - 1
    note = (
        f"From the store the greatest peak is {100 * spread:.1f} % above the least. Seconds are "
    )
    note += "those of one training each, beside whatever else the machine did."
    return f"{table(head, cells)}\n\n{note}"


def main() -> None:
    """The command line."""
    parser = OneLineParser("python -m benchmarks.large_data", __doc__ or "")
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1.0, 8.0])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--scratch", type=Path, help="a folder with room for twice the largest")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        rows = rows_of(arguments.gigabytes, arguments.steps, Path(scratch))
    sizes = " ".join(f"{size:g}" for size in arguments.gigabytes)
    result: Json = {
        "command": f"python -m benchmarks.large_data --gigabytes {sizes}",
        "unit": "GB, seconds",
        "settings": {"side": SIDE, "batch": BATCH, "steps": arguments.steps},
        "rows": rows,
        "device": "cpu",
    }
    out = folder(torch.device("cpu"), arguments.out)
    keep(out, "large_data", "Memory against the size of the data", result, _table(rows))
    print(_table(rows))


if __name__ == "__main__":
    sys.exit(exit_status("large_data", main, "interrupted: nothing is kept"))
