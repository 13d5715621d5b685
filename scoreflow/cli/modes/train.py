"""--mode train: train a network, then draw with three samplers and measure the likelihood."""

import time
from pathlib import Path

from scoreflow.cli.command_line import command_of, program_of
from scoreflow.cli.console import say
from scoreflow.cli.modes.likelihood import measure_test_set
from scoreflow.cli.modes.sample import draw_into
from scoreflow.errors import RunError
from scoreflow.factory import training
from scoreflow.factory.assembly import Experiment
from scoreflow.factory.sampling import COMPARED
from scoreflow.report.page import write_report
from scoreflow.runtime import distributed
from scoreflow.runtime.progress_bar import Progress
from scoreflow.schema.request import Request
from scoreflow.schema.resolve import training_config
from scoreflow.storage.run_folder import RunDir
from scoreflow.trained_run import TrainedRun
from scoreflow.training.stopping import Stop
from scoreflow.training.trainer import Trainer
from scoreflow.training_run import intervals, opened, resume, trainer_of


def run(request: Request, argv: list[str]) -> None:
    """Train a new run, or go on with the one in the folder."""
    config = training_config(request)
    path = request.workdir or Path(f"runs/{request.experiment}-{config.sde.name}")
    with opened(request, path, command_of(argv), say) as (experiment, folder):
        train(experiment, folder, program_of(argv))


def train(experiment: Experiment, folder: RunDir, program: str = "scoreflow") -> None:
    """Train to the last step, then draw and measure; `program` stands in the last hint."""
    trainer = trainer_of(experiment, distributed.shard(), folder.history, say)
    asked = str(experiment.config.training.precision)
    if remark := training.remark(experiment.settings, experiment.device, asked):
        say(remark)
    if folder.checkpoint_steps():
        resume(trainer, experiment, folder, say)
        say(f"resuming {folder.path} at step {trainer.step}")
    _to_the_end(trainer, folder)
    trainer.release()
    model = experiment.model.with_network(trainer.ema.module)
    trained = TrainedRun(folder, experiment, say, (model, trainer.step))
    for name in COMPARED:
        draw_into(trained, name)
    try:
        measure_test_set(trained)
    except RunError:
        if distributed.is_main_process():
            say(f"the report, without a likelihood: {write_report(folder)}")
        raise
    if not distributed.is_main_process():
        return
    say(
        f"\nLook at   {write_report(folder)}\n"
        f"curves    tensorboard --logdir {folder.path / 'tensorboard'}\n"
        f"next      {program} --mode sample --sampler ode --workdir {folder.path}"
    )


def _to_the_end(trainer: Trainer, folder: RunDir) -> None:
    settings, first, start = trainer.settings, trainer.step, time.monotonic()
    with (
        Stop().listening() as stop,
        Progress("train", settings.num_steps, "step", first) as progress,
    ):
        for interval in intervals(trainer, folder, stop):
            images = settings.batch_size * (interval.step - first)
            progress.advance(
                interval.step - progress.bar.n,
                loss=f"{interval.loss:.4f}",
                images_per_s=f"{images / (time.monotonic() - start):.0f}",
            )
    if trainer.scaling.skipped:
        say(
            f"{trainer.scaling.skipped} of {trainer.step - first} steps skipped: their gradients "
            "overflowed in float16 (skipped in metrics.jsonl)"
        )
