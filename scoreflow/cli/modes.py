"""What each --mode does: objects from `build`, files through `run_dir`, words to the terminal."""

import time
from collections.abc import Callable
from dataclasses import asdict

from ml_collections import ConfigDict

from scoreflow import factory
from scoreflow.certificate import certificate
from scoreflow.cli import compare as comparison
from scoreflow.cli.classifier import save_classifier
from scoreflow.cli.likelihood import assess, measure_test_set
from scoreflow.drawings import drawing_of
from scoreflow.errors import RunError
from scoreflow.factory import Experiment
from scoreflow.generation import editing, trajectory
from scoreflow.generation.generate import draw
from scoreflow.models.score_model import ScoreModel
from scoreflow.report.page import write_report
from scoreflow.runtime import distributed
from scoreflow.runtime.environment import environment
from scoreflow.runtime.progress_bar import Progress
from scoreflow.sde.noise import Noise
from scoreflow.storage.atomic_files import write_atomic
from scoreflow.storage.run_folder import RunDir
from scoreflow.trained_run import averaged, load, trained_of, trainer_of
from scoreflow.training import profiler
from scoreflow.training.classifier_trainer import FILE, measure, train_classifier
from scoreflow.training.trainer import Interval, Trainer


def train(experiment: Experiment, run: RunDir) -> None:
    """Train, or go on training; then draw with every sampler and measure the likelihood."""
    trainer = trainer_of(experiment, distributed.shard())
    if remark := factory.remark(experiment.settings, experiment.device):
        _say(remark)
    if run.checkpoint_steps():
        load(trainer, experiment, run, _say)
        _say(f"resuming {run.path} at step {trainer.step}")
    _train_to_the_end(trainer, run)
    model = averaged(experiment, trainer.ema)
    for name in factory.COMPARED:
        _draw(experiment, name, run, model, trainer.step)
    measure_test_set(experiment, run, model, trainer.step, _say)
    if not distributed.leads():
        return
    _say(
        f"\nLook at   {write_report(run)}\n"
        f"curves    tensorboard --logdir {run.path / 'tensorboard'}\n"
        f"next      python run.py --mode sample --sampler ode --workdir {run.path}"
    )


def sample(experiment: Experiment, run: RunDir) -> None:
    """Draw with the sampler of the config, or do with the user's image what it says.

    Several processes share the images.
    """
    task = factory.build_control(experiment.config, experiment.data)
    model, step = trained_of(experiment, run, _say)
    if task is None:
        _draw(experiment, experiment.config.sampling.sampler, run, model, step)
    else:
        _control(experiment, task, run, model, step)
    if distributed.leads():
        write_report(run)


def _control(
    experiment: Experiment, task: factory.Control, run: RunDir, model: ScoreModel, step: int
) -> None:
    done = editing.do(task, experiment, run, model)
    if not distributed.leads():
        return
    settings = _recorded(experiment.config.control, experiment)
    settings["sampling"] = experiment.config.sampling.to_dict()
    run.write_image(run.sample_path(step, task.task), done.picture)
    run.write_result(task.task, {**done.result, "step": step, "settings": settings})
    page = editing.section(task, done, step)
    write_atomic(run.path / "results" / f"{task.task}.html", page.encode())
    _say(f"{done.line}; {run.sample_path(step, task.task)}")


def likelihood(experiment: Experiment, run: RunDir) -> None:
    """Measure the likelihood of the test set, and what else the config asks about it."""
    trainer = trainer_of(experiment)
    load(trainer, experiment, run, _say)
    assess(experiment, run, trainer, _say)
    if distributed.leads():
        write_report(run)


def equivalence(experiment: Experiment, run: RunDir) -> None:
    """The certificate, on the run's network, or on a fresh one where there is none.

    Raises:
        RunError: an identity failed; the results have been written.
    """
    trained = bool(run.checkpoint_steps())
    if trained:
        model, step = trained_of(experiment, run, _say)
    else:
        experiment.network.eval()
        model, step = experiment.model, 0
    start, c = time.monotonic(), experiment.config.equivalence
    model = model.around(model.network, factory.choose_precision(experiment.config))
    subject = certificate.Subject(model, experiment.data, trained)
    drawn = certificate.Amount(c.num_images, experiment.config.sampling.batch_size, c.steps)
    effort = certificate.Effort(drawn, c.batch_size, c.train_steps)
    rows = certificate.run(subject, effort, _say)
    result = certificate.as_result(rows, time.monotonic() - start)
    where = environment(str(experiment.device))
    about = {"sde": experiment.config.sde.name, "precision": model.precision, "trained": trained}
    settings = {**_recorded(c, experiment), **about}
    run.write_result(
        "equivalence", {**result, "step": step, "settings": settings, "environment": where}
    )
    failed = [identity.name for _, identity in rows if not identity.passed]
    page = write_report(run, certificate.section(rows, {**about, "step": step, **where}))
    _say(f"{len(rows) - len(failed)} of {len(rows)} identities hold; look at {page}")
    if failed:
        raise RunError(f"{len(failed)} of {len(rows)} identities failed: {'; '.join(failed)}")


def classifier(experiment: Experiment, run: RunDir) -> None:
    """Train a classifier of x_t on the run's process, measure it and keep it in the folder."""
    settings = factory.build_classifying(experiment.config)
    if (run.path / FILE).exists():
        _say(f"{run.path / FILE} is there already and will be replaced")
    start, sde = time.monotonic(), experiment.model.sde
    model = train_classifier(experiment.data, sde, experiment.objective, settings)
    seconds = time.monotonic() - start
    found = measure(model, experiment.data, settings.seed)
    save_classifier(run, model)
    recorded = _recorded(experiment.config.classifier, experiment)
    run.write_result("classifier", {**found, "seconds": seconds, "settings": recorded})
    half = found["times"][len(found["times"]) // 2]
    _say(
        f"classifier of {found['num_classes']} classes, {settings.num_steps} steps in "
        f"{seconds:.1f} s: right on {found['value']:.3f} +- {found['standard_error']:.3f} of "
        f"{found['num_test']} test images, at t = {half['t']:g} on {half['accuracy']:.3f}; "
        f"{run.path / FILE}"
    )


def compare(experiment: Experiment, run: RunDir) -> None:
    """Every sampler at every budget, from the same noise."""
    model, step = trained_of(experiment, run, _say)
    comparison.run(experiment, run, model, step, _say)
    if distributed.leads():
        _say(f"look at {write_report(run)}")


def profile(experiment: Experiment, run: RunDir) -> None:
    """Where a training step's time goes; the weights are fresh, and not kept."""
    c, trace = experiment.config.profile, run.path / "results" / "profile-trace.json.gz"
    trace.parent.mkdir(exist_ok=True)
    result = profiler.measure(trainer_of(experiment), c.num_steps, c.warmup, trace)
    settings = {**experiment.config.training.to_dict(), **_recorded(c, experiment)}
    where = environment(str(experiment.device))
    run.write_result("profile", {**result, "settings": settings, "environment": where})
    _say(f"{profiler.table(result)}\n\ntrace: {trace} (open it in https://ui.perfetto.dev)")


EVALUATIONS: dict[str, Callable[[Experiment, RunDir], None]] = {
    "sample": sample,
    "likelihood": likelihood,
    "classifier": classifier,
    "compare": compare,
    "equivalence": equivalence,
    "profile": profile,
}


def _draw(experiment: Experiment, name: str, run: RunDir, model: ScoreModel, step: int) -> None:
    config, data = experiment.config, experiment.data
    drawing = drawing_of(experiment, config, name, run, model)
    settings = _recorded(config.sampling, experiment)
    settings |= {"sampler": name, "guide": factory.build_guidance(config, model, data).guide}
    drawn = draw(drawing, name, model.sde, data, config.sampling)
    if not distributed.leads():
        return
    run.write_image(run.sample_path(step, name), drawn.picture)
    kept = {**drawn.result, "step": step, "settings": settings}
    if config.sampling.progressive:
        shown = trajectory.SHOWN if data.num_levels is not None else len(drawn.samples)
        last = drawn.samples[:shown]
        noise = Noise.of(config.sampling.seed, 0, len(last), data.train.device)
        seen = trajectory.follow(drawing, model.sde, noise, data, last)
        strip = run.sample_path(step, f"{name}-progress")
        run.write_image(strip, trajectory.strip(seen, data))
        run.write_image(strip.with_suffix(".gif"), trajectory.animation(seen, data))
        kept["progress"] = f"x_0 estimated at {len(seen.times)} times"
    run.write_result(f"samples-{name}", kept)
    _say(f"{drawn.line}; {run.sample_path(step, name)}")


def _recorded(section: ConfigDict, experiment: Experiment) -> dict[str, object]:
    return {**section.to_dict(), "device": str(experiment.device)}


def _train_to_the_end(trainer: Trainer, run: RunDir) -> None:
    if not distributed.leads():
        for _ in trainer.run():
            pass
        return
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
    if distributed.leads():
        print(text, flush=True)
