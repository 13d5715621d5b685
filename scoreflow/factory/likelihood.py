"""Likelihood settings from the `likelihood` section."""

from collections.abc import Sequence

from torch import Tensor

from scoreflow.data.classes import as_asked, names_of, numbers_of
from scoreflow.data.dataset import Data
from scoreflow.errors import RequestError
from scoreflow.factory.choose import choose_key, try_solver
from scoreflow.likelihood.dataset_likelihood import LikelihoodSettings
from scoreflow.likelihood.dequantization import Dequantizer
from scoreflow.likelihood.flow_likelihood import Solver
from scoreflow.models.score_model import ScoreModel
from scoreflow.runtime.compiling import solver_evaluations
from scoreflow.schema.config import AnyConfig, Config
from scoreflow.sde.base import SDE
from scoreflow.sde.flow import sign_set_size


def build_solver(config: AnyConfig) -> Solver:
    """The ODE solver of the `likelihood` section."""
    c = Config.of(config).likelihood
    if c.method == "nodes":
        _refuse_few(c.max_evaluations, 1 + c.substeps * (c.nodes + 1))
    else:
        try_solver("likelihood", c.method, (c.tolerance, 0.0))
    return Solver(
        probes=c.probes,
        tolerance=c.tolerance,
        tolerance_bits=c.tolerance_bits,
        method=c.method,
        max_evaluations=c.max_evaluations,
        nodes=c.nodes,
        substeps=c.substeps,
        trajectory_tolerance=c.trajectory_tolerance,
    )


def _refuse_few(most: int, least: int) -> None:
    if most < least:
        raise RequestError(
            f"likelihood.max_evaluations must be at least the {least} that likelihood.nodes and "
            f"likelihood.substeps take, got {most}: set either higher or these lower"
        )


OF_EACH = "data"
"""A word of likelihood.label: each image's own class."""


def asked_of(config: AnyConfig, model: ScoreModel, data: Data) -> ScoreModel:
    """The Denoiser whose likelihood it is: that of the class `likelihood.label`, if it is one.

    Args:
        config: of the run.
        model: the network.
        data: which may name the classes.

    Raises:
        RequestError: the network knows no such class, or cannot do without one.
    """
    label, names = Config.of(config).likelihood.label, names_of(data, model.num_classes)
    if label == OF_EACH and OF_EACH not in names:
        return model
    if label in (-1, "none") and model.needs_class:
        raise RequestError(
            "this network has no row for no class, and its likelihood is one given a class: set "
            f"likelihood.label to one of 0..{model.num_classes - 1}, or to data for each its own"
        )
    if label in (-1, "none"):
        return model
    if not model.num_classes:
        return model.labelled(0)  # which it refuses
    numbers = numbers_of(label, model.num_classes, names, "likelihood.label")
    if len(numbers) > 1:
        raise RequestError(
            f"likelihood.label is one class, or data for each image's own, got {label}"
        )
    _refuse_untrained(config, data, label, numbers)
    return model.labelled(numbers[0])


def labels_of(config: AnyConfig, model: ScoreModel, data: Data) -> Tensor | None:
    """The class that each of some data is asked about: its own; None unless that is asked.

    Args:
        config: of the run.
        model: the network.
        data: whose test part is measured.

    Raises:
        RequestError: the network has no classes, or the data none that it knows.
    """
    names = names_of(data, model.num_classes)
    if Config.of(config).likelihood.label != OF_EACH or OF_EACH in names:
        return None
    if not model.num_classes or data.test_labels is None:
        whose = f"{data.name} has no labels" if model.num_classes else "this network has none"
        raise RequestError(f"likelihood.label = data is about each image's class, and {whose}")
    if int(data.test_labels.max()) >= model.num_classes:
        raise RequestError(
            f"likelihood.label = data: the network knows {model.num_classes} classes, and "
            f"{data.name} has a class {int(data.test_labels.max())}"
        )
    _refuse_untrained(config, data, OF_EACH, data.test_labels.unique().tolist())
    return data.test_labels


def _refuse_untrained(
    config: AnyConfig, data: Data, label: int | str, numbers: Sequence[int]
) -> None:
    """Refuse classes that a network of the data's own classes was never shown."""
    missing = sorted({*numbers}.intersection(data.empty_classes))
    if missing and not Config.of(config).model.num_classes:
        called = ", ".join(str(as_asked(k, names_of(data, data.num_classes))) for k in missing)
        raise RequestError(
            f"likelihood.label = {label}: {data.name} has no training data of {called}, of which "
            "the network knows nothing: set it to another class, or to -1 for none"
        )


def build_question(
    config: AnyConfig, model: ScoreModel, data: Data, dequantization: str = ""
) -> LikelihoodSettings:
    """The likelihood settings of the `likelihood` section.

    Args:
        config: of the run.
        model: the network.
        data: what it was trained on.
        dequantization: instead of the section's.
    """
    return question_of(Config.of(config), model.posed, model.t_min, data, dequantization)


def products_of(question: LikelihoodSettings, data: Data) -> float:
    """About how many evaluations a likelihood costs a datum, to plan with.

    A product with the Jacobian, of which there is one a probe or a dimension, counts as two.

    Args:
        question: as it is asked.
        data: whose it is.
    """
    solver = question.solver
    products = solver.probes or data.test.shape[1:].numel()
    if solver.method == "nodes":
        alone = 1 + solver.substeps * (solver.nodes + 1)
        return question.samples * (alone + 2.0 * solver.nodes * products)
    return question.samples * solver_evaluations(solver.tolerance) * (1 + 2 * products)


def question_of(
    config: Config, sde: SDE, t_min: float, data: Data, dequantization: str = ""
) -> LikelihoodSettings:
    """The same for a network that need not exist yet.

    Args:
        config: of the run.
        sde: the process.
        t_min: the least time at which the network is trained, in steps.
        data: what it is trained on.
        dequantization: instead of the section's.

    Raises:
        RequestError: a setting that the process, the data or the training does not allow.
    """
    c, embedding = (
        config.likelihood,
        choose_key("training.dequantization", config.training.dequantization),
    )
    name = choose_key("likelihood.dequantization", dequantization or c.dequantization)
    t, end = c.t_start or t_min, sde.num_steps
    if not t_min <= t < end:
        raise RequestError(
            f"likelihood.t_start must lie in [{t_min:g}, {end}), got {t:g}: this network "
            f"learned {config.training.times} times and is not asked below t = {t_min:g}"
        )
    dims = data.test.shape[1:].numel()
    most = sign_set_size(dims)
    if c.probes > most:
        raise RequestError(
            f"likelihood.probes must lie in 0..{most} for data of {dims} dimensions, "
            f"got {c.probes}; 0 is the exact divergence"
        )
    dequantizer = None
    if data.num_levels is not None:
        if name == "truncated_normal" and embedding != "centre":
            raise RequestError(
                "likelihood.dequantization = truncated_normal needs a network trained with "
                "training.dequantization = centre: one trained on uniform bins is not peaked at "
                "their centres"
            )
        dequantizer = Dequantizer(name, data.num_levels, t, embedding)
    return LikelihoodSettings(
        build_solver(config), c.seed, dequantizer, c.samples, c.batch_size, c.checked
    )
