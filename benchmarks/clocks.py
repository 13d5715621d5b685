"""Five processes, one network: what the choice of a clock changes, on digits.

    python -m benchmarks.clocks [--steps 600] [--seeds 2] [--images 0] [--device cpu]
                                [--objective velocity] [--work runs/clocks-STEPS] [--out DIR]

VP (DDPM's linear schedule), sub-VP, VE, the rectified path and EDM's process are one rotation with
clocks and scales of their own. The same network, which predicts v of that rotation, is trained on
each for as many steps, from the same seeds, batches and noise, to minimise its squared error at
times by the law that the process is published with, from where noise over signal is 1e-4: uniform
in its own t, and for EDM log-normal noise scales (P_mean -1.2, P_std 1.2; its loss is the squared
error of v of data that have the scale 1). So what differs is where in the angle a training looks,
and where the flow ends. v is finite at both ends of all five, and its error is what their flow
integrates. A second seed of each training measures what training noise does, which differences
between images know nothing of.

`python run.py --mode compare --runs` then measures all: likelihoods in pairs on the same images,
samples from the same noise. WORK holds the runs and that comparison, with its report; a training
or a comparison that was stopped goes on from there with the same command. OUT/clocks.json and .md
are the result.
"""

import argparse
import math
import shlex
import sys
import time
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import NormalDist

import torch
from scipy import stats
from torch import Tensor

from benchmarks.command_line import ROOT, OneLineParser, exit_status, whole_number
from benchmarks.measure import folder, keep, say, table
from scoreflow.cli.command_line import parse as request_of
from scoreflow.cli.main import main as run_py
from scoreflow.comparison.paired import ERRORS
from scoreflow.errors import RequestError, RunError
from scoreflow.runtime.device import build_device
from scoreflow.schema.config import as_flag
from scoreflow.schema.request import flatten
from scoreflow.schema.resolve import completed, training_config
from scoreflow.sde import EDMSDE, SDE, VESDE, VPSDE, RectifiedSDE, SubVPSDE
from scoreflow.storage.atomic_files import Json, load_json
from scoreflow.storage.run_folder import RunDir
from scoreflow.uncertainty import standard_error

STEPS = 1000
"""N of every process."""
START = 1e-4
"""Noise over signal where every flow starts."""
SHOWN = ("dpm", 20)
"""The case of samples that the table shows; the report has all."""
METRICS = (("told_apart", "told apart"), ("precision", "precision"), ("recall", "recall"))
MARKED = 2 * NormalDist().cdf(-ERRORS)
"""Chance below which a difference is marked: that of two errors."""
DEFAULTS: Json = {"steps": 600, "seeds": 2, "images": 0, "objective": "velocity"}
"""Of the options that decide what is measured: results/DEVICE/clocks.* are of these alone."""
SAMPLERS, BUDGETS = ("ddim", "dpm"), (10, 20)
OF_THE_COMPARISON = ("likelihood.num_images",)
"""Keys of a training that the comparison is told itself, so a run may have others."""


@dataclass(frozen=True)
class Clock:
    """A process.

    Attributes:
        name: of `sde.name`.
        title: in the table.
        sde: the same process, for the time at which its flow starts.
        keys: of the section `sde`.
        times: the law of its training times, as `training.times` names it.
    """

    name: str
    title: str
    sde: SDE
    keys: Json
    times: str = "real"

    @property
    def t_min(self) -> float:
        """Where noise over signal is `START`, in steps, and 1 at most."""
        log_snr = torch.tensor(-2 * math.log(START), dtype=torch.float64)
        return float(f"{min(1.0, float(self.sde.time_of_log_snr(log_snr))):.6g}")


CLOCKS = (
    Clock("vp", "VP, linear", VPSDE.linear(STEPS), {"schedule": "linear"}),
    Clock("subvp", "sub-VP, linear", SubVPSDE.linear(STEPS), {"schedule": "linear"}),
    Clock("ve", "VE", VESDE(STEPS, 0.01, 50.0), {"sigma_min": 0.01, "sigma_max": 50.0}),
    Clock("rectified", "rectified", RectifiedSDE(STEPS), {}),
    Clock(
        "edm",
        "EDM",
        EDMSDE(STEPS, 0.002, 80.0, 7.0),
        {"sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0},
        "log_normal",
    ),
)


@dataclass(frozen=True)
class Options:
    """A command line.

    Attributes:
        steps: of every training.
        seeds: trainings of every process.
        images: test images measured; 0 for all.
        objective: what every training minimises.
        device: where it runs.
        work: the folder of the runs.
        out: of the results, None for the device's own.
        more: flags of run.py for every training.
        command: the command line, to reproduce the result.
    """

    steps: int
    seeds: int
    images: int
    objective: str
    device: torch.device
    work: Path
    out: Path | None
    more: tuple[str, ...]
    command: str

    @property
    def runs(self) -> list[tuple[Clock, int, Path]]:
        """Process, seed and folder of every training."""
        return [
            (clock, seed, self.work / f"{clock.name}-{seed}")
            for seed in range(self.seeds)
            for clock in CLOCKS
        ]

    @property
    def comparison(self) -> Path:
        """The folder of the comparison."""
        return self.work / "compared"


def parse(argv: list[str]) -> Options:
    """The options of a command line, or a RequestError."""
    parser = OneLineParser("clocks", "Five processes, one network")
    given = DEFAULTS
    parser.add_argument("--steps", type=whole_number(1), default=given["steps"], help="of each")
    parser.add_argument("--seeds", type=whole_number(1), default=given["seeds"], help="trainings")
    parser.add_argument(
        "--images", type=whole_number(0), default=given["images"], help="of the test set; 0: all"
    )
    parser.add_argument("--objective", default=given["objective"], help="of every training")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--work", type=Path, help="of the runs; default: runs/clocks-STEPS")
    parser.add_argument("--out", type=Path, help="default: results/ and the kind of device")
    parser.epilog = "and --config.SECTION.KEY=VALUE, as of run.py, for every training"
    own, more = parser.parse_known_args(argv[1:])
    if wrong := [flag for flag in more if not flag.startswith("--config.")]:
        raise RequestError(f"no option {wrong[0]!r}; --help lists them")
    unlike = [f"--{key}={getattr(own, key)}" for key in DEFAULTS if _other(own, key)] + more
    if unlike and own.out is None:
        raise RequestError(
            f"{' '.join(unlike)} is not the default, whose results lie in results/: add --out "
            "with a folder of its own"
        )
    return _options(own, tuple(more), shlex.join(["python", "-m", "benchmarks.clocks", *argv[1:]]))


def _other(own: argparse.Namespace, key: str) -> bool:
    return bool(getattr(own, key) != DEFAULTS[key])


def _options(own: argparse.Namespace, more: tuple[str, ...], command: str) -> Options:
    return Options(
        own.steps,
        own.seeds,
        own.images,
        own.objective,
        build_device(own.device),
        own.work or ROOT / "runs" / f"clocks-{own.steps}",
        own.out,
        more,
        command,
    )


# ---- trainings and their comparison -------------------------------------------------------------


def training(options: Options, clock: Clock, seed: int, workdir: Path) -> list[str]:
    """The command line of a training."""
    keys = {
        "seed": seed,
        "sde.num_steps": STEPS,
        **{f"sde.{key}": value for key, value in clock.keys.items()},
        "model.prediction": "v",
        "training.objective": options.objective,
        "training.times": clock.times,
        "training.t_min": clock.t_min,
        "training.num_steps": options.steps,
        "training.checkpoint_every": max(1, options.steps // 4),
        "training.log_every": max(1, options.steps // 100),
        "sampling.num_images": 16,
        "sampling.steps": 20,
        "likelihood.num_images": options.images,
    }
    flags = [f"--config.{key}={value}" for key, value in keys.items()]
    named = ["run.py", "--mode=train", f"--config={ROOT / 'configs' / 'digits.py'}"]
    named += [f"--sde={clock.name}", f"--workdir={workdir}", f"--device={options.device}"]
    return [*named, *flags, *options.more]


def comparing(options: Options) -> list[str]:
    """The command line of the comparison."""
    folders = ",".join(str(path) for *_, path in options.runs)
    asked = [f"--runs={folders}", f"--workdir={options.comparison}", f"--device={options.device}"]
    asked += [f"--samplers={','.join(SAMPLERS)}", "--config.compare.num_images=360"]
    asked.append(f"--config.compare.nfe={','.join(map(str, BUDGETS))}")
    asked.append(f"--config.likelihood.num_images={options.images}")
    return ["run.py", "--mode=compare", *asked]


def _carried_out(argv: list[str]) -> None:
    """Run a command of run.py.

    Raises:
        RunError: it failed, as it has said.
        KeyboardInterrupt: it was stopped.
    """
    status = run_py(argv)
    if status in (129, 130, 143):
        raise KeyboardInterrupt
    if status:
        raise RunError(f"stopped, as `python {shlex.join(argv)}` has status {status}")


def _is_done(options: Options, clock: Clock, seed: int, path: Path) -> bool:
    """Whether a training has come to its end: its weights and its own likelihood are there.

    Raises:
        RequestError: the folder holds one of another config, which would go on from there, or be
            measured under a wrong label.
    """
    if not (path / "config.json").exists():
        return False
    run = RunDir.open(path)
    there = completed(flatten(run.config))
    # the config of a new run: one that is there would be held to less
    asked = training_config(request_of(training(options, clock, seed, path / "new")))
    told = flatten(asked.to_dict())
    for key in ("training.num_steps", *told):  # other lengths have another rhythm too
        value = told[key]
        if key not in OF_THE_COMPARISON and there.get(key) != value:
            raise RequestError(
                f"--work: {path} is a training with {key} = {as_flag(there.get(key, ''))}, not "
                f"{as_flag(value)}: name another folder"
            )
    measured = (path / "results" / "likelihood.json").exists()
    return measured and max(run.checkpoint_steps(), default=0) >= options.steps


def run(options: Options) -> None:
    """Train what is missing, compare, and write OUT/clocks.json and .md."""
    start = time.monotonic()
    done = {each[-1] for each in options.runs if _is_done(options, *each)}
    for clock, seed, path in options.runs:
        if path in done:
            say(f"{path.name}: trained already")
        else:
            _carried_out(training(options, clock, seed, path))
    _carried_out(comparing(options))
    seconds = time.monotonic() - start
    found = load_json(options.comparison / "results" / "runs.json", "", "make it again")
    result = summarised(options, found)
    result |= {"command": options.command, "device": str(options.device), "seconds": seconds}
    out = folder(options.device, options.out)
    keep(out, "clocks", "Five clocks, one network", result, text_of(options, result))
    say((out / "clocks.md").read_text())


# ---- what it says -------------------------------------------------------------------------------


def summarised(options: Options, found: Json) -> Json:
    """The comparison by process, its seeds taken together, as clocks.json keeps it.

    Args:
        options: of the command.
        found: results/runs.json of the comparison.
    """
    by_name = {each["name"]: each for each in found["runs"]}
    runs = {
        clock.name: [by_name[f"{clock.name}-{seed}"] for seed in range(options.seeds)]
        for clock in CLOCKS
    }
    values = {
        name: torch.tensor([each["values"] for each in of], dtype=torch.float64)
        for name, of in runs.items()
        if all(each["values"] for each in of)
    }
    noise = training_noise(values)
    rows = [_row(clock, runs[clock.name], values.get(clock.name)) for clock in CLOCKS]
    return {
        "unit": found["unit"],
        "settings": {
            "steps": options.steps,
            "seeds": options.seeds,
            "num_images": found["num_images"],
            "objective": options.objective,
            "start": START,
            "more": list(options.more),
            "compare": found["settings"],
        },
        "rows": rows,
        "training_noise": noise,
        "pairs": differences(values, noise),
        "runs": [{k: v for k, v in each.items() if k != "path"} for each in found["runs"]],
        "held_out": found["test_data"],
    }


def training_noise(values: dict[str, Tensor]) -> dict[str, float] | None:
    """Standard deviation of a training's likelihood over seeds, of each process.

    Args:
        values: of each process a row a seed and a column an image, (K, n).

    Returns:
        In the unit of the values; None for one seed, which knows nothing of others.
    """
    if not values or len(next(iter(values.values()))) < 2:
        return None
    return {name: float(each.mean(1).std()) for name, each in values.items()}


def differences(values: dict[str, Tensor], noise: dict[str, float] | None) -> list[Json]:
    """Each pair of processes on the same images, its errors, and whether it is larger.

    Processes may differ in the noise of their trainings by far, so a pair has that of its own two,
    and few seeds know it badly: a difference is held against Student's law with as many degrees
    of freedom as its error has (Welch 1947), at the chance of 2 errors of a normal law.

    Args:
        values: as in `training_noise`.
        noise: what that found.
    """
    found = []
    pairs = list(combinations(values, 2))
    for first, second in pairs:
        apart = values[first].mean(0) - values[second].mean(0)
        by_images, seeds = standard_error(apart) or 0.0, len(values[first])
        own = [noise[name] / math.sqrt(seeds) for name in (first, second)] if noise else []
        error, value = math.hypot(by_images, *own), float(apart.mean())
        parts = [(by_images, len(apart) - 1), *((part, seeds - 1) for part in own)]
        chance = _chance(value, error, parts)
        found.append(
            {
                "first": first,
                "second": second,
                "value": value,
                "by_images": by_images,
                "by_training": math.hypot(*own) if own else None,
                "standard_error": error,
                "chance": chance,
                "larger": chance < MARKED,
                "larger_of_all": chance < MARKED / len(pairs),
            }
        )
    return found


def _chance(value: float, error: float, parts: list[tuple[float, int]]) -> float:
    """How often a difference as large, or larger, comes from equal means.

    Args:
        value: the difference.
        error: of it, the root of the sum of squares of its parts.
        parts: each part, and the degrees of freedom that it is known with.
    """
    if not error:
        return float(value == 0)
    freedom = error**4 / sum(part**4 / max(1, known) for part, known in parts)
    return float(2 * stats.t.sf(abs(value) / error, freedom))


def _row(clock: Clock, runs: list[Json], values: Tensor | None) -> Json:
    """A process: each seed's likelihood, the metrics of samples over seeds, seconds."""
    row: Json = {
        "process": clock.name,
        "t_min": clock.t_min,
        "each": [] if values is None else values.mean(1).tolist(),
        "value": None if values is None else float(values.mean()),
        "standard_error": None if values is None else standard_error(values.mean(0)),
        "nfe": _mean([each["likelihood"] and each["likelihood"]["nfe"] for each in runs]),
        "training_seconds": _mean([each["training_seconds"] for each in runs]),
        "likelihood_seconds": _mean([each["likelihood_seconds"] for each in runs]),
        "failed": [why for each in runs for why in each["failed"]],
    }
    shown = [
        sample
        for each in runs
        for sample in each["samples"]
        if (sample["sampler"], sample["budget"]) == SHOWN
    ]
    for key, _ in METRICS:
        row[key] = _mean([each.get(key) for each in shown])
        errors = [each.get(f"{key}_error") for each in shown]
        known = [each for each in errors if each is not None]
        row[f"{key}_error"] = math.hypot(*known) / len(known) if known else None
    return row


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def text_of(options: Options, result: Json) -> str:
    """The table and what is to be read from it, in Markdown."""
    rows = sorted(result["rows"], key=lambda row: (row["value"] is None, row["value"] or 0.0))
    titles = {clock.name: clock.title for clock in CLOCKS}
    head = ["process", "bits/dim", *(f"seed {seed}" for seed in range(options.seeds))]
    head += ["minus the best", *(title for _, title in METRICS), "evaluations a likelihood"]
    head += ["training, s", "likelihood, s"]
    best = rows[0]["process"]
    lines = [
        (
            titles[row["process"]],
            _number(row["value"], row["standard_error"]),
            *(_number(each) for each in _seeds(row, options.seeds)),
            _to_best(result["pairs"], row["process"], best),
            *(_number(row[key], row[f"{key}_error"], ".3f") for key, _ in METRICS),
            _number(row["nfe"], form=".0f"),
            _number(row["training_seconds"], form=".0f"),
            _number(row["likelihood_seconds"], form=".0f"),
        )
        for row in rows
    ]
    said = [f"* {line}" for line in verdicts(result, titles)]
    failed = [f"* {titles[row['process']]}: {why}" for row in rows for why in row["failed"]]
    return "\n\n".join(
        (_caption(options, result), table(head, lines), "\n".join([*said, *failed]))
    )


def _seeds(row: Json, count: int) -> list[float | None]:
    return row["each"] or [None] * count


def _number(value: float | None, error: float | None = None, form: str = ".4f") -> str:
    if value is None:
        return "-"
    return f"{value:{form}}" + ("" if error is None else f" ± {error:{form}}")


def _to_best(pairs: list[Json], name: str, best: str) -> str:
    """A difference to the best, above 0, with its whole error and its mark."""
    for pair in pairs:
        if {pair["first"], pair["second"]} == {name, best} and name != best:
            mark = "**" if pair["larger_of_all"] else "*" if pair["larger"] else ""
            sign = 1 if pair["first"] == name else -1
            shown = f"{sign * pair['value']:+.4f} ± {pair['standard_error']:.4f} {mark}"
            return shown.strip().replace("*", "\\*")
    return ""


def _caption(options: Options, result: Json) -> str:
    settings = result["settings"]
    sampler, budget = SHOWN
    return (
        f"Config digits; {settings['steps']} steps, {options.seeds} "
        f"{'seed' if options.seeds == 1 else 'seeds'} a process; the network predicts v, and "
        f"objective {settings['objective']} is minimised at times uniform in each process's own "
        f"t, of EDM at log-normal noise scales, from sigma/alpha = {START:g}. "
        f"Exact likelihood of {settings['num_images']} test images, the same dequantization and "
        f"probes for all; {sampler} at {budget} evaluations from the same noise, told apart 0 is "
        f"best. ± one standard error: of bits/dim by the choice of images, of a difference in "
        f"pairs, with that of the trainings. {result['seconds'] / 60:.1f} minutes in all (of the "
        "last command, if it went on with an earlier one)."
    )


def verdicts(result: Json, titles: dict[str, str]) -> list[str]:
    """A line a pair, the largest first, and what the errors hold."""
    pairs, noise = result["pairs"], result["training_noise"]
    found = []
    for pair in sorted(pairs, key=lambda each: -abs(each["value"])):
        better, worse = pair["first"], pair["second"]
        if pair["value"] > 0:
            better, worse = worse, better
        if pair["larger_of_all"]:
            verdict = "larger than its error, among all pairs too"
        else:
            verdict = "larger than its error as one pair" if pair["larger"] else "within its error"
        size = f"{abs(pair['value']):.4f} ± {pair['standard_error']:.4f}"
        found.append(f"{titles[better]} is better than {titles[worse]} by {size}: {verdict}")
    if not pairs:
        return found
    if noise is None:
        found.append(
            "one seed a process: what another seed would change is not known, and is in no error"
        )
    else:
        moved = ", ".join(f"{titles[name]} {each:.4f}" for name, each in noise.items())
        found.append(
            f"another seed moves a training's likelihood by, as standard deviation over the seeds: "
            f"{moved}; of a difference the error has those of its own two processes, as if the "
            "trainings of a seed were independent. Few seeds know them badly, so the law allows "
            "for more errors than 2, and a difference that is not marked may still be one"
        )
    found.append(
        f"marked (\\*) are differences that equal processes show with a chance below "
        f"{MARKED:.2%}, as beyond {ERRORS:g} errors of a normal law (by Student's, with "
        f"Welch's degrees of freedom), and (\\*\\*) below a {len(pairs)}th of that, for there are {len(pairs)} pairs"
    )
    return found


def main(argv: list[str]) -> int:
    """Make the table; returns the exit status, as `scoreflow.cli.main` does."""
    interrupted = "stopped; the same command goes on with the training or the case it was at"
    return exit_status("clocks", lambda: run(parse(argv)), interrupted)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
