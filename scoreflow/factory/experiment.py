"""All that a config describes, built."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from ml_collections import ConfigDict
from torch import nn

from scoreflow.data import loading as data_sets
from scoreflow.data import toy
from scoreflow.data.dataset import Data
from scoreflow.errors import RequestError
from scoreflow.factory.choose import choose, refusing
from scoreflow.factory.guidance import build_guidance
from scoreflow.factory.likelihood import build_question, build_solver
from scoreflow.factory.sampling import COMPARED, SAMPLERS, build_drawing
from scoreflow.factory.training import build_objective, build_training, choose_precision, compiled
from scoreflow.losses.objective import Objective
from scoreflow.models.classifier import Classifier, NoisyClassifier
from scoreflow.models.mlp import MLP
from scoreflow.models.score_model import OUTPUTS, ScoreModel
from scoreflow.models.unet import UNet
from scoreflow.schema.task_keys import TASKS
from scoreflow.sde import SDE, VESDE, VPSDE, SubVPSDE
from scoreflow.training import trainer

SCHEDULES: dict[str, Callable[[type[VPSDE], ConfigDict], VPSDE]] = {
    "linear": lambda kind, c: kind.linear(c.num_steps, c.beta_min, c.beta_max),
    "cosine": lambda kind, c: kind.cosine(c.num_steps),
    "log_linear": lambda kind, c: kind.log_linear(c.num_steps, c.sigma_min, c.alpha_min),
}
SDES: dict[str, Callable[[ConfigDict], SDE]] = {
    "vp": lambda c: choose("sde.schedule", c.schedule, SCHEDULES)(VPSDE, c),
    "subvp": lambda c: choose("sde.schedule", c.schedule, SCHEDULES)(SubVPSDE, c),
    "ve": lambda c: VESDE(c.num_steps, c.sigma_min, c.sigma_max),
}


@dataclass(frozen=True)
class Experiment:
    """All that a config describes, every choice in it tried.

    Attributes:
        config: the config.
        device: where everything lies.
        data: on the device.
        network: not compiled: what is saved.
        model: the network, compiled if the config says so, as a Denoiser.
        objective: what training minimises.
        settings: how it is trained.
    """

    config: ConfigDict
    device: torch.device
    data: Data
    network: nn.Module
    model: ScoreModel
    objective: Objective
    settings: trainer.Settings


def experiment(config: ConfigDict, device: torch.device, training: bool = True) -> Experiment:
    """The objects of a config, cheap choices first; what cannot be sampled is refused as well.

    Args:
        config: the config.
        device: where everything shall lie.
        training: whether the network will be trained; it is compiled for that alone.
    """
    sde = build_sde(config)
    torch.backends.cudnn.allow_tf32 = False  # float32 in a config means float32
    settings, objective = build_training(config), build_objective(config)
    choose("sampler", config.sampling.sampler, SAMPLERS)
    choose("sampling.task", config.sampling.task, ("none", *TASKS))
    choose_precision(config)
    build_solver(config)
    data = build_data(config, device)
    network = build_network(config, data)
    model = build_model(config, compiled(network, settings) if training else network, sde)
    build_question(config, model, data)
    classifier = _placeholder(config, model, data, training)
    for name in dict.fromkeys((*COMPARED, config.sampling.sampler)):
        # a choice is refused here; what a trained network gets wrong is not known yet
        build_drawing(config, name, model, data, classifier, torch.ones_like)
    return Experiment(config, device, data, network, model, objective, settings)


def _placeholder(
    config: ConfigDict, model: ScoreModel, data: Data, training: bool
) -> NoisyClassifier | None:
    """A classifier to try a config with, before the run's own is looked for; it is never asked."""
    guidance = build_guidance(config, model, data)
    if not guidance.needs_classifier:
        return None
    if training:
        raise RequestError(
            f"sampling.label = {guidance.label} needs a classifier, and a training that ends with "
            "samples comes before it: leave the label to --mode sample"
        )
    channels, height, width = data.train.shape[1:]
    network = Classifier((channels, height, width), data.num_classes, 8)
    return NoisyClassifier(network, model.sde, model.t_min)


def build_sde(config: ConfigDict) -> SDE:
    """The process of the `sde` section."""
    c = config.sde
    build = choose("sde", c.name, SDES)
    if c.name != "ve" and c.schedule == "linear" and max(c.beta_min, c.beta_max) >= c.num_steps:
        raise RequestError(
            f"sde.beta_min and sde.beta_max must be below sde.num_steps ({c.num_steps}), for a "
            f"beta is their ratio and below 1, got {c.beta_min} and {c.beta_max}"
        )
    return refusing(build, c, "sde")


def build_data(config: ConfigDict, device: torch.device) -> Data:
    """The data of the `data` section, on the device."""
    c = config.data
    loaders: dict[str, Callable[[], Data]] = {
        "digits": lambda: data_sets.load_digits(c.test_fraction, c.split_seed),
        "toy": lambda: toy.load(c.test_fraction, c.split_seed),
        "images": lambda: data_sets.load_images(c.path, c.test_fraction, c.split_seed),
    }
    data = choose("data.name", c.name, loaders)()
    return Data(
        data.name,
        data.train.to(device),
        data.test.to(device),
        data.num_levels,
        data.train_labels,
        data.test_labels,
    )


def build_network(config: ConfigDict, data: Data) -> nn.Module:
    """The network of the `model` section, initialised from the run's seed, where the data lie."""
    c, event = config.model, tuple(data.train.shape[1:])
    choose("model.name", c.name, ("unet", "mlp"))
    if (c.name == "unet") != (len(event) == 3):
        raise RequestError(
            f"model.name = unet is for images and mlp for vectors, got {c.name} on data of shape "
            f"{event}"
        )
    torch.manual_seed(config.seed)
    network: nn.Module
    if c.name == "mlp" and c.learned_variance:
        raise RequestError("model.learned_variance needs model.name = unet, got mlp")
    if c.conditional and (c.name == "mlp" or data.num_classes == 0):
        raise RequestError(
            "model.conditional needs model.name = unet and data with labels, got "
            f"{c.name} on {data.name} with {data.num_classes} classes"
        )
    if c.name == "mlp":
        network = refusing(lambda c: MLP(event[0], c.width, c.depth, c.embedding), c, "model")
    else:
        recompute = bool(config.training.recompute)
        network = refusing(lambda c: _unet(c, event, data.num_classes, recompute), c, "model")
    memory = torch.channels_last if channels_last(config) else torch.contiguous_format
    return network.to(data.train.device, memory_format=memory)


def _unet(c: ConfigDict, event: tuple[int, ...], num_classes: int, recompute: bool) -> UNet:
    if event[1] != event[2]:
        raise ValueError(f"images must be square, got {event[1]} x {event[2]} pixels")
    return UNet(
        image_size=event[1],
        in_channels=event[0],
        out_channels=event[0] * (2 if c.learned_variance else 1),
        channels=c.channels,
        multipliers=tuple(c.multipliers),
        blocks=c.blocks,
        attention_sizes=tuple(c.attention_sizes),
        dropout=c.dropout,
        num_groups=c.num_groups,
        num_classes=num_classes if c.conditional else 0,
        recompute=recompute,
    )


def build_model(config: ConfigDict, network: nn.Module, sde: SDE) -> ScoreModel:
    """The network as a Denoiser, with the precision of the `training` section."""
    return ScoreModel(
        network,
        sde,
        choose("model.prediction", config.model.prediction, OUTPUTS),
        build_objective(config).least_time,
        config.training.precision,
        channels_last(config),
        config.model.learned_variance,
    )


def channels_last(config: ConfigDict) -> bool:
    """Whether images have their channels last in memory; vectors have no such choice."""
    return bool(config.training.channels_last) and config.model.name == "unet"
