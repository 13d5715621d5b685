"""What each --mode does: objects from `build`, files through `run_dir`, words to the terminal."""

import time
from collections.abc import Callable
from dataclasses import asdict

from ml_collections import ConfigDict

from scoreflow import build, comparison, control, parallel, profiling, progressive, report
from scoreflow import equivalence as certificate
from scoreflow.build import Experiment
from scoreflow.classifying import FILE, measure, save_classifier, train_classifier
from scoreflow.draw import draw
from scoreflow.drawings import drawing_of
from scoreflow.environment import environment
from scoreflow.errors import RunError
from scoreflow.files import write_atomic
from scoreflow.likelihoods import assess, measure_test_set
from scoreflow.model import ScoreModel
from scoreflow.progress import Progress
from scoreflow.run_dir import RunDir
from scoreflow.train import Interval, Trainer
from scoreflow.trained import averaged, load, trained_of, trainer_of
from sde.noise import Noise


def train(experiment: Experiment, run: RunDir) -> None:
    """Train, or go on training; then draw with every sampler and measure the likelihood."""
    trainer = trainer_of(experiment, parallel.shard())
    if remark := build.remark(experiment.settings, experiment.device):
        _say(remark)
    if run.checkpoint_steps():
        load(trainer, experiment, run, _say)
        _say(f"resuming {run.path} at step {trainer.step}")
    _train_to_the_end(trainer, run)
    model = averaged(experiment, trainer.ema)
    for name in build.COMPARED:
        _draw(experiment, name, run, model, trainer.step)
    measure_test_set(experiment, run, model, trainer.step, _say)
    if not parallel.leads():
        return
    _say(
        f"\nLook at   {report.write(run)}\n"
        f"curves    tensorboard --logdir {run.path / 'tensorboard'}\n"
        f"next      python run.py --mode sample --sampler ode --workdir {run.path}"
    )


def sample(experiment: Experiment, run: RunDir) -> None:
    """Draw with the sampler of the config, or do with the user's image what it says.

    Several processes share the images.
    """
    task = build.build_control(experiment.config, experiment.data)
    model, step = trained_of(experiment, run, _say)
    if task is None:
        _draw(experiment, experiment.config.sampling.sampler, run, model, step)
    else:
        _control(experiment, task, run, model, step)
    if parallel.leads():
        report.write(run)


def _control(
    experiment: Experiment, task: build.Control, run: RunDir, model: ScoreModel, step: int
) -> None:
    done = control.do(task, experiment, run, model)
    if not parallel.leads():
        return
    settings = _recorded(experiment.config.control, experiment)
    settings["sampling"] = experiment.config.sampling.to_dict()
    run.write_image(run.sample_path(step, task.task), done.picture)
    run.write_result(task.task, {**done.result, "step": step, "settings": settings})
    page = control.section(task, done, step)
    write_atomic(run.path / "results" / f"{task.task}.html", page.encode())
    _say(f"{done.line}; {run.sample_path(step, task.task)}")


def likelihood(experiment: Experiment, run: RunDir) -> None:
    """Measure the likelihood of the test set, and what else the config asks about it."""
    trainer = trainer_of(experiment)
    load(trainer, experiment, run, _say)
    assess(experiment, run, trainer, _say)
    if parallel.leads():
        report.write(run)


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
    model = model.around(model.network, build.choose_precision(experiment.config))
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
    page = report.write(run, certificate.section(rows, {**about, "step": step, **where}))
    _say(f"{len(rows) - len(failed)} of {len(rows)} identities hold; look at {page}")
    if failed:
        raise RunError(f"{len(failed)} of {len(rows)} identities failed: {'; '.join(failed)}")


def classifier(experiment: Experiment, run: RunDir) -> None:
    """Train a classifier of x_t on the run's process, measure it and keep it in the folder."""
    settings = build.build_classifying(experiment.config)
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
    if parallel.leads():
        _say(f"look at {report.write(run)}")


def profile(experiment: Experiment, run: RunDir) -> None:
    """Where a training step's time goes; the weights are fresh, and not kept."""
    c, trace = experiment.config.profile, run.path / "results" / "profile-trace.json.gz"
    trace.parent.mkdir(exist_ok=True)
    result = profiling.measure(trainer_of(experiment), c.num_steps, c.warmup, trace)
    settings = {**experiment.config.training.to_dict(), **_recorded(c, experiment)}
    where = environment(str(experiment.device))
    run.write_result("profile", {**result, "settings": settings, "environment": where})
    _say(f"{profiling.table(result)}\n\ntrace: {trace} (open it in https://ui.perfetto.dev)")


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
    settings |= {"sampler": name, "guide": build.build_guidance(config, model, data).guide}
    drawn = draw(drawing, name, model.sde, data, config.sampling)
    if not parallel.leads():
        return
    run.write_image(run.sample_path(step, name), drawn.picture)
    kept = {**drawn.result, "step": step, "settings": settings}
    if config.sampling.progressive:
        shown = progressive.SHOWN if data.num_levels is not None else len(drawn.samples)
        last = drawn.samples[:shown]
        noise = Noise.of(config.sampling.seed, 0, len(last), data.train.device)
        seen = progressive.follow(drawing, model.sde, noise, data, last)
        strip = run.sample_path(step, f"{name}-progress")
        run.write_image(strip, progressive.strip(seen, data))
        run.write_image(strip.with_suffix(".gif"), progressive.animation(seen, data))
        kept["progress"] = f"x_0 estimated at {len(seen.times)} times"
    run.write_result(f"samples-{name}", kept)
    _say(f"{drawn.line}; {run.sample_path(step, name)}")


def _recorded(section: ConfigDict, experiment: Experiment) -> dict[str, object]:
    return {**section.to_dict(), "device": str(experiment.device)}


def _train_to_the_end(trainer: Trainer, run: RunDir) -> None:
    if not parallel.leads():
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
    if parallel.leads():
        print(text, flush=True)
