"""`python -m benchmarks.ablation --data DIR`: what an experiment's choices are worth in bits/dim.

Trains configs/mnist_likelihood.py for a short while as it is, and once for each of its choices
with another value in its place (what --work has already is taken from there), all from the same
seed, on the same images with the same noise. Measured is the exact likelihood of test images, with
the same dequantization, nodes and probes for all, so that differences are pairs of images. The
noise of training is not in their errors: one seed.
"""

import json
import math
import shlex
import sys
import time
from pathlib import Path

import torch

import scoreflow as sf
from benchmarks.command_line import OneLineParser, exit_status, whole_number
from benchmarks.measure import folder, keep, load_run, say, table
from scoreflow.runtime.device import build_device
from scoreflow.storage.atomic_files import Json, dumps, write_atomic
from scoreflow.uncertainty import mean_and_error

EXPERIMENT = "mnist_likelihood"
CHOICES: dict[str, Json] = {
    "as it is": {},
    "prediction = v": {"model.prediction": "v"},
    "label = time": {"model.label": "time"},
    "times = integer": {"training.times": "integer"},
    "two halvings": {"model.multipliers": [1, 2, 2], "model.blocks": 2},
    "batch of 64, half the steps": {"training.batch_size": 64},
    "64 channels, 2 blocks": {"model.channels": 64, "model.blocks": 2},
}
"""What each sets in the experiment's place."""


def values_of(name: str, steps: int, data: str) -> Json:
    """The keys of one training."""
    steps //= 2 if CHOICES[name].get("training.batch_size") == 64 else 1
    return {
        "data.path": data,
        "training.num_steps": steps,
        "training.warmup_steps": min(100, steps // 3),
        "training.ema_decay": 0.99,
        "training.checkpoint_every": steps,
        "training.log_every": 10,
        **CHOICES[name],
    }


def measured(work: Path, name: str, asked: Json, device: str) -> Json:
    """Seconds of a training, and bits/dim of each image, from a file if that is there."""
    at = work / name.replace(" ", "_").replace("=", "is").replace(",", "")
    kept = at.with_suffix(".json")
    if kept.exists():
        found: Json = json.loads(kept.read_text())
        if found["asked"] != asked:
            raise sf.RequestError(f"--work: {kept} is of another request: remove it")
        return found
    values = values_of(name, asked["steps"], asked["data"])
    begun = time.monotonic()
    for each in sf.train(EXPERIMENT, at, values, device):
        if each.step % 50 == 0:
            say(f"{name}: step {each.step}, loss {each.loss:.4f}")
    seconds = time.monotonic() - begun
    run = load_run(at, build_device(device))
    images = run.data.test[: asked["images"]]
    bits = run.log_likelihood(images, nodes=asked["nodes"], probes=1, checked=0).bits_per_dim
    parameters = sum(each.numel() for each in run.model.network.parameters())
    found = {"asked": asked, "seconds": seconds, "parameters": parameters, "bits": bits.tolist()}
    write_atomic(kept, dumps(found, "ablation", ValueError))
    return found


def row(name: str, found: Json, first: Json) -> Json:
    """A choice's figures, and its difference from the experiment's own in pairs of images."""
    bits, own = (torch.tensor(each["bits"], dtype=torch.float64) for each in (found, first))
    value, error = mean_and_error(bits)
    more, of_pairs = mean_and_error(bits - own)
    return {
        "choice": name,
        "sets": CHOICES[name],
        "bits": value,
        "error": error,
        "more": more,
        "more_error": of_pairs,
        "seconds": found["seconds"],
        "parameters": found["parameters"],
    }


def text_of(rows: list[Json]) -> str:
    """The table in Markdown."""
    head = ["choice", "bits/dim", "more than as it is", "parameters"]
    return table(
        head,
        [
            [
                each["choice"],
                f"{each['bits']:.3f} ± {each['error']:.3f}",
                "" if each is rows[0] else f"{each['more']:+.3f} ± {each['more_error']:.3f}",
                f"{each['parameters']:,}",
            ]
            for each in rows
        ],
    )


def run(argv: list[str]) -> None:
    """Train what is missing, measure, and write OUT/ablation.json and .md."""
    parser = OneLineParser("ablation", __doc__ or "")
    parser.add_argument("--data", required=True, help="folder of MNIST's Parquet files")
    parser.add_argument("--work", type=Path, default=Path("runs/bench-ablation"), help="folder")
    parser.add_argument("--steps", type=whole_number(30), default=300, help="of a training")
    parser.add_argument("--images", type=whole_number(2), default=128, help="of the test set")
    parser.add_argument("--nodes", type=whole_number(4), default=16, help="of a likelihood")
    parser.add_argument("--choices", default=",".join(map(str, range(len(CHOICES)))),
                        help=f"by number: {'; '.join(CHOICES)}")  # fmt: skip
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, default=None, help="folder; default results/DEVICE")
    asked = parser.parse_args(argv[1:])
    numbers, names = asked.choices.split(","), list(CHOICES)
    if numbers[0] != "0" or not set(numbers) <= set(map(str, range(len(names)))):
        parser.error(f"--choices must be of 0..{len(names) - 1}, 0 first, got {asked.choices}")
    names_of_request = ("data", "steps", "images", "nodes", "device")
    request = {name: getattr(asked, name) for name in names_of_request}
    found = {
        names[int(number)]: measured(asked.work, names[int(number)], request, asked.device)
        for number in numbers
    }
    rows = [row(name, each, found[names[0]]) for name, each in found.items()]
    told = [word if word != asked.data else "DIR" for word in argv[1:]]
    result = {
        "command": shlex.join(["python", "-m", "benchmarks.ablation", *told]),
        "unit": "bits/dim",
        "experiment": EXPERIMENT,
        "settings": {
            name: value for name, value in request.items() if name not in ("data", "device")
        },
        "rows": rows,
        "device": asked.device,
    }
    assert all(math.isfinite(each["bits"]) for each in rows), "a likelihood refuses what is not"
    device = build_device(asked.device)
    title = f"What the choices of {EXPERIMENT} are worth after a short training"
    keep(folder(device, asked.out), "ablation", title, result, text_of(rows))
    say(text_of(rows))


def main(argv: list[str]) -> int:
    """Make the table; returns the exit status, as `scoreflow.cli.main` does."""
    return exit_status("ablation", lambda: run(argv), "stopped; the same command goes on")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
