"""From argv to a mode and an exit status; one line for what is wrong."""

import os
import shlex
import sys
from pathlib import Path
from typing import Any

from scoreflow.cli import command_line
from scoreflow.errors import RequestError, RunError
from scoreflow.schema import request, resolve
from scoreflow.schema.request import Request

HELP = """ScoreFlow: diffusion as a discrete VP-SDE: train, sample, exact likelihood.

  python run.py --mode train [--sde vp] [--config configs/digits.py] [--workdir runs/digits-vp]
  python run.py --mode sample --sampler ancestral|pc|ode --workdir DIR
  python run.py --mode likelihood --workdir DIR
  python run.py --mode classifier --workdir DIR
  python run.py --mode compare --workdir DIR [--samplers ancestral,pc,ode]
  python run.py --mode equivalence|profile [--workdir DIR]

  --mode      train (again: resumes), sample, likelihood, compare, classifier, equivalence,
              profile (where a training step's time goes)
  --workdir   the run's folder; default for train: runs/EXPERIMENT-SDE
              (equivalence and profile without one: a fresh network)
  --config    an experiment, configs/*.py; default digits
  --sde       vp, subvp or ve          (short for --config.sde.name)
  --sampler   ancestral, pc, ode, ddim, reverse_diffusion, euler_maruyama, heun, dpm,
              dpm_sde, deis or unipc   (short for --config.sampling.sampler)
  --device    cpu, cuda, cuda:1, ...; default: the best one found
  --config.SECTION.KEY=VALUE           any key of configs/default.py; on a trained run only
                                       the sections that belong to their modes
"""

STOPPED = {
    "train": "; the same command goes on from the last checkpoint, if one was written",
    "compare": "; the cases that are done are kept, and the same command goes on after them",
    "likelihood": "; the images that are done are kept, and the same command goes on after them",
}
"""What is left when a mode is interrupted."""


SHARED = ("train", "sample", "likelihood", "compare")
"""Modes whose batches or images several processes share."""


def main(argv: list[str]) -> int:
    """Run a command; returns the exit status: 0 done, 1 the run failed, 2 the request was wrong.

    Only what is foreseen becomes a line; a defect of the program keeps its traceback.
    """
    if {"--help", "-h", "--helpfull", "-help"} & set(argv[1:]):
        print(HELP, end="")
        return 0
    mode = ""
    try:
        asked = command_line.parse(argv)
        mode = asked.mode
        _run(asked, argv)
    except RequestError as error:
        return _fail(error, 2)
    except RunError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        print(f"stopped{STOPPED.get(mode, '')}", file=sys.stderr)
        return 130
    finally:  # a process that ends inside its group is aborted, whatever status it returns
        _leave()
    return 0


def _fail(error: Exception, status: int) -> int:
    who = f"process {rank}: " if (rank := int(os.environ.get("RANK", "0"))) else ""
    print(f"run.py: {who}{' '.join(str(error).split())}", file=sys.stderr)
    return status


def _leave() -> None:
    if "WORLD_SIZE" in os.environ:
        from scoreflow.runtime import distributed

        distributed.leave()


def _run(asked: Request, argv: list[str]) -> None:
    if asked.mode not in SHARED and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RequestError(
            f"--mode {asked.mode} runs in one process; torchrun is for {', '.join(SHARED)}"
        )
    if asked.mode == "train":
        _train(asked, argv)
    elif asked.mode in ("equivalence", "profile") and asked.workdir is None:
        _evaluate_untrained(asked, argv)
    else:
        _evaluate(asked)


# torch and all that needs it come late: what the flags have wrong is answered at once


def _train(asked: Request, argv: list[str]) -> None:
    config = resolve.training_config(asked)
    workdir = asked.workdir or Path(f"runs/{asked.experiment}-{config.sde.name}")
    from scoreflow import factory
    from scoreflow.cli import modes
    from scoreflow.runtime import distributed
    from scoreflow.storage.run_folder import RunDir

    shard = distributed.shard()
    resumes = (workdir / "config.json").exists()
    shard.wait()  # the first process makes the folder that the others ask about
    if resumes:
        saved = request.flatten(RunDir.open(workdir).config)
        config = resolve.resumed_config(asked, saved, workdir / "config.json")
    experiment = factory.experiment(config, factory.build_device(asked.device))
    if not distributed.leads():
        shard.wait()
        modes.train(experiment, RunDir.open(workdir))
        return
    with (
        RunDir.open(workdir, training=True)
        if resumes
        else RunDir.create(workdir, config.to_dict(), {}) as run
    ):
        run.write_env(environment(argv, str(experiment.device)))
        shard.wait()
        modes.train(experiment, run)


def _evaluate(asked: Request) -> None:
    if asked.workdir is None:
        raise RequestError(f"--mode {asked.mode} needs --workdir DIR, the folder of a trained run")
    from scoreflow import factory
    from scoreflow.cli import modes
    from scoreflow.storage.run_folder import RunDir

    run = RunDir.open(asked.workdir)
    saved = request.flatten(run.config)
    config = resolve.evaluation_config(asked, saved, asked.workdir / "config.json")
    if not run.checkpoint_steps():
        raise RequestError(f"{run.path} has no checkpoint: train it with --mode train")
    training = asked.mode == "profile"
    experiment = factory.experiment(config, factory.build_device(asked.device), training)
    modes.EVALUATIONS[asked.mode](experiment, run)


def _evaluate_untrained(asked: Request, argv: list[str]) -> None:
    config = resolve.training_config(asked)
    workdir = Path(f"runs/{asked.mode}-{asked.experiment}-{config.sde.name}")
    from scoreflow import factory
    from scoreflow.cli import modes
    from scoreflow.storage.run_folder import RunDir

    exists = (workdir / "config.json").exists()
    if exists:
        saved = request.flatten(RunDir.open(workdir).config)
        resolve.untrained_config(asked, saved, workdir / "config.json")
    training = asked.mode == "profile"
    experiment = factory.experiment(config, factory.build_device(asked.device), training)
    run = RunDir.open(workdir) if exists else RunDir.create(workdir, config.to_dict(), {})
    run.write_env(environment(argv, str(experiment.device)))
    with run:
        modes.EVALUATIONS[asked.mode](experiment, run)


def environment(argv: list[str], device: str) -> dict[str, Any]:
    """Command, commit, versions and device of this process."""
    from scoreflow.runtime import environment as where

    return {"command": shlex.join(argv), **where.environment(device)}
