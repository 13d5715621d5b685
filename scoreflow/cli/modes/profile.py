"""--mode profile: where a training step's time goes; the weights are fresh, and not kept."""

from scoreflow.cli.command_line import command_of
from scoreflow.cli.console import recorded, say
from scoreflow.factory.assembly import Experiment
from scoreflow.runtime.environment import environment
from scoreflow.schema.request import Request
from scoreflow.storage.atomic_files import make_folder
from scoreflow.storage.run_folder import RunDir
from scoreflow.trained_run import open_run
from scoreflow.training import profiler
from scoreflow.training_run import fresh_run, trainer_of


def run(request: Request, argv: list[str]) -> None:
    """Profile the training of a run's config, or of an experiment where there is no run."""
    if request.workdir is None:
        with fresh_run(request, command_of(argv)) as (experiment, folder):
            profile(experiment, folder)
        return
    trained = open_run(request, say, training=True)
    profile(trained.experiment, trained.folder)


def profile(experiment: Experiment, folder: RunDir) -> None:
    """A few training steps under the profiler, into results/profile.json and a trace."""
    c, trace = experiment.config.profile, folder.path / "results" / "profile-trace.json.gz"
    make_folder(trace.parent)
    result = profiler.measure(trainer_of(experiment), c.num_steps, c.warmup, trace)
    settled = experiment.settings.precision, experiment.settings.compile
    training = experiment.config.training.to_dict()
    training["precision"], training["compile"] = settled
    settings = {**training, **recorded(c, experiment.device)}
    where = environment(str(experiment.device))
    whole = {**result, "settings": settings, "environment": where}
    folder.keep_result("profile", whole, {"settings": settings})
    say(f"{profiler.table(result)}\n\ntrace: {trace} (open it in https://ui.perfetto.dev)")
