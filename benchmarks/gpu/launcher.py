"""All measurements on a CUDA device, by one command that resumes when it is called again.

    python -m benchmarks.gpu [--device cuda] [--stage NAME ...] [--minutes 9.5] [--data DIR]
                             [--train-minutes 25] [--out DIR] [--work DIR] [--list]

Stages: check (agreement with a CPU, and the certificate), training, sampling, likelihood, growth,
cifar10 (a training of 25 minutes, then samples, likelihood, its images/s at an error, and
comparison). `benchmarks/gpu/stages.py` has their commands.

A call takes --minutes at most: a part that still runs is interrupted, and the same command goes
on. Results are written to --out (results/ and the GPU's name); a part with a result of this commit
is not run again. The files of parts that resume (the training from its last checkpoint, the
likelihood, the comparison) are in --work, which a later call must find.

Exit status: 0 all chosen stages are done; 3 call again; 1 a part failed; 2 a wrong request.
"""

import argparse
import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import measure
from benchmarks.gpu.stages import Options, Part, stages
from scoreflow.errors import RequestError
from scoreflow.runtime.device import build_device
from scoreflow.runtime.environment import environment
from scoreflow.storage.atomic_files import Json, dumps, load_json, write_atomic
from scoreflow.storage.run_folder import RunDir

STOPPED = (130, -signal.SIGINT)
GRACE = 20
"""Seconds for an interrupted process to end, before a stronger signal."""
NAMES = ("check", "training", "sampling", "likelihood", "growth", "cifar10")


class Runner:
    """Runs parts one after another, within the minutes of a call.

    Args:
        out: folder of the results.
        where: `environment` of this call.
        minutes: limit of the call.
    """

    def __init__(self, out: Path, where: Json, minutes: float) -> None:
        self.out, self.where, self.minutes = out, where, minutes
        self.end = time.monotonic() + 60 * minutes
        self.begun = False

    def done(self, part: Part) -> bool:
        """Whether it has a result of this commit, changed files or not; False without a commit."""
        path, commit = self.out / f"{part.name}.json", _plain(self.where["commit"])
        if commit is None or not path.exists():
            return False
        found = json.loads(path.read_bytes()).get("environment", {}).get("commit")
        return _plain(found) == commit

    def run(self, part: Part) -> str:
        """Start or resume a part; returns "done", "not yet: why" or "failed: why"."""
        if self.done(part):
            return "done"
        left = self.end - time.monotonic()
        if left < 60 * part.least and (self.begun or left <= 0):
            return f"not yet: {max(left, 0) / 60:.1f} minutes are left of this call"
        first, self.begun = not self.begun, True
        spent, commit = self._spent(part)
        if part.minutes and commit not in (None, _plain(self.where["commit"])):
            return (
                f"failed: {part.at} was made by commit {commit}; remove it, or name another --work"
            )
        if part.minutes:
            left = min(left, 60 * part.minutes - spent)
        measure.say(f"== {part.name}: python {shlex.join(part.command)}")
        part.at.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        try:
            status = run_child([sys.executable, *part.command], left) if left > 0 else STOPPED[0]
        finally:
            spent += time.monotonic() - start
            self._write_spent(part, spent)
        over = status in STOPPED and spent >= 60 * part.minutes
        if part.minutes and (status == 0 or over):
            status = _training_result(part, spent)
        if status in STOPPED:
            why = "stopped at the call's end"
            if first and not part.goes_on:
                return f"failed: it needs more than {self.minutes:g} minutes (--minutes)"
            return f"not yet: {why}" + ", and goes on from there" * part.goes_on
        return f"failed: status {status}" if status else self.keep(part)

    def keep(self, part: Part) -> str:
        """Copy the files of a part to the results, last the JSON that marks it as done."""
        for name, pattern in reversed(part.made.items()):
            found = sorted(part.at.glob(pattern))
            if not found:
                return f"failed: it left no {part.at / pattern}"
            if not name.endswith(".json"):
                shutil.copyfile(found[-1], self.out / name)
                continue
            result = json.loads(found[-1].read_bytes())
            command = f"python {shlex.join(part.command)}"
            result = {"command": command, "environment": self.where, **result}
            write_atomic(self.out / name, dumps(result, name, ValueError))
        return "done"

    def _spent(self, part: Part) -> tuple[float, str | None]:
        """Seconds spent by earlier calls, and their commit."""
        path = _spent_path(part)
        if not path.exists():
            return 0.0, None
        found = load_json(path, missing=f"no {path}", remedy=f"remove it, and {part.at}")
        return float(found["seconds"]), found["commit"]

    def _write_spent(self, part: Part, seconds: float) -> None:
        if part.minutes:
            kept = {"seconds": seconds, "commit": _plain(self.where["commit"])}
            write_atomic(_spent_path(part), dumps(kept, "spent", ValueError))


def run_child(command: list[str], seconds: float) -> int:
    """Exit status of a command; one of `STOPPED` if it took longer and was interrupted."""
    child = subprocess.Popen(command)
    try:
        return child.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        pass
    finally:
        for end in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if child.poll() is not None:
                break
            child.send_signal(end)
            try:
                child.wait(timeout=GRACE)
            except subprocess.TimeoutExpired:
                continue
    return STOPPED[0]


def _spent_path(part: Part) -> Path:
    return part.at.with_name(f"{part.at.name}-spent.json")


def _training_result(part: Part, spent: float) -> int:
    """Write the result of a training that is over; 0, or 1 if it has no checkpoint."""
    run = RunDir.open(part.at) if (part.at / "config.json").exists() else None
    steps = run.checkpoint_steps() if run else []
    if run is None or not steps:
        print(f"{part.at} has no checkpoint after {spent / 60:.1f} minutes", file=sys.stderr)
        return 1
    rows = [row for row in run.read_metrics() if "loss" in row and row["step"] <= steps[-1]]
    batch = run.config["training"]["batch_size"]
    result = {
        "value": rows[-1]["loss"],
        "unit": "loss, mean over the last interval",
        "step": steps[-1],
        "images": steps[-1] * batch,
        "seconds": spent,
        "settings": run.config,
        "rows": rows[:: max(1, len(rows) // 100)],
    }
    write_atomic(part.at / "training.json", dumps(result, "training", ValueError))
    return 0


def _plain(commit: str | None) -> str | None:
    return commit.removesuffix("-dirty") if commit else commit


def go(runner: Runner, chosen: dict[str, list[Part]]) -> int:
    """Run every part of the chosen stages; returns the exit status."""
    outcomes: list[str] = []
    for stage, parts in chosen.items():
        for part in parts:
            outcome = runner.run(part)
            outcomes.append(outcome)
            print(f"{stage}: {part.name}: {outcome}", flush=True)
            if outcome != "done" and stage == "cifar10" and part is parts[0]:
                break  # the other parts evaluate the network of this training
    if any(each.startswith("failed") for each in outcomes):
        return 1
    return 3 if any(each != "done" for each in outcomes) else 0


def listing(runner: Runner, chosen: dict[str, list[Part]]) -> str:
    """The parts of the stages, with those that are done marked, as a Markdown table."""
    rows = [
        [
            stage,
            part.name,
            "done" if runner.done(part) else "",
            f"python {shlex.join(part.command)}",
        ]
        for stage, parts in chosen.items()
        for part in parts
    ]
    return measure.table(["stage", "part", "done", "command"], rows)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments, checked."""
    parser = argparse.ArgumentParser("benchmarks.gpu", description="measurements on a CUDA device")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--stage", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--minutes", type=float, default=9.5, help="of this call")
    parser.add_argument("--train-minutes", type=float, default=25.0, help="over all calls")
    parser.add_argument("--data", type=Path, default=None, help="CIFAR-10 as Parquet files")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--work", type=Path, default=Path("runs/bench-gpu"))
    parser.add_argument("--list", action="store_true", help="stages, and what is done")
    args = parser.parse_args(argv)
    if args.minutes <= 0 or args.train_minutes <= 0:
        parser.error(
            f"--minutes and --train-minutes must be above 0, got {args.minutes:g} and "
            f"{args.train_minutes:g}"
        )
    if args.data and not any(args.data.glob("*.parquet")):
        parser.error(f"--data must be a folder of Parquet files, got {args.data}")
    return args


def main(argv: list[str] | None = None) -> int:
    """Run or resume the chosen stages; returns the exit status."""
    args = parse(argv)
    try:
        device = build_device(args.device)
    except RequestError as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return 2
    out, where = measure.folder(device, args.out), environment(str(device))
    every = stages(Options(str(device), args.work, args.data, args.train_minutes))
    if where["commit"] is None:
        print("no git checkout: no result of an earlier call counts as done", file=sys.stderr)
    runner = Runner(out, where, args.minutes)
    chosen = {name: every[name] for name in NAMES if name in args.stage}
    if args.list:
        print(listing(runner, chosen))
        return 0
    try:
        return go(runner, chosen)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
