"""From a config to objects: the only reader of configs, by explicit dictionaries of names.

Every choice that a config can get wrong is refused here, before any work, with the names it could
have had. (Its keys, types and ranges were checked in `request`.)
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
from sde.ode import odeint

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
SAMPLERS = ("ancestral", "pc", "ode")
TOY_POINTS = 20_000
TOY_RING, TOY_WIDTH = 0.8, 0.1


@dataclass(frozen=True)
class Experiment:
    """All that a config describes, every choice in it tried.

    Attributes:
        config: the config.
        device: where everything lies.
        data: on the device.
        network: not compiled: what is saved.
        model: the network, compiled if the config says so, as a Denoiser.
        settings: how it is trained.
    """

    config: ConfigDict
    device: torch.device
    data: Data
    network: nn.Module
    model: ScoreModel
    settings: train.Settings


def experiment(config: ConfigDict, device: torch.device) -> Experiment:
    """The objects of a config, cheap choices first; what cannot be sampled is refused as well."""
    sde = build_sde(config)
    settings = build_training(config)
    choose("sampler", config.sampling.sampler, SAMPLERS)
    build_solver(config)
    data = build_data(config, device)
    network = build_network(config, data)
    model = build_model(config, compiled(network, settings), sde)
    for name in SAMPLERS:
        build_drawing(config, name, model, data)
    return Experiment(config, device, data, network, model, settings)


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
    c = config.sde
    build = choose("sde", c.name, SDES)
    if c.schedule == "linear" and max(c.beta_min, c.beta_max) >= c.num_steps:
        raise RequestError(
            f"sde.beta_min and sde.beta_max must be below sde.num_steps ({c.num_steps}), for a "
            f"beta is their ratio and below 1, got {c.beta_min} and {c.beta_max}"
        )
    return _refusing(build, c, "sde")


def build_data(config: ConfigDict, device: torch.device) -> Data:
    """The data of the `data` section, on the device."""
    c = config.data
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
    if settings.checkpoint_every % settings.log_every:
        raise RequestError(
            "training.checkpoint_every must be a multiple of training.log_every "
            f"({settings.log_every}), got {settings.checkpoint_every}"
        )
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

    sampler: Sampler
    times: torch.Tensor
    denoiser: Denoiser


def build_drawing(config: ConfigDict, name: str, model: ScoreModel, data: Data) -> Drawing:
    """A sampler by name, on the grid of the `sampling` section."""
    c = config.sampling
    choose("sampler", name, SAMPLERS)
    if name == "ode":
        _try_solver("sampling", c.method, (c.tolerance,))
        flow = ProbabilityFlow(model.t_min, c.tolerance, c.method, c.max_evaluations)
        return Drawing(flow, flow.times(model.sde.num_steps), model)
    times = _chain_times(c.steps, model)
    sampler: Sampler = Ancestral(choose("sampling.variance", c.variance, ("beta", "posterior")))
    corrector = choose("sampling.corrector", c.corrector, CORRECTORS)
    if name == "pc":
        sampler = PredictorCorrector(sampler, corrector(c.snr, c.corrections))
    clip = c.clip and data.num_levels is not None
    return Drawing(sampler, times, Clipped(model) if clip else model)


def _chain_times(steps: int, model: ScoreModel) -> torch.Tensor:
    n = model.sde.num_steps
    return _refusing(lambda k: uniform_times(n, k or n, integer=True), steps, "sampling.steps")


def build_solver(config: ConfigDict) -> Solver:
    """The solver of the `likelihood` section."""
    c = config.likelihood
    _try_solver("likelihood", c.method, (c.tolerance, 0.0))
    return Solver(c.probes, c.tolerance, c.tolerance_bits, c.method, c.max_evaluations)


def _try_solver(section: str, method: str, rtol: tuple[float, ...]) -> None:
    """Refuse a method that does not exist, or cannot work as it would be asked to here."""
    state = tuple(torch.zeros(1, 1, dtype=torch.float64) for _ in rtol)

    def solve(method: str) -> None:
        odeint(lambda _t, x, _rows: x, state, 0.0, 1e-3, method=method, rtol=rtol, atol=1.0)

    _refusing(solve, method, f"{section}.method")


def build_device(name: str) -> torch.device:
    """A device by name, or the best one found. It must be there, and must know float64."""
    if not name:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        float(torch.zeros((), dtype=torch.float64, device=device))
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
