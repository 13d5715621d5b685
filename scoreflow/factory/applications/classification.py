"""What the `classify` section asks for: classes, their prior, and ways to log p(x | class)."""

import math
from dataclasses import replace
from functools import partial

import torch

from scoreflow.data.dataset import Data
from scoreflow.data.levels import centres
from scoreflow.errors import RequestError
from scoreflow.factory.choose import choose_key
from scoreflow.factory.likelihood import question_of
from scoreflow.likelihood.bound_table import reference_of
from scoreflow.likelihood.classification import elimination, rows, times
from scoreflow.likelihood.classification.bayes import Posterior, Prior, log_posterior
from scoreflow.likelihood.classification.bound_by_class import BoundByClass
from scoreflow.likelihood.classification.flow_by_class import FlowByClass
from scoreflow.likelihood.dataset_likelihood import LikelihoodSettings
from scoreflow.models.score_model import ScoreModel
from scoreflow.schema.config import AnyConfig, Config
from scoreflow.sde.base import SDE, ends_without_signal

TRAIN = "train it with --config.model.conditional=true"
MOST_DIMS = 4096
"""Dimensions above which no reference is made, whose covariance takes their square of memory."""


def build_prior(config: AnyConfig, model: ScoreModel, data: Data, judged: bool = True) -> Prior:
    """The classes that are told apart, and their prior.

    Args:
        config: of the run.
        model: the network.
        data: what it was trained on, and the images to classify.
        judged: whether the classes of those must be known.

    Raises:
        RequestError: the network or the data have no classes, or others.
    """
    if not model.num_classes:
        raise RequestError(
            f"--mode classify needs a network that was told classes, and this one was not: {TRAIN}"
        )
    if data.train_labels is None or (judged and data.test_labels is None):
        raise RequestError(
            f"--mode classify needs labelled training and test data, and {data.name} has no "
            "labels: they say which classes there are and which answers are right"
        )
    c = Config.of(config).classify
    prior = Prior.of_labels(data.train_labels, choose_key("classify.prior", c.prior) == "uniform")
    greatest = int(prior.classes.max())
    if greatest >= model.num_classes:
        raise RequestError(
            f"the network knows {model.num_classes} classes, and {data.name} has a class "
            f"{greatest}: give --mode classify the data that it was trained on"
        )
    own = data.train_labels[:0] if data.test_labels is None else data.test_labels
    if unknown := own[prior.columns(own) < 0].unique().tolist():
        raise RequestError(
            f"test images of {data.name} are of classes {unknown} without a training image, of "
            "which nothing is known: leave them out of the data"
        )
    return prior


def build_rounds(config: AnyConfig) -> tuple[int, ...]:
    """The times of the bound by rounds.

    Raises:
        RequestError: there is one round alone, after which nothing is left to be saved.
    """
    c = Config.of(config).classify
    found = elimination.rounds(c.times, c.halving)
    if c.halving and len(found) < 2:
        raise RequestError(
            f"classify.halving saves nothing with classify.times = {c.times}: the first round "
            f"takes {elimination.FIRST} of them; set classify.times to at least "
            f"{2 * elimination.FIRST}, or classify.halving to false"
        )
    return found


def build_flow_question(config: AnyConfig, model: ScoreModel, data: Data) -> LikelihoodSettings:
    """How the `likelihood` section has the flow solved, one point an image."""
    c = Config.of(config)
    single = replace(c, likelihood=replace(c.likelihood, samples=1))
    return question_of(single, model.posed, model.t_min, data)


def build_flow(config: AnyConfig, model: ScoreModel, data: Data, prior: Prior) -> FlowByClass:
    """The exact flow by every class.

    Args:
        config: of the run.
        model: the network, in float32.
        data: what it was trained on.
        prior: of the classes.
    """
    question = build_flow_question(config, model, data)
    deq = question.dequantizer
    return FlowByClass(
        denoiser=model.labelled,
        sde=model.posed,
        t=model.t_min if deq is None else deq.t,
        classes=prior.classes,
        dequantizer=deq,
        solver=question.solver,
        seed=question.seed,
    )


def build_bound(config: AnyConfig, model: ScoreModel, data: Data, prior: Prior) -> BoundByClass:
    """The bound by every class.

    Args:
        config: of the run.
        model: the network, in float32.
        data: its training part says at which times classes part.
        prior: of the classes.
    """
    c = Config.of(config)
    embedding = choose_key("training.dequantization", c.training.dequantization)
    sde = model.posed if ends_without_signal(model.sde) else model.sde
    spread = embedding == "uniform" or data.num_levels is None
    dims = data.test.shape[1:].numel()
    return BoundByClass(
        denoiser=model.labelled,
        law=_law(sde, model.t_min, data),
        classes=prior.classes,
        log_prior=prior.log,
        num_levels=data.num_levels,
        embedding=embedding,
        seed=c.likelihood.seed,
        rounds=build_rounds(config),
        z=c.classify.z if c.classify.halving else math.inf,
        batch_size=c.likelihood.batch_size,
        reference=reference_of(data, spread) if dims <= MOST_DIMS else None,
    )


def _law(sde: SDE, t_min: float, data: Data) -> times.TimeLaw:
    few = times.some(len(data.train), times.MOST_IMAGES)
    place = torch.Tensor.double
    if data.num_levels is not None:
        place = partial(centres, num_levels=data.num_levels)
    assert data.train_labels is not None, "checked by build_prior"
    return times.law_of_classes(sde, t_min, place(data.train[few]), data.train_labels[few])


def build_way(config: AnyConfig, model: ScoreModel, data: Data, prior: Prior, by: str) -> rows.Way:
    """The flow or the bound.

    Args:
        config: of the run.
        model: the network, in float32.
        data: what it was trained on.
        prior: of the classes.
        by: "flow" or "bound".
    """
    if by == "flow":
        return build_flow(config, model, data, prior)
    return build_bound(config, model, data, prior)


def posterior(config: AnyConfig, model: ScoreModel, data: Data) -> Posterior:
    """The classes of data whose own are not asked about.

    Args:
        config: of the run, whose `classify.by` is one way.
        model: the network.
        data: what it was trained on, and as its test part the data to classify.

    Raises:
        RequestError: the network or the data have no classes; or both ways are asked for.
    """
    c = Config.of(config)
    by = choose_key("classify.by", c.classify.by)
    if by == "both":
        raise RequestError("classify takes one way to log p(x | class), by='bound' or by='flow'")
    prior = build_prior(config, model, data, judged=False)
    way = build_way(config, model.in_precision("float32"), data, prior, by)
    found = rows.measure(way, data.test, c.likelihood.batch_size)
    log_probs = log_posterior(found.nats, prior.log)
    return Posterior(prior.classes, log_probs, found.nats, found.evaluations)
