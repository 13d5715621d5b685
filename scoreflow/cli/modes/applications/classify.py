"""--mode classify: the class of each test image by Bayes' rule, beside other classifiers.

classify.json                            accuracy, calibration, confusion and pairs of all methods
classify-flow.jsonl, classify-bound.jsonl   log p(x | class) of every class, a row an image
"""

import time

import torch
from ml_collections import ConfigDict
from torch import Tensor

from scoreflow.cli.console import say
from scoreflow.data.dataset import Data, digest, overlap
from scoreflow.data.levels import Embedding, points, to_uint8
from scoreflow.errors import RequestError
from scoreflow.factory.applications.classification import (
    build_flow_question,
    build_prior,
    build_rounds,
    build_way,
)
from scoreflow.factory.choose import choose_key
from scoreflow.factory.likelihood import products_of
from scoreflow.figures.image_grid import image_grid
from scoreflow.likelihood.classification import baselines, rows, verdicts
from scoreflow.likelihood.classification.bayes import Prior
from scoreflow.likelihood.classification.bound_by_class import LogLikelihoods
from scoreflow.likelihood.classification.rows import Way
from scoreflow.likelihood.classification.verdicts import Method
from scoreflow.models.classifier import NoisyClassifier
from scoreflow.report.page import write_report
from scoreflow.runtime import distributed
from scoreflow.schema.request import Request
from scoreflow.sde.noise import Noise, Stream
from scoreflow.storage.atomic_files import Json
from scoreflow.storage.measurements import average_of
from scoreflow.storage.sample_names import SHORT, hash_of
from scoreflow.trained_run import TrainedRun, open_run
from scoreflow.training.classifier_file import CLASSIFIER_FILE

NAME, FLOW, BOUND = "classify", "flow", "bound"
OF_FLOW = ("dequantization", "t_start", "max_evaluations", "method", "probes")
OF_NODES = ("nodes", "substeps", "trajectory_tolerance")
OF_SOLVERS = ("tolerance", "tolerance_bits")
"""Keys of the `likelihood` section that the bound does not read."""
BLOCKS = 4
"""Blocks of rows that a batch has: what is kept at once, and lost by an interruption at most."""


def run(request: Request, _argv: list[str]) -> None:
    """Classify the test images; several processes share them."""
    trained = open_run(request, say)
    _refuse_unread(request, trained.config.classify.by)
    classify(trained)
    if distributed.is_main_process():
        write_report(trained.folder)


def classify(trained: TrainedRun) -> None:
    """Measure log p(x | class) of the test images, and hold the classes found against theirs."""
    start, config, data = time.monotonic(), trained.config, trained.data
    c = config.classify
    prior = build_prior(config, trained.model, data)
    by = choose_key("classify.by", c.by)
    ways = [way for way in (FLOW, BOUND) if by in (way, "both")]
    if BOUND in ways:
        build_rounds(config)
    if FLOW in ways:
        build_flow_question(config, trained.model, data)
    count = _count(trained)
    assert data.test_labels is not None, "checked by build_prior"
    own = prior.columns(data.test_labels[:count])
    found = {way: _measured(trained, way, prior, count) for way in ways}
    if not distributed.is_main_process():
        return
    methods = [m for way in ways for m in verdicts.by_likelihood(way, found[way], prior, own)]
    methods += _others(trained, prior, count)
    result = verdicts.as_result(methods, own, prior)
    if BOUND in found and c.halving:
        full = 1 + sum(build_rounds(config))
        result["halving"] = verdicts.saving(found[BOUND], full)
    doubles = overlap(data) if trained.folder.bound else 0
    _keep(trained, result | {"in_training_set": doubles, "seconds": time.monotonic() - start}, by)


# ---- log-likelihoods by class -------------------------------------------------------------------


def _measured(trained: TrainedRun, way: str, prior: Prior, count: int) -> LogLikelihoods:
    """Log p(x | class) of the first test images, its rows in results/classify-{way}.jsonl."""
    shard, data, c = distributed.shard(), trained.data, trained.config.likelihood
    block, agree = max(1, c.batch_size // BLOCKS), shard.broadcast_from_rank_0
    heading, name = _heading(trained, way, prior, block), f"{NAME}-{way}"
    with trained.folder.rows(name, heading, shard.rank, "image", rows.check_row, agree) as kept:
        left = count - len(kept.done)
        asked = _way(trained, way, prior, left)
        title = f"{len(prior.classes)} classes by the {way}"
        return rows.measure(asked, data.test[:count], block, kept, shard, title, data.test_names)


def _way(trained: TrainedRun, way: str, prior: Prior, left: int) -> Way:
    """How log p(x | class) is measured, of so many images."""
    config, data = trained.config, trained.data
    model = trained.model.in_precision("float32")
    if way == FLOW:
        cost = products_of(build_flow_question(config, model, data), data) * len(prior.classes)
        model = trained.experiment.fast(model, "vjp", cost, left)
    else:
        cost = (1 + sum(build_rounds(config))) * len(prior.classes)
        model = trained.experiment.fast(model, "eval", cost, left)
    return build_way(config, model, data, prior, way)


def _heading(trained: TrainedRun, way: str, prior: Prior, block: int) -> Json:
    """All that a row depends on but its number."""
    data, likelihood, c = trained.data, trained.config.likelihood, trained.config.classify
    heading: Json = {
        "by": way,
        "seed": likelihood.seed,
        "step": trained.step,
        "device": trained.experiment.device.type,
        "weights": trained.fingerprint,
        "data": digest(data.test),
        "classes": prior.classes.tolist(),
        **trained.trained_with,
    }
    if way == FLOW:
        nodes = likelihood.method == "nodes"
        used = (*OF_FLOW, *(OF_NODES if nodes else OF_SOLVERS))
        heading |= {key: likelihood[key] for key in used if key != "max_evaluations"}
        if likelihood.method not in ("nodes", "dopri5"):  # one clock: rows depend on their mates
            heading["batch"] = block
        return heading
    heading |= {"times": c.times, "train": digest(data.train, data.train_labels)}
    if c.halving:
        heading |= {"z": c.z, "prior": c.prior}
    return heading


# ---- other classifiers --------------------------------------------------------------------------


def _others(trained: TrainedRun, prior: Prior, count: int) -> list[Method]:
    """Classifiers of the same images that need no score network."""
    data = trained.data
    train, labels, test = data.train, data.train_labels, data.test[:count]
    assert labels is not None, "checked by build_prior"
    near = baselines.nearest_neighbours(train, labels, test)
    known, log_probs = baselines.logistic_regression(train, labels, test)
    regression = (
        Method.stating("logistic regression", log_probs)
        if torch.equal(known, prior.classes)
        else Method("logistic regression", prior.columns(known[log_probs.argmax(1)]))
    )
    beside = [
        Method(f"{baselines.NEIGHBOURS} nearest in pixels", prior.columns(near)),
        regression,
    ]
    classifier = _classifier(trained)
    if classifier is None:
        return beside
    embedding = choose_key("training.dequantization", trained.config.training.dequantization)
    found = _by_classifier(
        classifier, data, prior, count, trained.config.likelihood.seed, embedding
    )
    return [Method.stating("noisy-image classifier", found), *beside]


def _classifier(trained: TrainedRun) -> NoisyClassifier | None:
    """The run's classifier of noisy images; None, with a line if it cannot be used."""
    if not (trained.folder.path / CLASSIFIER_FILE).exists():
        return None
    try:
        return trained.classifier()
    except RequestError as error:
        say(f"without the noisy-image classifier: {error}")
        return None


@torch.no_grad()
def _by_classifier(
    classifier: NoisyClassifier,
    data: Data,
    prior: Prior,
    count: int,
    seed: int,
    embedding: Embedding,
) -> Tensor:
    """Its log p(k | x_t) at its least time, of levels placed as in its training: (n, K)."""
    t, parts = torch.tensor(classifier.t_min, dtype=torch.float64), []
    for index in torch.arange(count, device=data.test.device).split(256):
        noise, test = Noise(seed, index), data.test[index]
        x_0 = points(test, data.num_levels, noise, Stream.DEQUANTIZE, embedding)
        x_t = classifier.sde.perturb(x_0, t, noise.normal(Stream.DATA, tuple(test.shape[1:])))
        parts.append(classifier.log_probs(x_t, t).cpu())
    found = torch.cat(parts)
    return found[:, prior.classes].log_softmax(1)


# ---- the result ---------------------------------------------------------------------------------


def _keep(trained: TrainedRun, result: Json, by: str) -> None:
    """Write the result, and a picture of misclassified images, and say both."""
    config, data = trained.config, trained.data
    likelihood = {key: config.likelihood[key] for key in ("seed", *_read(config, by))}
    settings = config.classify.to_dict() | {"likelihood": likelihood}
    settings |= {"device": str(trained.experiment.device)} | trained.averaged_as
    kept = {**result, "step": trained.step, "settings": settings, **trained.measured_on}
    kept["weights"] = trained.fingerprint
    if data.class_names:
        kept["class_names"] = list(data.class_names)
    asked = {
        "settings": settings,
        "step": trained.step,
        "weights": trained.fingerprint,
        "num_images": result["num_images"],
        "data": digest(data.test, data.test_labels),
        **trained.trained_with,
    }
    if data.num_levels is not None and result["misses"]:
        picture = image_grid(*_missed(data, result["misses"]))
        own = hash_of(asked)[:SHORT]  # a result kept beside leaves the headline's picture alone
        path = trained.folder.sample_path(trained.step, f"{NAME}-{own}")
        trained.folder.write_image(path, picture)
        kept["picture"] = path.stem
    written = trained.folder.keep_result(NAME, kept, asked, _rank)
    say(_told(result))
    if written.remark:
        say(written.remark)


def _read(config: ConfigDict, by: str) -> tuple[str, ...]:
    """Keys of the `likelihood` section that a classification reads beside its seed."""
    if by == BOUND:
        return ()
    nodes = config.likelihood.method == "nodes"
    return (*OF_FLOW, *(OF_NODES if nodes else OF_SOLVERS))


def _missed(data: Data, misses: list[Json]) -> tuple[Tensor, int, int]:
    """The images as a grid takes them, the columns, and the scale."""
    assert data.num_levels is not None, "images"
    shown = to_uint8(data.test[[miss["image"] for miss in misses]], data.num_levels)
    return shown, min(12, len(misses)), max(1, 40 // shown.shape[-1])


def _rank(result: Json) -> dict[str, float]:
    """What makes a result the headline: the newest weights, the most images, all methods."""
    return {
        "of the weights as trained": not average_of(result),
        "of newer weights": result["step"],
        "of more data": result["num_images"],
        "of more methods": len(result["methods"]),
    }


def _told(result: Json) -> str:
    count = f"{len(result['classes'])} classes, {result['num_images']} test images"
    if result["in_training_set"]:
        count += f" ({result['in_training_set']} of the test set are in the training set too)"
    lines = [count, verdicts.table(result)]
    if "halving" in result:
        saved = result["halving"]
        lines.append(
            f"halving: {saved['evaluations']} evaluations of {saved['in_full']}, "
            f"{saved['saved']:.1%} saved"
        )
    return "\n".join(lines)


def _count(trained: TrainedRun) -> int:
    wanted = int(trained.config.likelihood.num_images)
    return min(len(trained.data.test), wanted or len(trained.data.test))


def _refuse_unread(request: Request, by: str) -> None:
    """Refuse keys of the flow where the flow is not asked."""
    for key in (f"likelihood.{name}" for name in (*OF_FLOW, *OF_NODES, *OF_SOLVERS)):
        if by == BOUND and key in request.overrides:
            raise RequestError(
                f"{key} has no effect on classify.by = bound, which solves no flow: leave it "
                "out, or set --config.classify.by=flow or both"
            )
