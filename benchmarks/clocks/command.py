"""Trains the processes, compares them and writes the table."""

import shlex
import time
from pathlib import Path

from benchmarks.clocks.options import Options, parse
from benchmarks.clocks.processes import STEPS, Clock
from benchmarks.clocks.table import summarised, text_of
from benchmarks.command_line import ROOT, exit_status
from benchmarks.measure import folder, keep, say
from scoreflow.cli.command_line import parse as request_of
from scoreflow.cli.main import main as run_py
from scoreflow.errors import RequestError, RunError
from scoreflow.schema.config import as_flag
from scoreflow.schema.request import flatten
from scoreflow.schema.resolve import completed, training_config
from scoreflow.storage.atomic_files import load_json
from scoreflow.storage.run_folder import RunDir

SAMPLERS, BUDGETS = ("ddim", "dpm"), (10, 20)
OF_THE_COMPARISON = ("likelihood.num_images",)
"""Keys of a training that the comparison is told itself, so a run may have others."""


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


def main(argv: list[str]) -> int:
    """Make the table; returns the exit status, as `scoreflow.cli.main` does."""
    interrupted = "stopped; the same command goes on with the training or the case it was at"
    return exit_status("clocks", lambda: run(parse(argv)), interrupted)
