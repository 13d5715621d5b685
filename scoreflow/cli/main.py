"""From argv to a mode and an exit status; one line for what is wrong."""

import errno
import importlib
import io
import os
import sys
import textwrap
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from scoreflow.cli import command_line
from scoreflow.errors import RequestError, RunError, Stopped, printable, warn
from scoreflow.runtime import distributed
from scoreflow.runtime.termination import Terminated, as_interrupts
from scoreflow.schema import resolve, samplers
from scoreflow.schema.request import Request
from scoreflow.version import __version__

HELP = """ScoreFlow: diffusion as a discrete VP-SDE: train, sample, exact likelihood.

  python run.py --mode train [--sde vp] [--config configs/digits.py] [--workdir runs/digits-vp]
  python run.py --mode sample --sampler ancestral|pc|ode --workdir DIR
  python run.py --mode likelihood|classify|classifier --workdir DIR
  python run.py --mode compare --workdir DIR [--samplers ancestral,pc,ode]
  python run.py --mode compare --runs DIR,DIR,... [--workdir OUT]
  python run.py --mode equivalence|profile [--workdir DIR]
  python run.py --mode import --from PATH --workdir DIR [--as FORMAT | --recipe NAME]
  python run.py --mode export --to diffusers|safetensors --out PATH --workdir DIR
  python run.py --mode compress --workdir DIR --out FILE.sf
  python run.py --mode decompress --in FILE.sf --out FOLDER [--workdir DIR]
  python run.py --mode table DIR DIR ... [--sort COLUMN] [--out FILE.html|.csv|.json]
  python run.py --mode features --workdir DIR --config.features.layer=NAME [--out FILE.npz]

  --mode      train (again: resumes), classify (by the likelihood of each class), classifier (of
              noisy images), profile (where a training step's time goes), import (a checkpoint of
              another codebase; docs/interop.md), compress (images as a file), features
              (activations of a layer), table (runs side by side); the others as they are named
  --workdir   the run's folder; default for train: runs/EXPERIMENT-SDE
              (equivalence and profile without one: a fresh network)
  --config    an experiment, configs/*.py; default digits
  --sde       vp, subvp, ve, rectified or edm          (short for --config.sde.name)
  --sampler   short for --config.sampling.sampler:
              SAMPLERS
  --version   print it
  --data      digits, a folder of images or a name on the Hub (short for --config.data.name,
              --config.data.path); an imported run takes any that fit its network
  --from      import: a file, a folder, or a name on the Hugging Face Hub
  --as        import: its format, where it is not recognised
  --recipe    import: a published network, by its file's name
  --set       import: answers to what the file does not say, as heads=4,steps=4000
  --anyway    import: keep it although the check on arrival fails
  --to, --out, --weights ema|raw       export: in which format, into which folder or file
  --runs      compare: several runs in pairs on the same images and noise, into the folder
              --workdir (default runs/compare-HASH); table: the runs
  --device    cpu, cuda, cuda:1, ...; default: the best one found
  --config.SECTION.KEY=VALUE           any key of docs/config.md; on a trained run only
                                       the sections that belong to their modes
""".replace("SAMPLERS", textwrap.fill(", ".join(samplers.NAMES), 76, subsequent_indent=" " * 14))

STOPPED = {
    "train": "; the same command goes on from the last checkpoint, if one was written",
    "sample": "; with sampling.save, the images that are done are kept, and the same command goes "
    "on after them",
    "compare": "; the cases that are done are kept, and the same command goes on after them",
    "likelihood": "; the images that are done are kept, and the same command goes on after them",
    "classify": "; the images that are done are kept, and the same command goes on after them",
    "classifier": "; a classifier that was there stays as it was, and the same command begins "
    "anew",
    "equivalence": "; a result that was there stays as it was, and the same command begins anew",
    "profile": "; a result that was there stays as it was, and the same command begins anew",
    "import": "; nothing was written",
    "export": "; nothing was written",
    "table": "; nothing was written",
    "features": "; no file was written; of a sweep the cases that are done are kept, and the same "
    "command goes on after them",
    "compress": "; no file was written; laws that were measured are kept, and of a lossless file "
    "what was encoded up to seconds ago: the same command goes on after it",
    "decompress": "; nothing was written",
}
"""What is left when a mode is interrupted."""


CLOSED_PIPE = 128 + 13
"""Exit status of a program that SIGPIPE ended, as a shell gives it."""

OF_THE_MACHINE = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EIO", "EROFS", "ESTALE", "ENOMEM", "EMFILE", "ENFILE")
    if hasattr(errno, name)
}
"""Failures that are no defect of the program, whatever file they are about."""
LONGEST_LINE = 4000
"""Characters of a line about what is wrong."""
MOST_SAID = 200
"""Characters of what torch says that a line repeats."""

SHARED = ("train", "sample", "likelihood", "classify", "features", "compare")
"""Modes whose batches or images several processes share."""

FILES = {
    "import": "import_network",
    "export": "export_network",
    "features": "applications.features",
    "classify": "applications.classify",
    "compress": "applications.compress",
    "decompress": "applications.decompress",
}
"""Modules of modes whose names are no names of modules."""

UNTRAINED = ("train", "equivalence", "profile", "table", "decompress")
"""Modes that do not need a trained run in --workdir; the last one's file names its own."""


def main(argv: list[str]) -> int:
    """Run a command; returns the exit status: 0 done, 1 the run failed, 2 the request was wrong.

    Only what is foreseen becomes a line; a defect of the program keeps its traceback.
    """
    if {"--help", "-h", "--helpfull", "-help"} & set(argv[1:]):
        print(HELP.replace("python run.py", command_line.program_of(argv)), end="")
        return 0
    if "--version" in argv[1:]:
        print(f"scoreflow {__version__}")
        return 0
    mode = ""
    try:
        with as_interrupts(lambda end: _stopped(end, mode)):
            request = command_line.parse(argv)
            mode = request.mode
            _run(request, argv)
    except RequestError as error:
        return _fail(argv, error, 2)
    except RunError as error:
        return _fail(argv, error, 1)
    except ValueError as error:
        if not str(error).startswith("SCOREFLOW_FUSED"):
            raise
        return _fail(argv, error, 2)
    except (MemoryError, RuntimeError) as error:
        if not (told := _no_room(error)):
            raise
        return _fail(argv, RunError(f"there is not enough memory: {told}"), 1)
    except Stopped as stopped:
        warn(str(stopped))
        return stopped.status
    except Terminated as end:
        _stopped(end, mode)
        return end.status
    except KeyboardInterrupt:
        _stopped("stopped", mode)
        return 130
    except OSError as error:
        if (of_a_file := _of_a_file(error)) is None:
            raise
        return _fail(argv, of_a_file, 1)
    finally:  # a process that ends inside its group is aborted, whatever status it returns
        _leave()
    return 0


def _stopped(why: object, mode: str) -> None:
    warn(f"{why}{STOPPED.get(mode, '')}")


def _of_a_file(error: OSError) -> RunError | None:
    """What the system refuses about a file, as a line; None where it is of standard output."""
    if isinstance(error, ConnectionError):  # a closed pipe
        return None
    if error.filename is None and (error.errno not in OF_THE_MACHINE or not _can_print()):
        return None
    where = error.filename if error.filename is not None else "a file"
    if isinstance(where, bytes):
        where = os.fsdecode(where)
    return RunError(
        f"cannot read or write {where} ({error.strerror}): what was written before is kept, and "
        "the same command goes on when this is mended"
    )


def _can_print() -> bool:
    """Whether standard output takes something, which on a full disk it does not."""
    try:
        sys.stdout.flush()
        os.write(sys.stdout.fileno(), b"")
    except OSError:
        return False
    return True


def script() -> NoReturn:
    """The command line of this process: `run.py`, `scoreflow` and `python -m scoreflow`."""
    # How long an idle OpenMP thread spins before it sleeps; torch reads it when it is imported.
    # GNU's own is so long that on shared cores every small operation waits for its turn.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if os.environ.get("WORLD_SIZE"):  # else torch prints its stack beside our line
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    _open_closed()
    _print_anything()
    try:
        status = main(sys.argv)
        sys.stdout.flush()
    except BrokenPipeError:  # of a reader that is gone, as after `| head -1`
        if not _forget_output():
            raise
        status = CLOSED_PIPE
    except OSError as error:
        if not _forget_output():
            raise
        status = _fail(sys.argv, _unprinted(error), 1)
    except Exception:
        if not os.environ.get("WORLD_SIZE"):
            raise
        traceback.print_exc()  # a defect: its traceback, and the status of any other failure
        status = 1
    if not os.environ.get("WORLD_SIZE"):
        sys.exit(status)
    # Gloo's threads, which a failed training still holds, abort an interpreter that is torn down
    # (status -6) even after the group was left; everything that matters is on the disk by now.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _print_anything() -> None:
    """Let a terminal that lacks a character show its number, not end the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _open_closed() -> None:
    """Have a stream that was closed before we began, as by `>&-`, go nowhere, and say so once.

    A file that a program opens would else get its number, and all that is printed.
    """
    closed = [name for name in ("stdin", "stdout", "stderr") if getattr(sys, name) is None]
    for name in closed:
        nowhere = open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8")  # noqa: SIM115
        setattr(sys, name, nowhere)  # the lowest free number: that of the stream itself
    if "stdout" in closed:
        warn("standard output is closed: what would be printed is not shown")


def _unprinted(error: OSError) -> RunError:
    """That standard output takes no more, a full disk's file, say."""
    return RunError(
        f"cannot write to standard output ({error.strerror}): what is done is in the run's folder"
    )


def _forget_output() -> bool:
    """Have what cannot be printed go nowhere, so that the interpreter ends without a word.

    Returns:
        Whether there was any.
    """
    nowhere, closed = os.open(os.devnull, os.O_WRONLY), False
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
            if not closed:  # of an unbuffered stream nothing is left that could fail again
                os.write(stream.fileno(), b"\n")
        except OSError:
            os.dup2(nowhere, stream.fileno())
            closed = True
    return closed


def _fail(argv: list[str], error: Exception, status: int) -> int:
    name = Path(argv[0]).name
    who = f"process {rank}: " if (rank := _rank()) else ""
    said = printable(" ".join(str(error).split()))
    if len(said) > LONGEST_LINE:  # a value of thousands of letters: both ends say enough
        said = f"{said[: LONGEST_LINE // 2]} ... {said[-LONGEST_LINE // 2 :]}"
    warn(f"{'scoreflow' if name == '__main__.py' else name}: {who}{said}")
    return status


def _no_room(error: MemoryError | RuntimeError) -> str:
    """What was too large, with what to do; "" where memory is not what failed."""
    from scoreflow.runtime.memory import no_room  # which needs torch

    said = no_room(error)
    return said and f"{said[:MOST_SAID]}; ask for smaller sizes (batch_size, num_images, channels)"


def _rank() -> int:
    """Of this process; 0 also where the environment contradicts itself, which is what failed."""
    with suppress(RequestError):
        return distributed.placement().rank
    return 0


def _leave() -> None:
    if os.environ.get("WORLD_SIZE"):
        distributed.leave()


def _run(request: Request, argv: list[str]) -> None:
    if told := distributed.remark():
        warn(told)
    if request.mode not in SHARED and distributed.placement().world > 1:
        raise RequestError(
            f"--mode {request.mode} runs in one process; torchrun is for {', '.join(SHARED)}"
        )
    if request.workdir is None and request.listing is None and request.mode not in UNTRAINED:
        which = "a new folder" if request.mode == "import" else "the folder of a trained run"
        raise RequestError(f"--mode {request.mode} needs --workdir DIR, {which}")
    elsewhere = request.listing is not None or request.mode == "decompress"
    fresh = request.workdir is None and not elsewhere
    if fresh or request.mode == "train":
        resolve.training_config(request)
    # torch and all that needs it come late: what the flags have wrong is answered at once
    if request.mode in SHARED:
        if distributed.placement().world > 1:
            from scoreflow.runtime.device import build_device  # which needs torch

            build_device(request.device)  # or refused, before anybody waits for anybody
        distributed.shard()  # before any work, for which the others would wait in vain
    module = FILES.get(request.mode, request.mode)
    importlib.import_module(f"scoreflow.cli.modes.{module}").run(request, argv)
