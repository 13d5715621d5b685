"""A class-conditional run as a classifier, over seeds of the noise.

    python -m benchmarks.classification --workdir runs/digits-classes [--seeds 0,1] [--times 64]

--mode classify measures flow and bound for each seed (rows that are there are taken), and the
bound is measured in full, all classes at all times, to say what early elimination saves and for
how many images it finds another class.
"""

import argparse
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

from benchmarks.classification.elimination import recorded, rounds_of, rows
from benchmarks.command_line import exit_status
from benchmarks.measure import folder, keep, say, table
from scoreflow.cli.modes.applications.classify import classify
from scoreflow.errors import RequestError
from scoreflow.factory.applications.classification import build_bound, build_prior
from scoreflow.storage.atomic_files import Json
from scoreflow.trained_run import TrainedRun, load
from scoreflow.uncertainty import rate_error

RULES = (2.0, 3.0, 4.0)
TITLE = "A class-conditional run as a classifier"


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True, help="a class-conditional run")
    parser.add_argument("--seeds", default="0,1", help="of dequantization, times, probes, nodes")
    parser.add_argument("--times", type=int, default=64, help="of the bound, 16 or more")
    parser.add_argument("--images", type=int, default=0, help="test images; 0 for all")
    parser.add_argument("--out", type=Path, default=None, help="folder; default results/DEVICE")
    asked = parser.parse_args(arguments)
    return exit_status(
        "benchmarks.classification", lambda: _run(asked), "stopped; what is done is kept"
    )


def _run(asked: argparse.Namespace) -> None:
    if len(rounds_of(asked.times)) < 2:
        raise RequestError(f"--times must be 16 or more, got {asked.times}")
    measured, replayed = [], []
    for seed in map(int, asked.seeds.split(",")):
        run = _opened(asked, seed)
        classify(run)
        measured.append({"seed": seed, **_result_of(run, seed)})
        replayed.append({"seed": seed, "rows": _replayed(run, asked)})
    result: Json = {
        "command": f"python -m benchmarks.classification --workdir {asked.workdir.name} "
        f"--seeds {asked.seeds} --times {asked.times}"
        + (f" --images {asked.images}" if asked.images else ""),
        "device": str(run.experiment.device),
        "weights": run.fingerprint,
        "step": run.step,
        "num_images": measured[0]["num_images"],
        "seeds": measured,
        "elimination": replayed,
    }
    out = folder(run.experiment.device, asked.out)
    text = _markdown(result)
    keep(out, "classification", TITLE, result, text)
    _picture(result).savefig(out / "classification.png", dpi=150)
    say(text)


def _opened(asked: argparse.Namespace, seed: int) -> TrainedRun:
    likelihood = {"seed": seed, "num_images": asked.images}
    return load(asked.workdir, likelihood=likelihood, classify={"times": asked.times})


def _result_of(run: TrainedRun, seed: int) -> Json:
    """The newest result of a seed among those of the run."""
    found = []
    for path in (run.folder.path / "results").glob("classify*.json"):
        result = run.folder.read_result(path.stem)
        if result["settings"]["likelihood"]["seed"] == seed:
            found.append(result)
    newest: Json = max(found, key=lambda result: str(result["kept"]["date"]))
    kept = ("num_images", "methods", "pairs", "halving", "settings")
    return {key: newest[key] for key in kept if key in newest}


def _replayed(run: TrainedRun, asked: argparse.Namespace) -> list[Json]:
    """The bound in full, and every rule of elimination on its terms."""
    data, model = run.data, run.model.in_precision("float32")
    prior = build_prior(run.config, model, data)
    bound = recorded(build_bound(run.config, model, data, prior))
    test = data.test[: asked.images or None]
    assert data.test_labels is not None, "checked by build_prior"
    own = prior.columns(data.test_labels[: len(test)])
    with torch.no_grad():
        return rows(bound, test, own, prior, max(1, bound.batch_size // 4), RULES)


def _markdown(result: Json) -> str:
    n = result["num_images"]
    head = ("method", "seed", "right", "accuracy", "95 %", "NLL, nats", "Brier", "ECE",
            "if calibrated", "T", "evaluations")  # fmt: skip
    lines = [
        _method(row, each["seed"], n, k)
        for k, each in enumerate(result["seeds"])
        for row in each["methods"]
    ]
    pairs = [
        (f"{pair['first']} - {pair['second']}", str(each["seed"]),
         f"{pair['difference']:+.4f} ± {pair['standard_error']:.4f}",
         f"{pair['first_only']} / {pair['second_only']}", f"{pair['p_value']:.2g}")
        for each in result["seeds"] for pair in each["pairs"]
    ]  # fmt: skip
    rules = [
        (str(row["times"]), "all in full" if row["z"] is None else f"{row['z']:g}",
         str(each["seed"]), f"{row['accuracy']:.4f} ± {rate_error(row['accuracy'], n):.4f}",
         f"{row['evaluations']:.0f}", f"{row['saved']:.1%}", str(row["differ_from_full"]))
        for each in result["elimination"] for row in each["rows"]
    ]  # fmt: skip
    return "\n\n".join(
        [
            f"{n} test images; z: standard errors beyond which a class is left out.",
            table(head, [line for line in lines if line]),
            "Pairs, image by image (McNemar):",
            table(("pair", "seed", "difference", "right alone", "p"), pairs),
            "The bound with fewer times and with classes left out, on the same terms; the last "
            "column is the images for which another class is found than by all classes at as "
            "many times:",
            table(("times", "z", "seed", "accuracy", "evaluations", "saved", "differ"), rules),
            "![accuracy over evaluations](classification.png)",
        ]
    )


def _method(row: Json, seed: int, n: int, number: int) -> tuple[str, ...]:
    """The cells of a method; of what no noise enters those of the first seed alone."""
    noisy = "evaluations" in row or "noisy" in row["name"]
    if number and not noisy:
        return ()
    stated, low_high = row.get("calibration"), row["interval"]
    scores = ("",) * 4
    if stated:
        scores = (
            f"{stated['nll']:.3f} ± {stated['nll_error'] or 0:.3f}",
            f"{stated['brier']:.4f} ± {stated['brier_error'] or 0:.4f}",
            f"{stated['ece']:.4f} ± {stated['ece_error']:.4f}",
            f"{stated['ece_if_calibrated']:.4f}",
        )
    return (
        row["name"],
        str(seed) if noisy else "",
        f"{round(row['accuracy'] * n)} of {n}",
        f"{row['accuracy']:.4f} ± {row['standard_error']:.4f}",
        f"{low_high[0]:.3f} to {low_high[1]:.3f}",
        *scores,
        " to ".join(f"{end(t):.2f}" for end in (min, max) for t in [row["temperatures"]])
        if "temperatures" in row
        else "",
        f"{row['evaluations']:.0f}" if "evaluations" in row else "",
    )


def _picture(result: Json) -> Figure:
    """Accuracy over evaluations, in full and by rules; and how far probabilities are right."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for z in (None, *RULES):
        rows_of = [
            [row for row in each["rows"] if row["z"] == z] for each in result["elimination"]
        ]
        means = [
            [sum(row[key] for row in same) / len(same) for same in zip(*rows_of, strict=True)]
            for key in ("evaluations", "accuracy")
        ]
        name = "all classes in full" if z is None else f"left out beyond {z:g} s.e."
        left.plot(means[0], means[1], "o-", label=name)
    left.set(xscale="log", xlabel="evaluations an image", ylabel="accuracy of the bound")
    left.set_xticks([100, 200, 400, 800], ["100", "200", "400", "800"])
    left.set_xticks([], minor=True)
    left.legend(fontsize=8)
    right.plot([0, 1], [0, 1], "k--", linewidth=0.8)
    for row in result["seeds"][0]["methods"]:
        bins = (row.get("calibration") or {}).get("bins", [])
        if bins and not row.get("temperatures") and "regression" not in row["name"]:
            x, y = ([each[key] for each in bins] for key in ("confidence", "accuracy"))
            error = [rate_error(each["accuracy"], each["count"]) for each in bins]
            right.errorbar(x, y, error, marker="o", linewidth=0.8, label=row["name"])
    right.set(xlabel="stated probability", ylabel="share that is right")
    right.legend(loc="lower left", fontsize=8)
    return figure


if __name__ == "__main__":
    sys.exit(main())
