"""An experiment from a config: process, data, network, loss and training settings."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from ml_collections import ConfigDict
from torch import Tensor, nn

from scoreflow.data.dataset import Data
from scoreflow.errors import RequestError
from scoreflow.factory.choose import as_request_error, choose, choose_key
from scoreflow.factory.data import build_data
from scoreflow.factory.guidance import guidance_of
from scoreflow.factory.likelihood import build_solver, question_of
from scoreflow.factory.model import build_model, build_network, classes_of
from scoreflow.factory.sampling import check_sampler, refuse_samples
from scoreflow.factory.training import (
    build_objective,
    build_training,
    check_precision,
    choose_precision,
    compiled,
    computes_in,
    may_compile,
    planned,
    refuse_batch,
)
from scoreflow.losses.objective import Objective
from scoreflow.losses.unbounded import refuse_unbounded
from scoreflow.models.residual.pixel_law import PixelLaw
from scoreflow.models.score_model import ScoreModel
from scoreflow.runtime import distributed
from scoreflow.runtime.compiling import Compiler, Use
from scoreflow.runtime.gpu.tf32 import switch_convolutions
from scoreflow.runtime.terminal import tell
from scoreflow.schema import samplers
from scoreflow.schema.config import AnyConfig, Config
from scoreflow.schema.training_sections import SDEConfig
from scoreflow.sde import EDMSDE, SDE, VESDE, VPSDE, RectifiedSDE, SubVPSDE
from scoreflow.sde.base import in_units
from scoreflow.training.settings import TrainingSettings

SCHEDULES: dict[str, Callable[[type[VPSDE], SDEConfig], VPSDE]] = {
    "linear": lambda kind, c: kind.linear(c.num_steps, c.beta_min, c.beta_max),
    "cosine": lambda kind, c: kind.cosine(c.num_steps),
    "log_linear": lambda kind, c: kind.log_linear(c.num_steps, c.sigma_min, c.alpha_min),
    "linear_continuous": lambda kind, c: kind.linear_continuous(
        c.num_steps, c.beta_min, c.beta_max
    ),
    "scaled_linear": lambda kind, c: kind.scaled_linear(c.num_steps, c.beta_min, c.beta_max),
    "betas": lambda kind, c: kind(torch.tensor(c.betas, dtype=torch.float64)),
}
SDES: dict[str, Callable[[SDEConfig], SDE]] = {
    "vp": lambda c: choose("sde.schedule", c.schedule, SCHEDULES)(VPSDE, c),
    "subvp": lambda c: choose("sde.schedule", c.schedule, SCHEDULES)(SubVPSDE, c),
    "ve": lambda c: VESDE(c.num_steps, c.sigma_min, c.sigma_max),
    "rectified": lambda c: RectifiedSDE(c.num_steps),
    "edm": lambda c: EDMSDE(c.num_steps, c.sigma_min, c.sigma_max, c.rho),
}


@dataclass(frozen=True)
class Experiment:
    """The objects of a config, every choice in it checked.

    Attributes:
        config: the config, as it was given.
        device: where everything lies, or the network alone, if it has no float64.
        data: on the device.
        network: not compiled: what is saved.
        model: the network, compiled if the config says so, as a Denoiser.
        objective: what training minimises.
        settings: how it is trained.
        remarks: a line each for what is to be known of data that measure it alone, and of how it
            is trained on this device.
        compiler: of networks that are evaluated.
    """

    config: ConfigDict
    device: torch.device
    data: Data
    network: nn.Module
    model: ScoreModel
    objective: Objective
    settings: TrainingSettings
    remarks: tuple[str, ...] = ()
    compiler: Compiler = field(default_factory=lambda: Compiler(False))

    def fast(self, model: ScoreModel, use: Use, evaluations: float, images: int) -> ScoreModel:
        """A model of this experiment with its network compiled, where the work is worth it.

        Args:
            model: of these data's shape.
            use: "eval", or "vjp" where products with its Jacobian are taken, in float32.
            evaluations: planned for each image.
            images: how many.
        """
        event, network = tuple(self.data.train.shape[1:]), model.network
        precision = "float32" if use == "vjp" else model.precision
        found = self.compiler.network(network, use, evaluations, images, event, precision)
        return model if found is network else model.with_network(found)


def experiment(
    config: ConfigDict,
    device: torch.device,
    training: bool = True,
    bound: bool = True,
    data: Data | None = None,
    given: Data | None = None,
    home: Path | None = None,
) -> Experiment:
    """The objects of a config; what can be refused is, before anything is done with them.

    Args:
        config: the config.
        device: where everything shall lie; where it has no float64, the network alone.
        training: whether the network will be trained.
        bound: whether the data are what it is or was trained on; others measure it alone.
        data: those of the config, where they are loaded already, or a stand-in for them.
        given: the data themselves, where data.name = given.
        home: the run's folder, where images that do not fit into memory are kept decoded.
    """
    checked = Config.of(config)
    sde = build_sde(checked)
    switch_convolutions(False)  # float32 in a config means float32
    settings, objective = build_training(checked, device), build_objective(checked)
    if training:
        check_precision(settings, device)
    choose("sampler", checked.sampling.sampler, samplers.NAMES)
    choose_key("sampling.task", checked.sampling.task)
    choose_precision(checked)
    build_solver(checked)
    data = build_data(checked, device, bound, given, home) if data is None else data
    checked = in_units_of(checked, data)
    sde = build_sde(checked)
    _refuse_other_levels(checked, data)
    data, remarks = (data, ()) if bound else _measuring(checked, data)
    check_plan(checked, sde, data, training)
    network = build_network(checked, data, device)
    if training and len(data.train):
        _count_levels(network, data, settings.flip)
    if training and len(data.train):  # of a shape that the network takes
        _refuse_no_loss(checked, sde, data, objective)
    if training:
        settings, told = planned(checked, settings, device, tuple(data.train.shape[1:]))
        remarks = (*remarks, *told)
    called = compiled(network, settings, _tell) if training else network
    model = build_model(checked, called, sde)
    if not training and not computes_in(settings.precision, device):
        model = model.in_precision("float32")
        remarks = (
            *remarks,
            f"trained in {settings.precision}, which {device} has not: evaluated in float32",
        )
    compiler = Compiler(may_compile(checked, device), settings.compile_mode, _tell)
    made = config, device, data, network, model, objective, settings, remarks
    return Experiment(*made, compiler=compiler)


def _tell(text: str) -> None:
    """A line from the first process alone."""
    if distributed.is_main_process():
        tell(text)


def check_plan(config: Config, sde: SDE, data: Data, training: bool) -> None:
    """Refuse settings of sampling and likelihood that could not be carried out, without a network.

    Args:
        config: the config.
        sde: its process.
        data: its data.
        training: whether the network will be trained, and samples drawn at the end.

    Raises:
        RequestError: what would else be refused after the training.
    """
    objective = build_objective(config)
    t_min = objective.least_time
    if training:
        refuse_unbounded(objective, config.model.prediction, sde)
    question_of(config, sde, t_min, data)
    if training:
        refuse_batch(config, data)
        refuse_samples(config, data)
    if training and config.training.flip and data.num_levels is None:
        raise RequestError(
            f"training.flip = true mirrors images, and {data.name} are vectors, whose columns "
            "have no other side: set training.flip = false where it is set"
        )
    share = config.training.label_dropout
    if training and config.model.conditional and not config.model.null_class and share > 0:
        raise RequestError(
            f"training.label_dropout = {share} shows images without their class, for which "
            "model.null_class = false leaves no row: set it to 0"
        )
    own = config.model.num_classes > 0
    guidance = guidance_of(config.sampling, classes_of(config, data), data, own)
    if guidance.needs_classifier and training:
        raise RequestError(
            f"sampling.label = {config.sampling.label} needs a classifier, and a training that "
            "ends with samples comes before it: leave the label to --mode sample"
        )
    for name in dict.fromkeys((*samplers.AFTER_TRAINING, config.sampling.sampler)):
        check_sampler(config, name, sde, t_min, data)


def _count_levels(network: nn.Module, data: Data, flip: bool) -> None:
    """Give a network of the residual the histograms of its training images."""
    pixels = getattr(network, "pixels", None)
    if not isinstance(pixels, PixelLaw):
        return
    if pixels.num_levels != data.num_levels:
        raise RequestError(
            f"model.num_levels = {pixels.num_levels} must be that of the training images, which "
            f"is {data.num_levels}: leave it out"
        )
    pixels.fit(data.train, flip)


class _Silent(nn.Module):
    """A network that answers 0, in so many channels."""

    def __init__(self, channels: int, pixels: PixelLaw | None) -> None:
        super().__init__()
        self.channels, self.pixels = channels, pixels

    def forward(self, x: Tensor, _label: Tensor) -> Tensor:
        """Zeros."""
        return x.new_zeros(len(x), self.channels, *x.shape[2:])


def _refuse_no_loss(config: Config, sde: SDE, data: Data, objective: Objective) -> None:
    """Refuse scales and weights whose loss no float32 holds, whatever the network.

    It is that of a network that answers 0, about data at 0, at the first, middle and last time.
    """
    shape = tuple(data.train.shape[1:])
    channels = shape[0] * (1 + config.model.learned_variance)
    residual = config.model.prediction == "residual"
    pixels = PixelLaw(shape, 2) if residual else None
    model = build_model(config, _Silent(channels, pixels), sde)
    t = objective.first_middle_last(sde)
    x_0 = torch.zeros(3, *shape)
    eps = torch.ones_like(x_0)

    def first_bad(objective: Objective) -> int | None:
        with torch.no_grad():
            finite = objective.loss(model, x_0, t, eps).float().isfinite()
        return None if bool(finite.all()) else int((~finite).nonzero()[0])

    bad = first_bad(objective)
    if bad is None:
        return
    sigma, alpha = float(sde.sigma(t[bad])), float(sde.alpha(t[bad]))
    plain = replace(objective, name="simple")
    keys = (
        f"the weights of training.objective = {objective.name} (training.hybrid_weight, "
        "training.p2_gamma, training.p2_k)"
        if first_bad(plain) is None
        else "the scales of the process (sde.sigma_min, sde.sigma_max, sde.alpha_min)"
    )
    if objective.times == "log_normal":
        keys = f"training.log_normal_mean and training.log_normal_std, or to {keys}"
    raise RequestError(
        f"the loss at t = {float(t[bad]):g}, where alpha is {alpha:g} and sigma {sigma:g}, is no "
        f"number in float32, whatever the network answers: give other values to {keys}"
    )


def in_units_of(config: Config, data: Data) -> Config:
    """The config with the units of the network's images: `data.scale` is of the data's levels.

    Raises:
        RequestError: there are no levels, or the network came with units of its own.
    """
    unit, levels = config.model.data_scale, data.num_levels
    if choose_key("data.scale", config.data.scale) == "bins":
        return config
    if levels is None:
        raise RequestError(
            f"data.scale = {config.data.scale} is of images, whose levels have ends; {data.name} "
            "are vectors: leave it at bins"
        )
    if unit != 1:
        raise RequestError(
            f"data.scale = {config.data.scale} is of a network that is trained here, and this one "
            f"came with model.data_scale = {unit:g}, which says the same: leave data.scale at bins"
        )
    return replace(config, model=replace(config.model, data_scale=(levels - 1) / levels))


def _refuse_other_levels(config: Config, data: Data) -> None:
    """Refuse data whose levels lie elsewhere in the units of the network's images."""
    unit, levels = config.model.data_scale, data.num_levels
    if levels is not None and unit != 1 and not math.isclose(unit, (levels - 1) / levels):
        raise RequestError(
            f"model.data_scale = {unit:g} is of images with {round(1 / (1 - unit))} levels, and "
            f"{data.name} has {levels}: leave it out, or, of an imported network, import that "
            "anew with --data of the latter"
        )


def _measuring(config: Config, data: Data) -> tuple[Data, tuple[str, ...]]:
    """Data that measure a network from elsewhere, without labels that are not of its classes."""
    own, theirs = config.model.num_classes, data.num_classes
    remarks = list(data.remarks)
    if data.one_part:
        remarks.append(
            f"{data.name}: all {len(data.test)} images are measured on, and stand in for training "
            "images too, for want of both a train and a test split"
        )
    if own and theirs == own:
        remarks.append(f"{data.name}: its class k is taken for class k of the network's {own}")
    if own and theirs not in (0, own):
        remarks.append(
            f"{data.name}: its {theirs} classes are not the network's {own}, and are left out"
        )
        data = replace(data, train_labels=None, test_labels=None, class_names=())
    return data, tuple(remarks)


def build_sde(config: AnyConfig) -> SDE:
    """The process of the `sde` section, which is of the images that the network knows, in ours."""
    checked = Config.of(config)
    c, unit = checked.sde, checked.model.data_scale
    build = choose("sde", c.name, SDES)
    schedule = c.schedule if c.name in ("vp", "subvp") else ""
    if schedule == "betas" and len(c.betas) != c.num_steps:
        raise RequestError(
            f"sde.betas must have a beta for each of the sde.num_steps = {c.num_steps} steps, got "
            f"{len(c.betas)}"
        )
    by_ratio = schedule in ("linear", "scaled_linear")
    if by_ratio and max(c.beta_min, c.beta_max) >= c.num_steps:
        raise RequestError(
            f"sde.beta_min and sde.beta_max must be below sde.num_steps ({c.num_steps}), for a "
            f"beta is their ratio and below 1, got {c.beta_min} and {c.beta_max}"
        )
    return in_units(as_request_error(build, c, "sde"), unit)
