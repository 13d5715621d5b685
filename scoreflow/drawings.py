"""Drawings of a trained network, and what some of them have to know of it first.

The optimal variance and the least-cost grid rest on a table of the network's errors
(`moments`), which is measured once and kept: results/moments.json. It is that of the law without
a class: guidance is no model of the data, whose errors could be measured.
"""

from ml_collections import ConfigDict

from scoreflow import build, moments, parallel
from scoreflow.build import Drawing, Experiment
from scoreflow.errors import RequestError
from scoreflow.files import Json
from scoreflow.likelihoods import fingerprint
from scoreflow.model import ScoreModel
from scoreflow.moments import Moments
from scoreflow.progress import Progress
from scoreflow.run_dir import RunDir
from scoreflow.trained import classifier_for


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
    classifier = classifier_for(build.build_guidance(config, model, data), run, model)
    needed = build.needs_moments(config, name)
    table = moments_of(experiment, config, run, model) if needed else None
    return build.build_drawing(config, name, model, data, classifier, table)


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
        "num_images": min(moments.IMAGES, len(of.train)),
        "device": str(experiment.device),
    }
    shard = parallel.shard()
    try:
        kept = run.read_result("moments")
    except RequestError:  # there is none, or a damaged one, which is made again
        kept = {}
    there = shard.of_the_first(kept.get("settings") == settings)
    if not there and parallel.leads():
        _measure(experiment, config, run, model, settings)
    shard.wait()
    return Moments.of_result(model.sde, run.read_result("moments"))


def _measure(
    experiment: Experiment, config: ConfigDict, run: RunDir, model: ScoreModel, settings: Json
) -> None:
    """The table, into results/moments.json."""
    c, of = config.sampling, experiment.data
    x_0 = moments.points(of, config.seed, config.training.dequantization == "centre")
    calls = len(moments.knots(model.sde, model.t_min)) * -(-len(x_0) // c.batch_size)
    with Progress("errors by time", calls, "call") as progress:
        found = moments.measure(
            build.limited(config, model, of),
            model.sde,
            model.t_min,
            x_0,
            config.seed,
            c.batch_size,
            lambda: progress.advance(1),
        )
    run.write_result("moments", {**found.as_result(), "settings": settings})
