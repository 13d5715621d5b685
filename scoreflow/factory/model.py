"""Network and Denoiser from the `model` section."""

from collections.abc import Sequence
from itertools import chain
from typing import Any, cast

import torch
from torch import nn

from scoreflow.data.dataset import Data
from scoreflow.data.sources.labels import NO_CLASSES
from scoreflow.errors import RequestError
from scoreflow.factory.choose import as_request_error, choose, choose_key
from scoreflow.factory.own_network import is_import_path, own_network
from scoreflow.losses.times import least_time
from scoreflow.models.asking import Label
from scoreflow.models.mlp import MLP
from scoreflow.models.residual.pixel_law import INPUTS, MOST_LEVELS, PixelLaw
from scoreflow.models.score_model import ScoreModel
from scoreflow.models.unet import UNet
from scoreflow.models.unet_levels import fitting, refuse_bad_levels
from scoreflow.runtime.compiling import precision_on
from scoreflow.runtime.gpu.transfer import move_network
from scoreflow.runtime.memory import refuse_above_memory
from scoreflow.schema.config import KEYS, AnyConfig, Config
from scoreflow.schema.training_sections import ModelConfig
from scoreflow.sde import SDE

SWITCHES = (
    "channels",
    "multipliers",
    "blocks",
    "attention_sizes",
    "dropout",
    "num_groups",
    "norm_eps",
    "channels_per_group",
    "heads",
    "head_channels",
    "attention_up",
    "attention_middle",
    "scale_shift",
    "rescaled_skips",
    "resample",
    "padding",
    "fir",
    "input_pyramid",
    "stem_multiplier",
    "embedding_channels",
    "time_embedding",
    "embedding_order",
    "frequency_shift",
    "class_embedding",
    "null_class",
)
"""Keys of the `model` section that are arguments of the U-Net, under the same names."""
NO_MIDDLE = "--config.model.attention_middle=false"


def build_network(config: AnyConfig, data: Data, device: torch.device | None = None) -> nn.Module:
    """The network of the `model` section, initialised from the run's seed.

    Args:
        config: of the run.
        data: what it is for.
        device: where it shall lie; None for where the data do.
    """
    config = Config.of(config)
    c, event = config.model, event_shape(config.model, data)
    own = is_import_path(c.name)
    build = _own if own else choose("model.name", c.name, {"unet": _unet, "mlp": _mlp})
    if not own and (c.name == "unet") != (len(event) == 3):
        other = "unet" if len(event) == 3 else "mlp"
        raise RequestError(
            f"model.name = unet is for images and mlp for vectors, got {c.name} on data of shape "
            f"{event}: add --config.model.name={other}"
        )
    if c.name == "mlp" and c.learned_variance:
        raise RequestError("model.learned_variance needs model.name = unet, got mlp")
    if c.prediction == "residual":
        _refuse_residual(config, data)
    _refuse_size(config, device or data.train.device)
    classes = classes_of(config, data)
    torch.manual_seed(config.seed)
    network: Any = as_request_error(lambda c: build(c, event, classes), config, "model")
    if c.prediction == "residual":
        assert data.num_levels is not None, "refused above"
        network.pixels = PixelLaw(event, c.num_levels or data.num_levels)
    memory = torch.channels_last if channels_last(config) else torch.contiguous_format
    network = cast(nn.Module, network.to(memory_format=memory))  # torch's types lack it
    return move_network(network, device or data.train.device)


def _refuse_residual(config: Config, data: Data) -> None:
    """Refuse a network of the residual for data without levels, or of another kind."""
    c = config.model
    if config.training.dequantization == "centre":
        raise RequestError(
            "model.prediction = residual knows a level as a bin, and training.dequantization = "
            "centre shows it as a point: leave that at uniform, or predict eps, x_0 or v"
        )
    if c.name != "unet" or data.num_levels is None:
        told = "vectors" if data.num_levels is None else f"model.name = {c.name}"
        raise RequestError(
            "model.prediction = residual needs model.name = unet and images of levels, got "
            f"{told}: predict eps, x_0 or v"
        )
    levels = c.num_levels or data.num_levels
    if levels > MOST_LEVELS:
        raise RequestError(
            f"model.prediction = residual is for up to {MOST_LEVELS} levels, {data.name} has "
            f"{levels}: predict eps, x_0 or v"
        )


def _refuse_size(config: Config, device: torch.device) -> None:
    """Refuse a network whose weights alone are larger than the memory."""
    c = config.model
    keys: tuple[str, ...] = ("channels", "multipliers", "blocks")
    if c.name == "unet":
        widest = c.channels * max(c.multipliers, default=1) * c.stem_multiplier
        numbers = 9 * c.blocks * (c.channels * max(c.multipliers, default=1)) ** 2
        numbers += 9 * widest + 4 * c.channels * (c.embedding_channels + c.num_classes)
    elif c.name == "mlp":
        numbers, keys = c.depth * c.width**2 + c.embedding * c.width, ("width", "depth")
    else:
        return
    told = ", ".join(f"model.{key} = {vars(c)[key]}" for key in keys)
    refuse_above_memory(f"a network of {told}", 4 * numbers, device, "make it smaller")


def event_shape(c: ModelConfig, data: Data) -> tuple[int, ...]:
    """The shape of what the network estimates: `model.shape`, or else that of the data.

    Raises:
        RequestError: the data have another shape than the network.
    """
    found = tuple(data.train.shape[1:])
    if any(c.shape) and tuple(c.shape) != found:
        raise RequestError(
            f"the network is for images of shape {_by(c.shape)} (model.shape), the data have "
            f"{_by(found)}: name others by data.name and data.path"
        )
    return found


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def classes_of(config: Config, data: Data) -> int:
    """Classes that the network is conditioned on: `model.num_classes`, or those of the data.

    Raises:
        RequestError: a conditional network that cannot be one, or data with more classes than it.
    """
    c = config.model
    if not c.conditional:
        if c.num_classes:
            raise RequestError(
                f"model.num_classes = {c.num_classes} needs model.conditional = true, got false"
            )
        return 0
    known = c.num_classes or data.num_classes
    if known == 0 and c.name != "mlp" and data.num_levels is not None:
        why = next((line for line in data.remarks if line.startswith(NO_CLASSES)), "")
        raise RequestError(
            f"model.conditional = true needs a class for every image, and {data.name} has 0 "
            f"classes{why and f' ({why.removeprefix(NO_CLASSES)})'}: put the images of each class "
            "into a folder of its name, name the class of each file in a dataset.json, or the "
            "column of labels by --config.data.labels=COLUMN; or set model.conditional = false"
        )
    if c.name == "mlp" or known == 0:
        raise RequestError(
            "model.conditional needs model.name = unet and data with labels, got "
            f"{c.name} on {data.name} with {data.num_classes} classes"
        )
    if data.num_classes > known:
        raise RequestError(
            f"the network knows {known} classes (model.num_classes), {data.name} has "
            f"{data.num_classes}: give data with those classes, or without any"
        )
    return known


def _mlp(config: Config, event: tuple[int, ...], classes: int) -> MLP:
    c = config.model
    return MLP(event[0], c.width, c.depth, c.embedding)


def _own(config: Config, event: tuple[int, ...], classes: int) -> nn.Module:
    return own_network(config.model.name, event, classes)


def _unet(config: Config, event: tuple[int, ...], classes: int) -> UNet:
    c = config.model
    given: dict[str, Any] = {}
    for name in SWITCHES:
        given[name] = getattr(c, name)
        if KEYS[f"model.{name}"].choices:
            choose_key(f"model.{name}", given[name])
    channels, height, width = event
    _refuse_unfitting(config, (height, width))
    return UNet(
        image_size=height if height == width else (height, width),
        in_channels=channels * (INPUTS if c.prediction == "residual" else 1),
        out_channels=channels * (2 if c.learned_variance else 1),
        num_classes=classes,
        recompute=config.training.recompute,
        **given,
    )


def _refuse_unfitting(config: Config, sides: tuple[int, int]) -> None:
    """Refuse levels that images of a size cannot have, with the flags of those that they can."""
    c = config.model
    try:
        refuse_bad_levels(sides, len(c.multipliers), c.blocks, c.attention_sizes)
    except ValueError as error:
        flags = _flags_for(c, sides)
        if not flags:  # the levels are not what is wrong
            raise
        remedy = f"for images of {_by(sides)} pixels (height x width) add {' '.join(flags)}"
        divisor = 2 ** (len(c.multipliers) - 1)
        cropped = (sides[0] // divisor * divisor, sides[1] // divisor * divisor)
        if cropped != sides and all(cropped) and config.data.name == "images":
            size = f"--config.data.size={cropped[0]}x{cropped[1]}"
            crop = (size, "--config.data.fit=crop", *_flags_for(c, cropped))
            remedy += f"; or crop them by {' '.join(crop)}"
        raise RequestError(f"model: {error}; {remedy}") from error


def _flags_for(c: ModelConfig, sides: tuple[int, int]) -> list[str]:
    """What to add to a command so that the network can have images of a size."""
    multipliers, sizes, middle = fitting(sides, c.multipliers, c.attention_sizes)
    flags = []
    if multipliers != tuple(c.multipliers):
        flags.append(f"--config.model.multipliers={','.join(map(str, multipliers))}")
    if set(sizes) != set(c.attention_sizes):  # parentheses are the shell's own
        text = ",".join(map(str, sizes)) or "'()'"
        flags.append(f"--config.model.attention_sizes={text}")
    return flags if middle or not c.attention_middle else [*flags, NO_MIDDLE]


def build_model(config: AnyConfig, network: nn.Module, sde: SDE) -> ScoreModel:
    """The network as a Denoiser, asked as its `model` section says.

    In training's precision, as the device where the network lies has that.
    """
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
        precision_on(t.precision, device_of(network)),
        channels_last(config),
        c.learned_variance,
        label=Label(choose_key("model.label", c.label), c.label_scale, c.label_offset),
        input_scale=choose_key("model.input_scale", c.input_scale),
        data_std=c.data_std,
        data_range=choose_key("model.data_range", c.data_range),
        data_scale=c.data_scale,
        integer_times=c.integer_times,
    )


def device_of(network: nn.Module) -> torch.device:
    """Where a network lies; the CPU for one without weights."""
    first = next(chain(network.parameters(), network.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def channels_last(config: Config) -> bool:
    """Whether images have their channels last in memory; vectors have no such choice."""
    return config.training.channels_last and config.model.name == "unet"
