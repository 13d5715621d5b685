"""`python -m benchmarks.anomaly --run digits=DIR`: which score tells other images from a run's.

Makes sets of images that the run was not trained on (`benchmarks.anomaly.sets`), asks
`--mode likelihood` with `likelihood.scores=all` about all of them, once with a reference of
training images and once with one of test images, and writes the tables. Rows are kept in the
run's folder, so the same command goes on after a stop, and one with a further run adds it.

KIND says what the run was trained on: `digits` of scikit-learn, `mnist`, or `natural`, the folder
of small grey photographs that `--natural FOLDER` writes, to be trained on by

    python run.py --mode train --config digits --data FOLDER --config.data.levels=17 --workdir DIR
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.anomaly.picture import heat_maps
from benchmarks.anomaly.sets import DIGITS, FORMATS, SETS, Sources, written
from benchmarks.command_line import OneLineParser, exit_status
from benchmarks.measure import folder, keep, load_run, say, table
from scoreflow.cli.main import main as scoreflow
from scoreflow.errors import RequestError, RunError
from scoreflow.runtime.device import build_device
from scoreflow.storage.atomic_files import Json, write_atomic

REFERENCES = ("train", "test")
HELD_OUT = 160
"""Images of either."""
SIZES = {"digits": (200, 400), "natural": (200, 400), "mnist": (60, 150)}
"""Images of each other set, and of the test set at most."""
SETTINGS = {"method": "nodes", "nodes": 32, "probes": 1, "checked": 0}
COARSE = {"nodes": 12, "trajectory_tolerance": 1.0}
"""Of the likelihoods; MNIST's images have twelve times the pixels, and differ by more bits."""
TRAINED_ON, TESTED_ON = slice(6000), slice(5000, 5600)
"""Photographs of `--natural`, of either part of CIFAR-10."""


def measured(kind: str, asked: argparse.Namespace) -> dict[str, Json]:
    """The result of a run for each reference."""
    run = load_run(asked.runs[kind], build_device("cpu"))
    own = run.data.test[:, 0].cpu().numpy()
    sources = Sources(FORMATS[kind], own, asked.mnist, asked.cifar10)
    paths, (count, most) = [], SIZES[kind]
    for name in SETS[kind]:
        say(f"{kind}: {name}")
        paths.append(str(written(name, sources, count, asked.work / kind)))
    found = {}
    for reference in REFERENCES:
        command = [
            "run.py",
            "--mode=likelihood",
            "--device=cpu",
            f"--workdir={asked.runs[kind]}",
            *(f"--config.likelihood.{key}={value}" for key, value in asked.settings[kind].items()),
            f"--config.likelihood.data={','.join(paths)}",
            "--config.likelihood.scores=all",
            f"--config.likelihood.reference={reference}",
            f"--config.likelihood.held_out={HELD_OUT}",
            f"--config.likelihood.num_images={min(most, len(own))}",
        ]
        if status := scoreflow(command):
            raise RunError(f"{shlex.join(command)} ended with status {status}")
        found[reference] = _result_of(asked.runs[kind], reference)
    return found


def _result_of(run: Path, reference: str) -> Json:
    """The newest table of a run with that reference."""
    kept = [json.loads(path.read_text()) for path in (run / "results").glob("detection*.json")]
    own = [each for each in kept if each["reference"]["of"] == reference]
    found: Json = max(own, key=lambda each: str(each["kept"]["date"]))
    return found


def text_of(kind: str, found: dict[str, Json]) -> str:
    """The tables of a run: AUROC, and what passes at 95 %."""
    test, train = found["test"], found["train"]
    names = list(test["scores"][0]["sets"])
    head = ["score", "evaluations", *names, "test images against training images"]
    areas, rates = [], []
    for row, other in zip(test["scores"], train["scores"], strict=True):
        calls = f"{row['evaluations']:.0f}"
        sets = [row["sets"][name] for name in names]
        shift = _number(other["shift"], "auroc", "standard_error")
        areas.append([row["name"], calls, *_numbers(sets, "auroc", "standard_error"), shift])
        rates.append([row["name"], *_numbers(sets, "fpr95", "fpr95_error")])
    sizes = ", ".join(f"{test['sets'][name]['num_images']} {name}" for name in names)
    bits = ", ".join(f"{name} {about['bits_per_dim']:.2f}" for name, about in test["sets"].items())
    return (
        f"## Trained on {kind}\n\nAUROC against {test['num_images']} test images, the reference "
        f"being {test['reference']['num_images']} other test images. Sets: {sizes}. Bits/dim: "
        f"{bits}.\n\n{table(head, areas)}\n\nThe share of other images that passes where 95 % of "
        f"the test images do:\n\n{table([head[0], *names], rates)}"
    )


def _numbers(sets: Sequence[Json], value: str, error: str) -> list[str]:
    return [_number(each, value, error) for each in sets]


def _number(told: Json, value: str, error: str) -> str:
    return f"{told[value]:.3f} ± {told[error]:.3f}"


def write_natural(at: Path, cifar10: Path | None) -> None:
    """Photographs to train on: CIFAR-10 in grey, 8 x 8 pixels of 17 levels, train/ and test/."""
    if cifar10 is None:
        raise RequestError("--natural is made of CIFAR-10: name its folder by --cifar10")
    from scoreflow.data.loading import load_images
    from scoreflow.data.reading.settings import Reading

    data = load_images(str(cifar10), reading=Reading(mode="grey"))
    parts = {"train": data.train[TRAINED_ON], "test": data.test[TESTED_ON]}
    for part, images in parts.items():
        (at / part).mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(np.asarray(images)[:, 0]):
            Image.fromarray(DIGITS.reduced(image)).save(at / part / f"{number:05d}.png")


def _pair(text: str) -> tuple[str, Path]:
    kind, _, path = text.partition("=")
    if kind not in SETS or not path:
        known = ", ".join(SETS)
        raise argparse.ArgumentTypeError(f"KIND=DIR, KIND one of {known}, got {text!r}")
    return kind, Path(path)


def run(argv: list[str]) -> None:
    """Measure, and write OUT/anomaly.json, .md and .png."""
    parser = OneLineParser("anomaly", __doc__ or "")
    parser.add_argument("--run", type=_pair, action="append", default=[], help="KIND=DIR")
    parser.add_argument("--natural", type=Path, help="write the photographs to train on, and end")
    parser.add_argument("--mnist", type=Path, help="a folder with MNIST")
    parser.add_argument("--cifar10", type=Path, help="a folder with CIFAR-10")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/anomaly-sets"), help="for the sets"
    )
    parser.add_argument("--out", type=Path, default=None, help="folder; default results/cpu")
    asked = parser.parse_args(argv[1:])
    if asked.natural is not None:
        write_natural(asked.natural, asked.cifar10)
        return
    if not asked.run:
        raise RequestError("--run KIND=DIR names a trained run, once or more often")
    asked.runs = dict(asked.run)
    asked.settings = {kind: SETTINGS | (COARSE if kind == "mnist" else {}) for kind in asked.runs}
    found = {kind: measured(kind, asked) for kind in asked.runs}
    out = folder(build_device("cpu"), asked.out)
    result = {
        "command": shlex.join(["python", "-m", "benchmarks.anomaly", *argv[1:]]),
        "unit": "AUROC",
        "settings": {"runs": asked.settings, "sizes": SIZES, "held_out": HELD_OUT},
        "rows": {kind: _brief(of) for kind, of in found.items()},
        "device": "cpu",
    }
    text = "\n\n".join(text_of(kind, of) for kind, of in found.items())
    keep(out, "anomaly", "Which score tells which images", result, text)
    write_atomic(out / "anomaly.png", heat_maps({k: of["test"] for k, of in found.items()}))


def _brief(found: dict[str, Json]) -> Json:
    """What of a table is kept: all but its histograms and the settings that the command states."""
    kept = ("num_images", "reference", "warning", "scores", "sets", "weights", "step", "seconds")
    return {of: {key: result[key] for key in kept} for of, result in found.items()}


def main(argv: list[str]) -> int:
    """Make the tables; returns the exit status, as `scoreflow.cli.main` does."""
    return exit_status("anomaly", lambda: run(argv), "stopped; the same command goes on")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
