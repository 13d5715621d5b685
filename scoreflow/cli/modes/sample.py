"""--mode sample: draw with the sampler of the config, or edit the user's image."""

from scoreflow.cli.console import recorded, say
from scoreflow.evaluation.sample_summary import draw
from scoreflow.factory.editing import build_control, build_flow_plan
from scoreflow.factory.guidance import build_guidance
from scoreflow.generation import edit_summary, editing, trajectory
from scoreflow.generation.edit_plan import EditPlan
from scoreflow.report.page import write_report
from scoreflow.runtime import distributed
from scoreflow.schema.request import Request
from scoreflow.schema.task_keys import LATENT_TASKS
from scoreflow.sde.noise import Noise
from scoreflow.storage.atomic_files import Json
from scoreflow.trained_run import TrainedRun, open_run


def run(request: Request, _argv: list[str]) -> None:
    """Draw, or do sampling.task; several processes share the images."""
    sample(open_run(request, say))


def sample(trained: TrainedRun) -> None:
    """Samples, or an edited image, into the run's folder."""
    task = build_control(trained.config, trained.data)
    if task is None:
        draw_into(trained, trained.config.sampling.sampler)
    else:
        _edit(trained, task)
    if distributed.is_main_process():
        write_report(trained.folder)


def draw_into(trained: TrainedRun, name: str) -> None:
    """Samples of a sampler into the run's folder: a picture, and what they are worth."""
    config, data, folder, model = trained.config, trained.data, trained.folder, trained.model
    plan, c = trained.plan(name), config.sampling
    guide = build_guidance(config, model, data).guide
    settings = {**recorded(c, trained.experiment.device), "sampler": name, "guide": guide}
    drawn = draw(plan, name, model.sde, data, c.seed, c.num_images, c.batch_size)
    if not distributed.is_main_process():
        return
    path = folder.sample_path(trained.step, name)
    folder.write_image(path, drawn.picture)
    kept: Json = {**drawn.result, "step": trained.step, "settings": settings}
    if c.progressive:
        shown = trajectory.SHOWN if data.num_levels is not None else len(drawn.samples)
        last = drawn.samples[:shown]
        noise = Noise.of(c.seed, 0, len(last), data.train.device)
        seen = trajectory.follow(plan, model.sde, noise, data, last)
        strip = folder.sample_path(trained.step, f"{name}-progress")
        folder.write_image(strip, trajectory.strip(seen, data))
        folder.write_image(strip.with_suffix(".gif"), trajectory.animation(seen, data))
        kept["progress"] = f"x_0 estimated at {len(seen.times)} times"
    folder.write_result(f"samples-{name}", kept)
    say(f"{drawn.line}; {path}")


def _edit(trained: TrainedRun, task: EditPlan) -> None:
    folder, config, model = trained.folder, trained.config, trained.model
    flown = task.task in LATENT_TASKS
    plan = build_flow_plan(config, model) if flown else trained.plan(config.sampling.sampler)
    edited = editing.edit(task, plan, model.sde)
    if not distributed.is_main_process():
        return
    settings = recorded(config.control, trained.experiment.device)
    settings["sampling"] = config.sampling.to_dict()
    path = folder.sample_path(trained.step, task.task)
    folder.write_image(path, edit_summary.picture(edited))
    result = {**edited.result, "caption": edit_summary.caption(edited)}
    result |= {"step": trained.step, "settings": settings}
    folder.write_result(task.task, result)
    say(f"{edit_summary.describe(edited)}; {path}")
