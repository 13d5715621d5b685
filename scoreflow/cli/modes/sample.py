"""--mode sample: draw with the sampler of the config, or edit the user's image."""

from pathlib import Path

import torch
from torch import Tensor

from scoreflow.cli.console import recorded, say
from scoreflow.data.classes import of_classes
from scoreflow.data.dataset import Data
from scoreflow.data.levels import values_of
from scoreflow.evaluation.guidance_sweep import right_classes
from scoreflow.evaluation.sample_summary import NOTHING_TO_COMPARE, Drawn, draw, store
from scoreflow.factory.editing import build_control, build_flow_plan
from scoreflow.generation import edit_summary, editing, trajectory
from scoreflow.generation.edit_plan import EditPlan
from scoreflow.generation.generate import draw_samples
from scoreflow.generation.plan import SamplingPlan
from scoreflow.report.page import write_report
from scoreflow.report.results import called
from scoreflow.runtime import distributed
from scoreflow.schema import task_keys
from scoreflow.schema.request import Request
from scoreflow.schema.task_keys import LATENT_TASKS
from scoreflow.sde.noise import Noise
from scoreflow.storage.atomic_files import Json
from scoreflow.storage.measurements import average_of
from scoreflow.storage.sample_names import SampleName, claim
from scoreflow.trained_run import TrainedRun, open_run

NAMED = 6
"""Classes that the line about a draw names."""
OF_DATA = (
    "value",
    "standard_error",
    *NOTHING_TO_COMPARE,
    "classes",
    "copies",
    "of_class",
    "of_their_class",
    "data",
)
"""What a result of samples has of the data that they are held against."""


def run(request: Request, _argv: list[str]) -> None:
    """Draw, or do sampling.task; several processes share the images."""
    sample(open_run(request, say))


def sample(trained: TrainedRun) -> None:
    """Samples, or an edited image, into the run's folder."""
    task = build_control(trained.config, _data_to_edit(trained))
    if task is None:
        draw_into(trained, trained.config.sampling.sampler)
    else:
        _edit(trained, task)
    if distributed.is_main_process():
        write_report(trained.folder)


def _data_to_edit(trained: TrainedRun) -> Data:
    """The data, where an image of theirs is edited, or else what they are like."""
    c, task = trained.config.control, trained.config.sampling.task
    named = {"none": (), "interpolate": (c.image, c.other)}.get(task, (c.image,))
    return trained.data if any(each.startswith("test:") for each in named) else trained.like


def draw_into(trained: TrainedRun, name: str) -> None:
    """Samples of a sampler into the run's folder: a picture, and what they are worth.

    Their files have a name of their own: a draw replaces only what the same settings drew.
    """
    plan, c = trained.plan(name), trained.config.sampling
    drawn_with = trained.draw_settings(name)
    data, place = trained.data_if_there, None
    of = data if plan.classes is None else of_classes(data, plan.classes.numbers)
    if c.save == "grid":
        drawn = draw(plan, name, trained.model.sde, of, c.seed, c.num_images, c.batch_size)
    else:
        own = _claimed(trained, name, drawn_with) if distributed.is_main_process() else None
        # before the first image, so that the same command finds them again
        place = distributed.shard().broadcast_from_rank_0(own)
        assert place is not None, "the first process has claimed it"
        what = trained.draw(plan, name, data=of)
        drawn = store(place.images, c.save, what, drawn_with)
    last = _followed(trained, plan, drawn) if c.progressive else None
    if not distributed.is_main_process():
        return
    place = place or _claimed(trained, name, drawn_with)
    settings = recorded(c, trained.experiment.device)
    settings |= {key: drawn_with[key] for key in ("sampler", "guide", "label")}
    settings |= trained.asked_in("eval", adaptive=name == "ode") | trained.averaged_as
    kept: Json = {**drawn.result, "step": trained.step, "settings": settings}
    kept |= {"weights": trained.fingerprint, "picture": place.name, **trained.measured_on}
    if data.class_names:
        kept["class_names"] = list(data.class_names)
    line = drawn.line + _their_classes(trained, plan, drawn, kept)
    trained.folder.write_image(place.picture, drawn.picture)
    if last is not None:
        kept["progress"] = _follow(trained, plan, place, last)
    asked = {**drawn_with, **trained.data_digests}
    written = trained.folder.keep_result(f"samples-{name}", kept, asked, _rank, _with_comparison)
    say(f"{line}; {_where(place, c.save)}")
    if written.remark:
        say(written.remark)


def _their_classes(trained: TrainedRun, plan: SamplingPlan, drawn: Drawn, kept: Json) -> str:
    """Of samples of several classes, how many look like theirs: into a result, and in words."""
    data, count = trained.data_if_there, len(drawn.samples)
    if plan.classes is None:
        said = called(plan.label, data.class_names) if plan.label >= 0 else ""
        return f"; of class {said}" if "(" in said else ""
    labels, names = plan.classes.of(torch.arange(count)), data.class_names
    shares = [f"{called(k, names)}" for k in plan.classes.numbers[:NAMED]]
    more = len(plan.classes.numbers) - NAMED
    said = f"; of classes {', '.join(shares)}" + (f" and {more} more" if more > 0 else "")
    kept["asked"] = {"classes": list(plan.classes.numbers), "counts": labels.bincount().tolist()}
    if data.train_labels is None or data.num_levels is None:
        return said
    values = drawn.samples
    if values.is_floating_point():
        values = values_of(values, data)
    right = right_classes(values, labels, data)
    kept["of_their_class"] = right
    return (
        f"{said}, and {right['rate']:.3f} +- {right['standard_error']:.3f} of them are nearest "
        "to a training image of theirs"
    )


def _rank(result: Json) -> dict[str, float]:
    """What makes samples the headline: of no class, newest weights, held against data, most."""
    return {
        "of all classes": result["settings"].get("label", -1) == -1,
        "of the weights as trained": not average_of(result),
        "of newer weights": result["step"],
        "compared with data": result.get("two_sample") is not None,
        "of more images": result["num_images"],
    }


def _with_comparison(result: Json, earlier: Json) -> Json:
    """A draw whose data are gone, with what the same samples were worth while they were there."""
    if result["two_sample"] is not None or earlier.get("two_sample") is None:
        return result
    if earlier.get("num_images") != result["num_images"]:
        return result
    return {**result, **{key: earlier[key] for key in OF_DATA if key in earlier}}


def _claimed(trained: TrainedRun, name: str, settings: Json) -> SampleName:
    """Where samples, or edited images, of some settings belong; they have the name from now on."""
    plain = trained.folder.sample_path(trained.step, name)
    return claim(plain.parent, plain.stem, settings)


def _where(place: SampleName, save: str) -> str:
    """Where they are, and why not under the plain name."""
    path: Path = place.picture if save == "grid" else place.images
    return f"{place.differs}: {path}" if place.differs else str(path)


def _followed(trained: TrainedRun, plan: SamplingPlan, drawn: Drawn) -> Tensor:
    """The samples whose way is shown, as drawn; every process must call this."""
    c, vectors = trained.config.sampling, trained.like.num_levels is None
    shown = c.num_images if vectors else min(trajectory.SHOWN, c.num_images)
    if c.save == "grid":
        return drawn.samples[:shown]
    noise = Noise.of(c.seed, 0, min(shown, len(drawn.samples)), trained.like.train.device)
    event = tuple(trained.like.train.shape[1:])
    return draw_samples(plan, trained.model.sde, noise, event, c.batch_size, "those shown")


def _follow(trained: TrainedRun, plan: SamplingPlan, place: SampleName, last: Tensor) -> str:
    """A strip and a GIF of the estimates on the way to some samples."""
    data, folder = trained.like, trained.folder
    noise = Noise.of(trained.config.sampling.seed, 0, len(last), data.train.device)
    seen = trajectory.follow(plan, trained.model.sde, noise, data, last)
    strip = place.beside("progress")
    folder.write_image(strip, trajectory.strip(seen, data))
    folder.write_image(strip.with_suffix(".gif"), trajectory.animation(seen, data))
    return f"x_0 estimated at {len(seen.times)} times"


def _asked_in(trained: TrainedRun, flown: bool, result: Json) -> Json:
    """How the network was evaluated for an edit: precision, compiled.

    Args:
        trained: the run.
        flown: whether by the adaptive flow, which is never below float32, nor compiled.
        result: of the edit; evaluations that it took Jacobian products of are not compiled.
    """
    asked = trained.asked_in("eval", flown or trained.config.sampling.sampler == "ode")
    plain = flown or bool(result.get("jacobian_products"))
    return {**asked, "compiled": asked["compiled"] and not plain}


def _edit(trained: TrainedRun, task: EditPlan) -> None:
    folder, config, model = trained.folder, trained.config, trained.model
    flown = task.task in LATENT_TASKS
    plan = (
        build_flow_plan(config, trained.solved) if flown else trained.plan(config.sampling.sampler)
    )
    settings = recorded(config.control, trained.experiment.device)
    settings["sampling"] = config.sampling.to_dict()
    drawn_with = {f"control.{key}": value for key, value in config.control.to_dict().items()}
    drawn_with |= {"task": task.task, **trained.draw_settings(config.sampling.sampler)}
    drawn_with |= trained.solved_in if flown else {}
    if any(str(value).startswith("test:") for value in config.control.to_dict().values()):
        drawn_with |= trained.data_digests
    edited = editing.edit(task, plan, model.sde)
    settings |= _asked_in(trained, flown, edited.result) | trained.averaged_as
    if not distributed.is_main_process():
        return
    place = _claimed(trained, task.task, drawn_with)
    folder.write_image(place.picture, edit_summary.picture(edited))
    for remark in task.remarks:
        say(remark)
    result = {**edited.result, "caption": edit_summary.caption(edited), "picture": place.name}
    result |= {"remarks": task.remarks} if task.remarks else {}
    result |= {"step": trained.step, "settings": settings, **trained.measured_on}
    said = f"{edit_summary.describe(edited)}; {_where(place, 'grid')}"
    if (kind := config.sampling.save) in task_keys.SAVED:
        file = place.picture.with_suffix(f".{kind}")
        folder.write_image(file, edit_summary.arrays(edited, kind))
        result["saved"] = {"as": kind, "file": file.name}
        said += f"; arrays in {file}"
    folder.keep_result(task.task, result, drawn_with)
    say(said)
