"""What each --mode does: objects from `build`, files through `run_dir`, words to the terminal."""

import time
from collections.abc import Callable
from dataclasses import asdict

from ml_collections import ConfigDict
from torch import Tensor

from scoreflow import build, report, toy
from scoreflow import equivalence as certificate
from scoreflow.build import Experiment
from scoreflow.draw import draw, draw_samples
from scoreflow.ema import EMA
from scoreflow.errors import RequestError, RunError
from scoreflow.evaluate import measure
from scoreflow.model import ScoreModel
from scoreflow.progress import Progress
from scoreflow.run_dir import RunDir
from scoreflow.train import Interval, Trainer
from sde.noise import Noise


def train(experiment: Experiment, run: RunDir) -> None:
    """Train, or go on training; then draw with every sampler and measure the likelihood."""
    trainer = _trainer(experiment)
    if run.checkpoint_steps():
        _load(trainer, experiment, run)
        _say(f"resuming {run.path} at step {trainer.step}")
    _train_to_the_end(trainer, run)
    model = _averaged(experiment, trainer.ema)
    for name in build.COMPARED:
        _draw(experiment, name, run, model, trainer.step)
    _measure(experiment, run, model, trainer.step)
    _say(
        f"\nLook at   {report.write(run)}\n"
        f"curves    tensorboard --logdir {run.path / 'tensorboard'}\n"
        f"next      python run.py --mode sample --sampler ode --workdir {run.path}"
    )


def sample(experiment: Experiment, run: RunDir) -> None:
    """Draw with the sampler of the config."""
    model, step = _trained(experiment, run)
    _draw(experiment, experiment.config.sampling.sampler, run, model, step)
    report.write(run)


def likelihood(experiment: Experiment, run: RunDir) -> None:
    """Measure the likelihood of the test set."""
    model, step = _trained(experiment, run)
    _measure(experiment, run, model, step)
    report.write(run)


def equivalence(experiment: Experiment, run: RunDir) -> None:
    """The certificate, on the run's network, or on a fresh one where there is none.

    Raises:
        RunError: an identity failed; the results have been written.
    """
    trained = bool(run.checkpoint_steps())
    if trained:
        model, step = _trained(experiment, run)
    else:
        experiment.network.eval()
        model, step = experiment.model, 0
    start, c = time.monotonic(), experiment.config.equivalence

    def drawn(name: str, seed: int, count: int) -> Tensor:
        drawing = build.build_drawing(experiment.config, name, model, experiment.data)
        noise = Noise.of(seed, 0, count, experiment.device)
        event = tuple(experiment.data.train.shape[1:])
        return draw_samples(
            drawing, model.sde, noise, event, experiment.config.sampling.batch_size, name
        )

    subject = certificate.Subject(model, experiment.data, drawn, trained)
    effort = certificate.Effort(c.num_images, c.batch_size, c.train_steps)
    rows = certificate.run(subject, effort, _say)
    result = certificate.as_result(rows, time.monotonic() - start)
    settings = {**_recorded(c, experiment), "trained": trained}
    run.write_result("equivalence", {**result, "step": step, "settings": settings})
    failed = [identity.name for _, identity in rows if not identity.passed]
    where = report.write(run, certificate.section(rows))
    _say(f"{len(rows) - len(failed)} of {len(rows)} identities hold; look at {where}")
    if failed:
        raise RunError(f"{len(failed)} of {len(rows)} identities failed: {'; '.join(failed)}")


EVALUATIONS: dict[str, Callable[[Experiment, RunDir], None]] = {
    "sample": sample,
    "likelihood": likelihood,
    "equivalence": equivalence,
}


def _draw(experiment: Experiment, name: str, run: RunDir, model: ScoreModel, step: int) -> None:
    drawing = build.build_drawing(experiment.config, name, model, experiment.data)
    settings = _recorded(experiment.config.sampling, experiment) | {"sampler": name}
    drawn = draw(drawing, name, model.sde, experiment.data, experiment.config.sampling)
    run.write_image(run.sample_path(step, name), drawn.picture)
    run.write_result(f"samples-{name}", {**drawn.result, "step": step, "settings": settings})
    _say(f"{drawn.line}; {run.sample_path(step, name)}")


def _measure(experiment: Experiment, run: RunDir, model: ScoreModel, step: int) -> None:
    c = experiment.config.likelihood
    data, solver = experiment.data, build.build_solver(experiment.config)
    truth = toy.distribution() if data.name == "toy" else None
    settings = _recorded(c, experiment)
    of_all = {key: settings[key] for key in settings if key not in ("num_images", "batch_size")}
    rows = run.rows("likelihood", {**of_all, "step": step})
    measured = measure(model, data, c.num_images, c.batch_size, c.seed, solver, truth, rows)
    run.write_result("likelihood", {**measured.result, "step": step, "settings": settings})
    _say(measured.line)


def _recorded(section: ConfigDict, experiment: Experiment) -> dict[str, object]:
    return {**section.to_dict(), "device": str(experiment.device)}


def _trainer(experiment: Experiment) -> Trainer:
    return Trainer(
        experiment.model,
        experiment.network,
        EMA(experiment.network, experiment.settings.ema_decay),
        experiment.data,
        experiment.objective,
        experiment.settings,
        experiment.config.seed,
    )


def _trained(experiment: Experiment, run: RunDir) -> tuple[ScoreModel, int]:
    """The run's averaged network as a Denoiser, and its step."""
    trainer = _trainer(experiment)
    _load(trainer, experiment, run)
    return _averaged(experiment, trainer.ema), trainer.step


def _load(trainer: Trainer, experiment: Experiment, run: RunDir) -> None:
    _, state = run.load_checkpoint(map_location=experiment.device, warn=_say)
    try:
        trainer.load_state(state)
    except (RuntimeError, ValueError, KeyError) as error:
        raise RequestError(
            f"the checkpoints of {run.path} are not of the network in its config.json "
            f"({str(error).splitlines()[0]}): put back the config that it was trained with"
        ) from error


def _averaged(experiment: Experiment, ema: EMA) -> ScoreModel:
    return build.build_model(experiment.config, ema.module, experiment.model.sde)


def _train_to_the_end(trainer: Trainer, run: RunDir) -> None:
    from torch.utils.tensorboard import SummaryWriter  # seconds that sampling should not pay for

    settings, start, first = trainer.settings, time.monotonic(), trainer.step
    with (
        SummaryWriter(str(run.path / "tensorboard"), purge_step=first + 1) as writer,
        Progress("train", settings.num_steps, "step", first) as progress,
    ):
        for interval in trainer.run():
            seconds = time.monotonic() - start
            rate = settings.batch_size * (interval.step - first) / seconds
            scalars = _scalars(interval)
            run.log(interval.step, seconds, **scalars)
            for name, value in {**scalars, "images_per_second": rate}.items():
                writer.add_scalar(name, value, interval.step)
            done = interval.step - progress.bar.n
            progress.advance(done, loss=f"{interval.loss:.4f}", images_per_s=f"{rate:.0f}")
            due = interval.step % settings.checkpoint_every == 0
            if due or interval.step == settings.num_steps:
                run.save_checkpoint(interval.step, trainer.state())


def _scalars(interval: Interval) -> dict[str, float]:
    return {key: value for key, value in asdict(interval).items() if key != "step"}


def _say(text: str) -> None:
    print(text, flush=True)
