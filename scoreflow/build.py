"""From a config to objects: the only reader of configs, by explicit dictionaries of names.

Every choice that a config can get wrong is refused here, before any work, with the names it could have had.
"""

import difflib
import math
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import nn

from samplers import (
    Ancestral,
    AnnealedLangevin,
    Clipped,
    Langevin,
    PredictorCorrector,
    ProbabilityFlow,
    Sampler,
    uniform_times,
)
from scoreflow import data as data_sets
from scoreflow import train
from scoreflow.data import Data
from scoreflow.errors import RequestError
from scoreflow.likelihood import Solver
from scoreflow.mlp import MLP
from scoreflow.model import ScoreModel
from scoreflow.unet import UNet
from sde import SDE, VPSDE, Denoiser, Noise
from sde.analytic import GaussianMixture
from sde.ode import check_method

SCHEDULES: dict[str, Callable[[ConfigDict], VPSDE]] = {
    "linear": lambda c: VPSDE.linear(c.num_steps, c.beta_min, c.beta_max),
    "cosine": lambda c: VPSDE.cosine(c.num_steps),
    "log_linear": lambda c: VPSDE.log_linear(c.num_steps, c.sigma_min, c.alpha_min),
}
SDES: dict[str, Callable[[ConfigDict], SDE]] = {
    "vp": lambda c: choose("sde.schedule", c.schedule, SCHEDULES)(c),
}
CORRECTORS: dict[str, Any] = {"langevin": Langevin, "annealed": AnnealedLangevin}
PREDICTIONS = ("eps", "v")
TOY_POINTS = 20_000
TOY_RING, TOY_WIDTH = 0.8, 0.1


def choose(what: str, name: str, options: Any) -> Any:  # noqa: ANN401
    """options[name], or a refusal that lists the names and the nearest one."""
    if name in options:
        return options[name] if isinstance(options, dict) else name
    names: Iterable[str] = list(options)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise RequestError(f"{what} must be one of {', '.join(names)}, got {name!r}{hint}")


def build_sde(config: ConfigDict) -> SDE:
    """The process of the `sde` section."""
    return _refusing(choose("sde", config.sde.name, SDES), config.sde)


def build_data(config: ConfigDict, device: torch.device) -> Data:
    """The data of the `data` section, on the device."""
    c = config.data
    if not 0 < c.test_fraction < 1:
        raise RequestError(f"data.test_fraction must lie in (0, 1), got {c.test_fraction}")
    loaders: dict[str, Callable[[], Data]] = {
        "digits": lambda: data_sets.load_digits(c.test_fraction, c.split_seed),
        "toy": lambda: _toy_data(c.test_fraction, c.split_seed),
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


def toy_distribution() -> GaussianMixture:
    """Eight Gaussians on a ring: the true density of the toy data."""
    angle = torch.arange(8, dtype=torch.float64) * (2 * math.pi / 8)
    means = TOY_RING * torch.stack([angle.cos(), angle.sin()], dim=1)
    covariances = (TOY_WIDTH**2 * torch.eye(2, dtype=torch.float64)).expand(8, 2, 2)
    return GaussianMixture(torch.full((8,), 1 / 8), means, covariances)


def _toy_data(test_fraction: float, split_seed: int) -> Data:
    points = toy_distribution().sample(Noise.of(split_seed, 0, TOY_POINTS)).float()
    held_out = round(TOY_POINTS * test_fraction)
    return Data("toy", points[held_out:], points[:held_out], None, None, None)


def build_network(config: ConfigDict, data: Data) -> nn.Module:
    """The network of the `model` section, initialised from the run's seed, on the device of the data."""
    c, event = config.model, tuple(data.train.shape[1:])
    choose("model.name", c.name, ("unet", "mlp"))
    if (c.name == "unet") != (len(event) == 3):
        raise RequestError(
            f"model.name = unet is for images and mlp for vectors, got {c.name} on data of shape {event}"
        )
    torch.manual_seed(config.seed)
    network: nn.Module
    if c.name == "mlp":
        network = _refusing(lambda c: MLP(event[0], c.width, c.depth, c.embedding), c, "model")
    else:
        network = _refusing(lambda c: _unet(c, event), c, "model")
    memory = torch.channels_last if _channels_last(config) else torch.contiguous_format
    return network.to(data.train.device, memory_format=memory)


def _unet(c: ConfigDict, event: tuple[int, ...]) -> UNet:
    if event[1] != event[2]:
        raise ValueError(f"images must be square, got {event[1]} x {event[2]} pixels")
    return UNet(
        image_size=event[1],
        in_channels=event[0],
        out_channels=event[0],
        channels=c.channels,
        multipliers=tuple(c.multipliers),
        blocks=c.blocks,
        attention_sizes=tuple(c.attention_sizes),
        dropout=c.dropout,
        num_groups=c.num_groups,
    )


def build_model(config: ConfigDict, network: nn.Module, sde: SDE) -> ScoreModel:
    """The network as a Denoiser, with the precision of the `training` section."""
    training = build_training(config)
    kind = choose("model.prediction", config.model.prediction, PREDICTIONS)
    t_min = 1.0 if training.times == "integer" else training.t_min
    return ScoreModel(network, sde, kind, t_min, training.precision, _channels_last(config))


def build_training(config: ConfigDict) -> train.Settings:
    """The `training` section, checked."""
    settings = train.Settings(**config.training)
    choose("training.times", settings.times, ("integer", "real"))
    choose("training.decay", settings.decay, ("constant", "cosine"))
    choose("training.precision", settings.precision, ("float32", "bfloat16"))
    positive = ("num_steps", "batch_size", "learning_rate", "clip_norm", "log_every")
    for name in positive:
        if getattr(settings, name) <= 0:
            raise RequestError(f"training.{name} must be positive, got {getattr(settings, name)}")
    if not 0 < settings.t_min <= 1:
        raise RequestError(f"training.t_min must lie in (0, 1] steps, got {settings.t_min}")
    if not 0 <= settings.ema_decay < 1:
        raise RequestError(f"training.ema_decay must lie in [0, 1), got {settings.ema_decay}")
    if settings.checkpoint_every <= 0 or settings.checkpoint_every % settings.log_every:
        raise RequestError(
            "training.checkpoint_every must be a positive multiple of training.log_every "
            f"({settings.log_every}), got {settings.checkpoint_every}"
        )
    if not 0 <= config.seed < 2**31:
        raise RequestError(f"seed must lie in [0, 2^31), got {config.seed}")
    return settings


def compiled(network: nn.Module, settings: train.Settings) -> nn.Module:
    """The network through torch.compile, if the settings ask for it and this machine can."""
    if not settings.compile:
        return network
    on_cpu = next(network.parameters()).device.type == "cpu"
    if on_cpu and not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        raise RequestError(
            "training.compile on a CPU needs a C++ compiler and none was found: "
            "install g++ or leave it false"
        )
    return torch.compile(network)


@dataclass(frozen=True)
class Drawing:
    """How samples are drawn: a method, its times, and the Denoiser to hand it."""

    name: str
    sampler: Sampler
    times: torch.Tensor
    denoiser: Denoiser
    evaluations: int | None
    """Calls of the denoiser a batch, None where the solver decides."""


def build_drawing(config: ConfigDict, name: str, model: ScoreModel, data: Data) -> Drawing:
    """A sampler by name, on the grid of the `sampling` section."""
    c = config.sampling
    choose("sampler", name, ("ancestral", "pc", "ode"))
    for key in ("num_images", "batch_size"):
        if c[key] <= 0:
            raise RequestError(f"sampling.{key} must be positive, got {c[key]}")
    if name == "ode":
        _refusing(check_method, c.method, "sampling.method")
        flow = ProbabilityFlow(model.t_min, c.tolerance, c.method, c.max_evaluations)
        return Drawing(name, flow, flow.times(model.sde.num_steps), model, None)
    times = _chain_times(c.steps, model)
    choose("sampling.variance", c.variance, ("beta", "posterior"))
    sampler: Sampler = Ancestral(c.variance)
    evaluations = len(times) - 1
    if name == "pc":
        corrector = choose("sampling.corrector", c.corrector, CORRECTORS)
        sampler = PredictorCorrector(sampler, corrector(c.snr, c.corrections))
        evaluations *= 1 + c.corrections
    clip = c.clip and data.num_levels is not None
    return Drawing(name, sampler, times, Clipped(model) if clip else model, evaluations)


def _chain_times(steps: int, model: ScoreModel) -> torch.Tensor:
    n = model.sde.num_steps
    return _refusing(lambda k: uniform_times(n, k or n, integer=True), steps, "sampling.steps")


def build_solver(config: ConfigDict) -> Solver:
    """The solver of the `likelihood` section."""
    c = config.likelihood
    _refusing(check_method, c.method, "likelihood.method")
    if c.probes < 0 or c.batch_size <= 0 or c.num_images < 0:
        raise RequestError(
            "likelihood.probes and num_images must not be negative and batch_size must be positive, "
            f"got {c.probes}, {c.num_images} and {c.batch_size}"
        )
    return Solver(c.probes, c.tolerance, c.tolerance_bits, c.method, c.max_evaluations)


def build_device(name: str) -> torch.device:
    """A device by name, or the best one found. It must be there, and must know float64."""
    if not name:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, dtype=torch.float64, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise RequestError(
            f"--device {name} cannot be used here ({reason}); cpu always can"
        ) from error
    return device


def _channels_last(config: ConfigDict) -> bool:
    return bool(config.training.channels_last) and config.model.name == "unet"


def _refusing(build: Callable[[Any], Any], c: Any, section: str = "") -> Any:  # noqa: ANN401
    """build(c), its ValueError turned into a refusal."""
    try:
        return build(c)
    except ValueError as error:
        prefix = f"{section}: " if section and not str(error).startswith(section) else ""
        raise RequestError(f"{prefix}{error}") from error
