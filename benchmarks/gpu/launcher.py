"""All measurements on a CUDA device, by one command that resumes when it is called again.

    python -m benchmarks.gpu [--device cuda] [--stage NAME ...] [--part NAME ...] [--minutes 9.5]
                             [--data DIR] [--subset N] [--train-minutes 25] [--out DIR]
                             [--work DIR] [--list] [--dry-run]

Stages: check (agreement with a CPU, and the certificate), training, sampling, likelihood, growth,
cifar10 (a training of 25 minutes, then samples, likelihood, its images/s at an error, and
comparison). `benchmarks/gpu/stages.py` has their commands.

A call takes --minutes at most: a part that still runs is interrupted, and the same command goes
on; one that had the whole call, and neither resumes nor compiled anything new, has failed.
Results are written to --out (results/ and the GPU's name); a part with a result of these files (a
hash of the sources, `benchmarks/gpu/sources.py`) and this torch is not run again. The files of
parts that resume (the training from its last checkpoint, the likelihood, the comparison), and what
was compiled, are in --work, which a later call must find. --subset N trains and measures the stage
cifar10 on the first N images of each split, and its results say so.

--dry-run does as little as each command can, on the CPU, uncompiled, with results in --work, to
see before a GPU is there that all of it runs.

Exit status: 0 all chosen stages are done; 3 call again; 1 a part failed; 2 a wrong request.
"""

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import contenders, measure
from benchmarks.gpu import images
from benchmarks.gpu.sources import ROOT, fingerprint
from benchmarks.gpu.stages import Options, Part, stages
from scoreflow.errors import RequestError, did_you_mean
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
        where: `environment` of this call, and `sources`, the hash of the files.
        minutes: limit of the call.
        more: variables of the environment of each command.
    """

    def __init__(
        self, out: Path, where: Json, minutes: float, more: dict[str, str] | None = None
    ) -> None:
        self.out, self.where, self.minutes = out, where, minutes
        self.variables = {**os.environ, **(more or {})}
        self.end = time.monotonic() + 60 * minutes
        self.begun = False

    def done(self, part: Part) -> bool:
        """Whether it has a result of these files, whatever git says, and of as many images."""
        path = self.out / f"{part.name}.json"
        if not path.exists():
            return False
        found = json.loads(path.read_bytes())
        same = found.get("environment", {}).get("sources") == self.where["sources"]
        return bool(same and found.get("subset", 0) == part.subset)

    def run(self, part: Part) -> str:
        """Start or resume a part; returns "done", "not yet: why" or "failed: why"."""
        if self.done(part):
            return "done"
        left = self.end - time.monotonic()
        if left < 60 * part.least and (self.begun or left <= 0):
            return f"not yet: {max(left, 0) / 60:.1f} minutes are left of this call"
        first, self.begun = not self.begun, True
        spent, made_by = self._spent(part)
        if part.minutes and made_by not in (None, self.where["sources"]):
            return (
                f"failed: {part.at} was made by other files or another torch ({made_by}, not "
                f"{self.where['sources']}); remove it, or name another --work"
            )
        if part.minutes:
            left = min(left, 60 * part.minutes - spent)
        measure.say(f"== {part.name}: python {shlex.join(part.command)}")
        part.at.mkdir(parents=True, exist_ok=True)
        start, compiled = time.monotonic(), self._compiled()
        try:
            status = self._child(part, left) if left > 0 else STOPPED[0]
        finally:
            spent += time.monotonic() - start
            self._write_spent(part, spent)
        over = status in STOPPED and spent >= 60 * part.minutes
        if part.minutes and (status == 0 or over):
            status = _training_result(part, spent)
        if status in STOPPED:
            return self._stopped(part, first, more=self._compiled() - compiled)
        return f"failed: status {status}" if status else self.keep(part)

    def _stopped(self, part: Part, first: bool, more: int) -> str:
        """The outcome of a part that was interrupted.

        Args:
            part: which one.
            first: whether it had the whole call.
            more: files that it compiled in this call, which the next one need not.
        """
        why = "not yet: stopped at the call's end"
        if part.goes_on:
            return f"{why}, and goes on from there"
        if more > 0:
            return f"{why}, and goes on from what was compiled ({more} files more)"
        if first:
            return f"failed: it needs more than {self.minutes:g} minutes (--minutes)"
        return why

    def _compiled(self) -> int:
        """Files of compiled networks that are kept for the next call."""
        folder = Path(self.variables.get("TORCHINDUCTOR_CACHE_DIR") or os.devnull)
        return sum(path.is_file() and not _passing(path) for path in folder.rglob("*"))

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
            where = {**result.get("environment", self.where), "sources": self.where["sources"]}
            result = {"command": command, **result, "environment": where}
            result |= {"subset": part.subset} if part.subset else {}
            write_atomic(self.out / name, dumps(result, name, ValueError))
        return "done"

    def _child(self, part: Part, seconds: float) -> int:
        if not part.inside:
            return run_child([sys.executable, *part.command], seconds, self.variables)
        script, *more = part.command
        command = [sys.executable, str(ROOT / script), *more]
        return run_child(command, seconds, self.variables, part.at)

    def _spent(self, part: Part) -> tuple[float, str | None]:
        """Seconds spent by earlier calls, and the hash of their files."""
        path = _spent_path(part)
        if not path.exists():
            return 0.0, None
        found = load_json(path, missing=f"no {path}", remedy=f"remove it, and {part.at}")
        return float(found["seconds"]), found.get("sources", "of an older version")

    def _write_spent(self, part: Part, seconds: float) -> None:
        if part.minutes:
            kept = {"seconds": seconds, "sources": self.where["sources"]}
            write_atomic(_spent_path(part), dumps(kept, "spent", ValueError))


def run_child(
    command: list[str], seconds: float, variables: dict[str, str], folder: Path | None = None
) -> int:
    """Exit status of a command; one of `STOPPED` if it took longer and was interrupted.

    Args:
        command: and its arguments.
        seconds: that it may take.
        variables: all of its environment.
        folder: that it is run in; None for this one.
    """
    child = subprocess.Popen(command, env=variables, cwd=folder)
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


def _passing(path: Path) -> bool:
    """Whether a compiler that was interrupted leaves such a file: the next one takes another."""
    return path.suffix in (".tmp", ".lock") or any(name.startswith("tmp.") for name in path.parts)


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


def go(runner: Runner, chosen: dict[str, list[Part]]) -> int:
    """Run every part of the chosen stages; returns the exit status."""
    outcomes: list[str] = []
    for stage, parts in chosen.items():
        for part in parts:
            outcome = runner.run(part)
            outcomes.append(outcome)
            print(f"{stage}: {part.name}: {outcome}", flush=True)
            if outcome != "done" and part.minutes:
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
            f"{part.least:g}",
            "done" if runner.done(part) else "",
            f"python {shlex.join(part.command)}",
        ]
        for stage, parts in chosen.items()
        for part in parts
    ]
    return measure.table(["stage", "part", "minutes", "done", "command"], rows)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments, checked."""
    parser = argparse.ArgumentParser("benchmarks.gpu", description="measurements on a CUDA device")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--stage", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--part", nargs="+", default=(), help="of the stages; --list names them")
    parser.add_argument("--minutes", type=float, default=9.5, help="of this call")
    parser.add_argument("--train-minutes", type=float, default=25.0, help="over all calls")
    parser.add_argument("--data", type=Path, default=None, help="CIFAR-10 as Parquet files")
    parser.add_argument("--subset", type=int, default=0, help="the first N images of each split")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--work", type=Path, default=Path("runs/bench-gpu"))
    parser.add_argument("--list", action="store_true", help="parts, and what is done")
    parser.add_argument("--dry-run", action="store_true", help="tiny, on the CPU")
    args = parser.parse_args(argv)
    for flag, value in (("--minutes", args.minutes), ("--train-minutes", args.train_minutes)):
        if value <= 0:
            parser.error(f"{flag} must be above 0, got {value:g}")
    if args.subset < 0:
        parser.error(f"--subset must be 0, for all images, or more, got {args.subset}")
    if args.data and not any(args.data.glob("*.parquet")):
        parser.error(f"--data must be a folder of Parquet files, got {args.data}")
    if args.subset and not args.data:
        parser.error("--subset takes the first images of --data DIR, and needs it")
    if args.dry_run:
        args.device, args.work = "cpu", args.work / "dry-run"
        args.out = args.out or args.work / "results"
    return args


def chosen_parts(args: argparse.Namespace) -> dict[str, list[Part]]:
    """The parts that are asked for, by stage, in their order.

    Raises:
        RequestError: there is no such part, or fewer images than --subset.
    """
    data = args.data
    if args.subset:
        data = images.subset(data, args.subset, args.work / f"images-{args.subset}")
    options = Options(
        args.device,
        args.work,
        data,
        args.train_minutes,
        args.subset,
        dry=args.dry_run,
        half=half_of(args.device),
    )
    every = {name: parts for name, parts in stages(options).items() if name in args.stage}
    known = [part.name for parts in every.values() for part in parts]
    if unknown := sorted(set(args.part) - set(known)):
        hint = did_you_mean(unknown[0], known, f"they are {', '.join(known)}")
        raise RequestError(f"no such --part in these stages: {', '.join(unknown)}; {hint}")
    wanted = args.part or known
    return {name: [p for p in parts if p.name in wanted] for name, parts in every.items()}


def half_of(name: str) -> str:
    """The half precision of a device; where it is not there, that of one which has both."""
    try:
        return contenders.half_on(build_device(name))
    except RequestError:
        return "bfloat16"


def variables_of(args: argparse.Namespace) -> dict[str, str]:
    """What each command's environment has besides: what was compiled is kept for the next call."""
    if args.dry_run:
        return {"TORCH_COMPILE_DISABLE": "1"}
    kept = str(args.work.absolute() / "compiled")
    return {"TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR", kept)}


def what_cannot_run(chosen: dict[str, list[Part]], args: argparse.Namespace) -> dict[str, str]:
    """Stages that cannot run, and the line that says why."""
    why = "" if args.dry_run or not chosen.get("cifar10") else images.missing(args.data)
    return {"cifar10": f"cifar10: failed: {why}"} if why else {}


def listed(chosen: dict[str, list[Part]], args: argparse.Namespace) -> None:
    """Print the parts; what is done, where the device is there or --out says where that lies."""
    try:
        out = args.out or measure.folder(build_device(args.device), None)
    except RequestError as error:
        print(f"what is done is not known: {_with_remedy(error)}", file=sys.stderr)
        out = args.work / "results"
    print(listing(Runner(out, {"sources": fingerprint()}, args.minutes), chosen))


def _with_remedy(error: RequestError) -> str:
    """What is wrong with the device, and what can be done without one."""
    return str(error).replace("cpu always can", "--dry-run tries every command on the CPU")


def main(argv: list[str] | None = None) -> int:
    """Run or resume the chosen stages; returns the exit status."""
    args = parse(argv)
    try:
        chosen = chosen_parts(args)
        if args.list:
            listed(chosen, args)
            return 0
        device = build_device(args.device)
    except RequestError as error:
        print(f"benchmarks.gpu: {_with_remedy(error)}", file=sys.stderr)
        return 2
    where = {**environment(str(device)), "sources": fingerprint()}
    out = measure.folder(device, args.out)
    runner = Runner(out, where, args.minutes, variables_of(args))
    unable = what_cannot_run(chosen, args)
    _print_lines(unable)  # before hours are spent, and where the eye is in the end
    able = {stage: parts for stage, parts in chosen.items() if stage not in unable}
    try:
        status = go(runner, able)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    _print_lines(unable)
    return 1 if unable else status


def _print_lines(told: dict[str, str]) -> None:
    for line in told.values():
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
