"""Likelihood settings from the `likelihood` section."""

from scoreflow.data.dataset import Data
from scoreflow.errors import RequestError
from scoreflow.factory.choose import choose_key
from scoreflow.factory.solver import try_solver
from scoreflow.likelihood.dataset_likelihood import LikelihoodSettings
from scoreflow.likelihood.dequantization import Dequantizer
from scoreflow.likelihood.flow_likelihood import Solver
from scoreflow.models.score_model import ScoreModel
from scoreflow.schema.config import AnyConfig, Config
from scoreflow.sde.base import SDE
from scoreflow.sde.flow import sign_set_size


def build_solver(config: AnyConfig) -> Solver:
    """The ODE solver of the `likelihood` section."""
    c = Config.of(config).likelihood
    try_solver("likelihood", c.method, (c.tolerance, 0.0))
    return Solver(c.probes, c.tolerance, c.tolerance_bits, c.method, c.max_evaluations)


def asked_of(config: AnyConfig, model: ScoreModel) -> ScoreModel:
    """The Denoiser whose likelihood it is: that of the class `likelihood.label`, if it is one.

    Raises:
        RequestError: the network knows no such class, or cannot do without one.
    """
    label = Config.of(config).likelihood.label
    if label == -1 and model.needs_class:
        raise RequestError(
            "this network has no row for no class, and its likelihood is one given a class: set "
            f"likelihood.label to one of 0..{model.num_classes - 1}"
        )
    return model if label == -1 else model.labelled(label)


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
