"""Processes that work together, as torchrun starts them, but forked from one that has torch in it.

To import torch and the rooms takes a process seconds, most tests' work in it a tenth of that. What
is forked runs a script from the beginning to what is to be done at exit. torchrun itself has tests
too: those that have the fixture `torchrun`, which is called in the same way.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[2]
SECONDS = 400
"""After which a process is ended."""
IMPORTED = ("matplotlib.pyplot", "scipy.stats", "sklearn.linear_model", "torch.distributed")
IMPORTED += ("torch._dynamo", "torch.utils.tensorboard")  # of an optimiser and of the curves
IMPORTED += tuple(f"scoreflow.cli.modes.{mode}" for mode in ("train", "sample", "likelihood"))


class Forks:
    """Starts processes, so many at a time; the first call costs the imports."""

    def __init__(self) -> None:
        self.server: subprocess.Popen[str] | None = None

    def __call__(
        self, world: int, script: Path | str, *arguments: str
    ) -> subprocess.CompletedProcess[str]:
        """(number of processes, script, *arguments) -> what they printed, and the first status.

        A status is negative where a process died of a signal; where one fails, the others die.
        """
        from torch.distributed import TCPStore

        # As torchrun does, so that no port is free for a moment and may be taken.
        store = TCPStore("localhost", 0, None, True, wait_for_workers=False)
        command = [str(script), *arguments]
        with tempfile.TemporaryDirectory() as folder:
            out, err = (Path(folder, name) for name in ("out", "err"))
            asked = {"world": world, "port": store.port, "command": command}
            status = self._answer({**asked, "out": str(out), "err": str(err)})
            return subprocess.CompletedProcess(command, status, out.read_text(), err.read_text())

    def _answer(self, request: dict[str, object]) -> int:
        if self.server is None:
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
            self.server = subprocess.Popen(
                [sys.executable, "-m", "tests.processes.forking"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
                cwd=ROOT,
            )
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def close(self) -> None:
        """End the process that forks."""
        if self.server is not None:
            self.server.communicate()


def serve() -> None:
    """Fork what is asked for, line by line."""
    for line in sys.stdin:
        request = json.loads(line)
        children = set()
        for rank in range(request["world"]):
            if not (child := os.fork()):
                end(work, request, rank)
            children.add(child)
        print(_status(children), flush=True)


def _status(children: set[int]) -> int:
    """The first status that is not 0, when all have ended."""
    first = 0
    while children:
        child, how = os.wait()
        children.remove(child)
        first = first or os.waitstatus_to_exitcode(how)
        for other in children if first else ():
            os.kill(other, signal.SIGKILL)
    return first


def end(job: Callable[..., None], *arguments: object) -> NoReturn:
    """Do it and end, as the interpreter does without taking down what takes seconds."""
    status: object = 70
    try:
        job(*arguments)
        status = 0
    except SystemExit as asked:
        status = asked.code or 0
    except BaseException:
        status = 1
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)


def work(request: dict[str, object], rank: int) -> None:
    """Be one of the processes."""
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(str(request[name]), os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    if request["world"] != 1:
        places = {"RANK": rank, "LOCAL_RANK": rank, "TORCHELASTIC_USE_AGENT_STORE": True}
        places |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), request["world"])
        places |= {"MASTER_ADDR": "localhost", "MASTER_PORT": request["port"]}
        os.environ.update({name: str(value) for name, value in places.items()})
    sys.argv = list(request["command"])
    signal.alarm(SECONDS)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or a collection in what is forked would write to all pages
    serve()
