"""Start the processes of one case, read their figures, and end them.

The figures are a JSON object in a line that `benchmarks.growth.case` prints.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict

from benchmarks.growth.case import MARK, Case
from scoreflow.storage.atomic_files import Json

MINUTES = 10
"""Limit of a case."""
GRACE = 10.0
"""Seconds for a launcher to end its workers."""


def run(case: Case, device: str, rounds: int) -> Json:
    """Figures that the processes of a case print; `failed` says why there are none."""
    launch, environment = [sys.executable], dict(os.environ)
    if case.processes > 1:
        launch += ["-m", "torch.distributed.run", f"--nproc_per_node={case.processes}"]
        launch += ["--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]
        device = "" if device.startswith("cuda") else device  # each process chooses its GPU
    launch += ["-m", "benchmarks.growth.case", f"--case={json.dumps(asdict(case))}"]
    launch += [f"--device={device}", f"--rounds={rounds}"]
    if case.threads:
        environment["OMP_NUM_THREADS"] = str(case.threads)
    try:
        status, stdout, stderr = output(launch, environment, 60 * MINUTES)
    except subprocess.TimeoutExpired:
        return {"failed": f"took more than {MINUTES} minutes"}
    lines = [line for line in stdout.splitlines() if line.startswith(MARK)]
    if status or not lines:
        return {"failed": reason(status, stderr)}
    return dict(json.loads(lines[-1].removeprefix(MARK)))


def output(command: list[str], env: dict[str, str], seconds: float) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command.

    The workers of a launcher are in other sessions: SIGTERM lets the launcher end them.

    Raises:
        subprocess.TimeoutExpired: it ran longer than `seconds`; it has been ended.
    """
    pipe = subprocess.PIPE
    child = subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True)
    with child:
        try:
            stdout, stderr = child.communicate(timeout=seconds)
        finally:
            if child.poll() is None:
                end(child)
    return child.returncode, stdout, stderr


def end(child: subprocess.Popen[str]) -> None:
    """Send SIGTERM to a process, and kill it if it still runs after `GRACE` seconds."""
    child.terminate()
    try:
        child.communicate(timeout=GRACE)
    except subprocess.TimeoutExpired:
        pass
    finally:
        child.kill()


def reason(status: int, stderr: str) -> str:
    """Why a process ended, in a line."""
    if status < 0:
        return f"killed by signal {-status}" + ", as a rule for its memory" * (status == -9)
    errors = [line.strip() for line in stderr.splitlines() if "Error" in line]
    return f"died: {(errors or [f'status {status}'])[-1]:.100}"
