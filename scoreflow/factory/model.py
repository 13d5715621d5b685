"""Network and Denoiser from the `model` section."""

from typing import Any, cast

import torch
from torch import nn

from scoreflow.data.dataset import Data
from scoreflow.errors import RequestError
from scoreflow.factory.choose import as_request_error, choose_key
from scoreflow.losses.times import least_time
from scoreflow.models.asking import Label
from scoreflow.models.mlp import MLP
from scoreflow.models.score_model import ScoreModel
from scoreflow.models.unet import UNet
from scoreflow.schema.config import AnyConfig, Config
from scoreflow.schema.training_sections import ModelConfig
from scoreflow.sde import SDE


def build_network(config: AnyConfig, data: Data) -> nn.Module:
    """The network of the `model` section, initialised from the run's seed, where the data lie."""
    config = Config.of(config)
    c, event = config.model, tuple(data.train.shape[1:])
    choose_key("model.name", c.name)
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
        network = as_request_error(
            lambda c: MLP(event[0], c.width, c.depth, c.embedding), c, "model"
        )
    else:
        classes, recompute = data.num_classes, config.training.recompute
        network = as_request_error(lambda c: _unet(c, event, classes, recompute), c, "model")
    memory = torch.channels_last if channels_last(config) else torch.contiguous_format
    moved: Any = network
    moved = moved.to(data.train.device, memory_format=memory)  # which torch's types leave out
    return cast(nn.Module, moved)


def _unet(c: ModelConfig, event: tuple[int, ...], num_classes: int, recompute: bool) -> UNet:
    if event[1] != event[2]:
        raise ValueError(f"images must be square, got {event[1]} x {event[2]} pixels")
    return UNet(
        image_size=event[1],
        in_channels=event[0],
        out_channels=event[0] * (2 if c.learned_variance else 1),
        channels=c.channels,
        multipliers=c.multipliers,
        blocks=c.blocks,
        attention_sizes=c.attention_sizes,
        dropout=c.dropout,
        num_groups=c.num_groups,
        num_classes=num_classes if c.conditional else 0,
        recompute=recompute,
    )


def build_model(config: AnyConfig, network: nn.Module, sde: SDE) -> ScoreModel:
    """The network as a Denoiser, asked as its `model` section says; in training's precision."""
    config = Config.of(config)
    c, t = config.model, config.training
    if c.integer_times and t.times != "integer":
        raise RequestError(
            "model.integer_times = true is of a network that knows integer times alone, and needs "
            f"training.times = integer, got {t.times}"
        )
    return ScoreModel(
        network,
        sde,
        choose_key("model.prediction", c.prediction),
        least_time(choose_key("training.times", t.times), t.t_min),
        t.precision,
        channels_last(config),
        c.learned_variance,
        label=Label(choose_key("model.label", c.label), c.label_scale, c.label_offset),
        input_scale=choose_key("model.input_scale", c.input_scale),
        data_std=c.data_std,
        data_range=choose_key("model.data_range", c.data_range),
        integer_times=c.integer_times,
    )


def channels_last(config: Config) -> bool:
    """Whether images have their channels last in memory; vectors have no such choice."""
    return config.training.channels_last and config.model.name == "unet"
