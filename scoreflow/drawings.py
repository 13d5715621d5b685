"""Drawings of a trained network, and what some of them have to know of it first.

The optimal variance and the least-cost grid rest on a table of the network's errors
(`moments`), which is measured once and kept: results/moments.json. It is that of the law without
a class: guidance is no model of the data, whose errors could be measured.
"""

from ml_collections import ConfigDict

from scoreflow import factory
from scoreflow.errors import RequestError
from scoreflow.factory import Experiment
from scoreflow.generation import error_table
from scoreflow.generation.error_table import Moments
from scoreflow.generation.plan import Drawing
from scoreflow.models.score_model import ScoreModel
from scoreflow.runtime import distributed
from scoreflow.runtime.progress_bar import Progress
from scoreflow.storage.atomic_files import Json
from scoreflow.storage.fingerprint import fingerprint
from scoreflow.storage.run_folder import RunDir
from scoreflow.trained_run import classifier_for


def drawing_of(
    experiment: Experiment, config: ConfigDict, name: str, run: RunDir, model: ScoreModel
) -> Drawing:
    """A sampler by name as a config asks for it, for a network that is trained.

    Args:
        experiment: whose data the network knows.
        config: the experiment's, or one with another `sampling` section.
        name: of the sampler.
        run: where the table of errors is kept, and the classifier, where one guides.
        model: the network.
    """
    data = experiment.data
    classifier = classifier_for(factory.build_guidance(config, model, data), run, model)
    needed = factory.needs_moments(config, name)
    table = moments_of(experiment, config, run, model) if needed else None
    return factory.build_drawing(config, name, model, data, classifier, table)


def moments_of(
    experiment: Experiment, config: ConfigDict, run: RunDir, model: ScoreModel
) -> Moments:
    """The table of results/moments.json, measured anew if another network or question left it."""
    c, of = config.sampling, experiment.data
    settings = {
        "weights": fingerprint(model),
        "seed": config.seed,
        "clip": bool(c.clip),
        "dynamic_threshold": float(c.dynamic_threshold),
        "precision": model.precision,
        "num_images": min(error_table.IMAGES, len(of.train)),
        "device": str(experiment.device),
    }
    shard = distributed.shard()
    try:
        kept = run.read_result("moments")
    except RequestError:  # there is none, or a damaged one, which is made again
        kept = {}
    there = shard.of_the_first(kept.get("settings") == settings)
    if not there and distributed.leads():
        _measure(experiment, config, run, model, settings)
    shard.wait()
    return Moments.of_result(model.sde, run.read_result("moments"))


def _measure(
    experiment: Experiment, config: ConfigDict, run: RunDir, model: ScoreModel, settings: Json
) -> None:
    """The table, into results/moments.json."""
    c, of = config.sampling, experiment.data
    x_0 = error_table.points(of, config.seed, config.training.dequantization == "centre")
    calls = len(error_table.knots(model.sde, model.t_min)) * -(-len(x_0) // c.batch_size)
    with Progress("errors by time", calls, "call") as progress:
        found = error_table.measure(
            factory.limited(config, model, of),
            model.sde,
            model.t_min,
            x_0,
            config.seed,
            c.batch_size,
            lambda: progress.advance(1),
        )
    run.write_result("moments", {**found.as_result(), "settings": settings})
