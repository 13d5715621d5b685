"""From a config to objects: the only reader of configs, by explicit dictionaries of names.

Every choice that a config can get wrong is refused here, before any work, with the names it could
have had. (Its keys, types and ranges were checked in `request`.)
"""

import difflib
import os
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import nn

from samplers import (
    DDIM,
    DEIS,
    GRIDS,
    Ancestral,
    AnnealedLangevin,
    Clipped,
    DPMSolver,
    EulerMaruyama,
    Heun,
    Langevin,
    PredictorCorrector,
    ProbabilityFlow,
    ReverseDiffusion,
    Sampler,
    UniPC,
    grid,
)
from samplers.sampler import FINALS, Final
from scoreflow import data as data_sets
from scoreflow import toy, train
from scoreflow.data import Data
from scoreflow.dequantization import DEQUANTIZATIONS, EMBEDDINGS, Dequantizer
from scoreflow.errors import RequestError
from scoreflow.evaluate import Question
from scoreflow.likelihood import Solver
from scoreflow.mlp import MLP
from scoreflow.model import OUTPUTS, ScoreModel
from scoreflow.objective import NAMES, TIMES, Objective
from scoreflow.unet import UNet
from sde import SDE, VESDE, VPSDE, Denoiser, SubVPSDE
from sde.flow import sign_set_size
from sde.ode import odeint

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
CORRECTORS: dict[str, Any] = {"langevin": Langevin, "annealed": AnnealedLangevin}
SAMPLERS = (
    "ancestral",
    "pc",
    "ode",
    "ddim",
    "reverse_diffusion",
    "euler_maruyama",
    "heun",
    "dpm",
    "dpm_sde",
    "deis",
    "unipc",
)
HIGH_ORDER = ("heun", "dpm", "dpm_sde", "deis", "unipc")
FEW_STEPS = 20
"""Of those of high order, where a config leaves it open."""
COMPARED = ("ancestral", "pc", "ode")
"""The samplers that a training ends with."""
VARIANCES = ("beta", "posterior", "learned")
TRAINED_IN = ("float32", "bfloat16")


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
    settings: train.Settings


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
    choose_precision(config)
    build_solver(config)
    data = build_data(config, device)
    network = build_network(config, data)
    model = build_model(config, compiled(network, settings) if training else network, sde)
    build_question(config, model, data)
    for name in dict.fromkeys((*COMPARED, config.sampling.sampler)):
        build_drawing(config, name, model, data)
    return Experiment(config, device, data, network, model, objective, settings)


def choose(what: str, name: str, options: Any) -> Any:  # noqa: ANN401
    """options[name], or a refusal that lists the names and the nearest one."""
    if name in options:
        return options[name] if isinstance(options, dict) else name
    names: Iterable[str] = list(options)
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise RequestError(f"{what} must be one of {', '.join(names)}, got {name!r}{hint}")


def build_sde(config: ConfigDict) -> SDE:
    """The process of the `sde` section."""
    c = config.sde
    build = choose("sde", c.name, SDES)
    if c.name != "ve" and c.schedule == "linear" and max(c.beta_min, c.beta_max) >= c.num_steps:
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
        out_channels=event[0] * (2 if c.learned_variance else 1),
        channels=c.channels,
        multipliers=tuple(c.multipliers),
        blocks=c.blocks,
        attention_sizes=tuple(c.attention_sizes),
        dropout=c.dropout,
        num_groups=c.num_groups,
    )


def build_model(config: ConfigDict, network: nn.Module, sde: SDE) -> ScoreModel:
    """The network as a Denoiser, with the precision of the `training` section."""
    return ScoreModel(
        network,
        sde,
        choose("model.prediction", config.model.prediction, OUTPUTS),
        build_objective(config).least_time,
        config.training.precision,
        _channels_last(config),
        config.model.learned_variance,
    )


def choose_precision(config: ConfigDict) -> str:
    """The precision in which a network is certified: its training's, if no other is asked for."""
    own = config.equivalence.precision or config.training.precision
    name: str = choose("equivalence.precision", own, TRAINED_IN)
    return name


def build_training(config: ConfigDict) -> train.Settings:
    """How training goes, checked."""
    section = config.training.to_dict()
    names = [field.name for field in fields(train.Settings)]
    settings = train.Settings(**{name: section[name] for name in names})
    choose("training.decay", settings.decay, ("constant", "cosine"))
    choose("training.precision", settings.precision, TRAINED_IN)
    choose("training.dequantization", settings.dequantization, EMBEDDINGS)
    if settings.checkpoint_every % settings.log_every:
        raise RequestError(
            "training.checkpoint_every must be a multiple of training.log_every "
            f"({settings.log_every}), got {settings.checkpoint_every}"
        )
    return settings


def build_objective(config: ConfigDict) -> Objective:
    """What training minimises, checked against the model that is to be trained."""
    c, learned = config.training, config.model.learned_variance
    variance = "learned" if learned else choose("training.variance", c.variance, VARIANCES[:2])
    objective = Objective(
        name=choose("training.objective", c.objective, NAMES),
        times=choose("training.times", c.times, TIMES),
        t_min=c.t_min,
        low_discrepancy=c.low_discrepancy,
        variance=variance,
        hybrid_weight=c.hybrid_weight,
        min_snr_gamma=c.min_snr_gamma,
        p2_gamma=c.p2_gamma,
        p2_k=c.p2_k,
    )
    if learned and c.objective not in ("hybrid", "variational"):
        raise RequestError(
            "model.learned_variance needs training.objective = hybrid or variational, which alone "
            f"teach it, got {c.objective}"
        )
    if c.objective == "hybrid" and not learned:
        raise RequestError("training.objective = hybrid needs model.learned_variance = true")
    if c.times == "integer" and c.t_min != 1.0:
        raise RequestError(
            f"training.t_min = {c.t_min} needs training.times = real or importance; integer times "
            "begin at 1"
        )
    if config.model.prediction == "mean" and c.times != "integer":
        raise RequestError(
            "model.prediction = mean is about whole steps of the chain and needs training.times = "
            f"integer, got {c.times}"
        )
    return objective


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
    final: Final = "mean"


def build_drawing(config: ConfigDict, name: str, model: ScoreModel, data: Data) -> Drawing:
    """A sampler by name, on the grid of the `sampling` section."""
    c = config.sampling
    choose("sampler", name, SAMPLERS)
    if name == "ode":
        _try_solver("sampling", c.method, (c.tolerance,))
        flow = ProbabilityFlow(model.t_min, c.tolerance, c.method, c.max_evaluations)
        return Drawing(flow, flow.times(model.sde.num_steps), model)
    variance = choose("sampling.variance", c.variance, VARIANCES)
    if variance == "learned" and not model.learned_variance:
        raise RequestError(
            "sampling.variance = learned needs a network trained with model.learned_variance = "
            "true; this one has beta or posterior"
        )
    ancestral = Ancestral(variance)
    corrector = choose("sampling.corrector", c.corrector, CORRECTORS)(c.snr, c.corrections)
    methods: dict[str, Callable[[ConfigDict], Sampler]] = {
        "ancestral": lambda _: ancestral,
        "pc": lambda _: PredictorCorrector(ancestral, corrector),
        "ddim": lambda c: DDIM(c.eta),
        "reverse_diffusion": lambda _: ReverseDiffusion(),
        "euler_maruyama": lambda _: EulerMaruyama(),
        "heun": lambda c: Heun(c.churn),
        "dpm": lambda c: DPMSolver(c.order),
        "dpm_sde": lambda _: DPMSolver(2, stochastic=True),
        "deis": lambda c: DEIS(c.order),
        "unipc": lambda c: UniPC(c.order),
    }
    sampler = _refusing(methods[name], c, "sampling.order")
    clip = c.clip and data.num_levels is not None
    final = choose("sampling.final", c.final, FINALS)
    return Drawing(sampler, _times(c, name, model), Clipped(model) if clip else model, final)


def _times(c: ConfigDict, name: str, model: ScoreModel) -> torch.Tensor:
    """The grid of the `sampling` section."""
    high = name in HIGH_ORDER
    chosen = choose("sampling.grid", c.grid, ("auto", *GRIDS))
    chosen = ("log_snr" if high else "uniform") if chosen == "auto" else chosen
    steps = c.steps or (FEW_STEPS if high else model.sde.num_steps)
    return _refusing(lambda k: grid(chosen, model.sde, k, model.t_min), steps, "sampling.steps")


def build_solver(config: ConfigDict) -> Solver:
    """The solver of the `likelihood` section."""
    c = config.likelihood
    _try_solver("likelihood", c.method, (c.tolerance, 0.0))
    return Solver(c.probes, c.tolerance, c.tolerance_bits, c.method, c.max_evaluations)


def build_question(
    config: ConfigDict, model: ScoreModel, data: Data, dequantization: str = ""
) -> Question:
    """What the `likelihood` section asks of each datum, or the same by another dequantization."""
    c, embedding = config.likelihood, config.training.dequantization
    name = dequantization or c.dequantization
    choose("likelihood.dequantization", name, DEQUANTIZATIONS)
    t, end = c.t_start or model.t_min, model.sde.num_steps
    if not model.t_min <= t < end:
        raise RequestError(
            f"likelihood.t_start must lie in [{model.t_min:g}, {end}), got {t:g}: this network "
            f"learned {config.training.times} times and is not asked below t = {model.t_min:g}"
        )
    most = sign_set_size(data.test[0].numel())
    if c.probes > most:
        raise RequestError(
            f"likelihood.probes must lie in 0..{most} for data of {data.test[0].numel()} "
            f"dimensions, got {c.probes}; 0 is the exact divergence"
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
    return Question(build_solver(config), c.seed, dequantizer, c.samples, c.batch_size, c.checked)


def _try_solver(section: str, method: str, rtol: tuple[float, ...]) -> None:
    """Refuse a method that does not exist, or cannot work as it would be asked to here."""
    state = tuple(torch.zeros(1, 1, dtype=torch.float64) for _ in rtol)

    def solve(method: str) -> None:
        odeint(lambda _t, x, _rows: x, state, 0.0, 1e-3, method=method, rtol=rtol, atol=1.0)

    _refusing(solve, method, f"{section}.method")


def build_device(name: str) -> torch.device:
    """A device by name, or the best one found. It must be there, and must know float64."""
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not name and there > 1 and "LOCAL_RANK" in os.environ:  # of torchrun: a device each
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]) % there)
    if not name:
        return torch.device("cuda" if there else "cpu")
    if name in ("cpu", "cpu:0"):
        return torch.device("cpu")
    _refuse_kind(name)
    index = int(name.partition(":")[2] or 0)
    if index >= there:
        found = f"CUDA devices are 0..{there - 1}" if there else "no CUDA device was found"
        raise RequestError(f"--device {name} cannot be used here ({found}); cpu always can")
    device = torch.device("cuda", index) if ":" in name else torch.device("cuda")
    try:
        float(torch.zeros((), dtype=torch.float64, device=device))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise RequestError(
            f"--device {name} cannot be used here ({reason}); cpu always can"
        ) from error
    return device


def _refuse_kind(name: str) -> None:
    """Refuse what is not written as a CUDA device is."""
    kind = name.lower().partition(":")[0]
    if kind == "mps":
        raise RequestError(
            f"--device {name} cannot be used: it has no float64, which schedules and likelihoods "
            "need; cpu always can"
        )
    if not re.fullmatch(r"cuda(:[0-9]{1,4})?", name):
        meant = {"gpu": "cuda"}.get(kind, kind)
        near = difflib.get_close_matches(meant, ("cpu", "cuda"), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "cpu always can"
        raise RequestError(
            f"--device {name} cannot be used: it must be cpu, cuda or cuda:N; {hint}"
        )


def _channels_last(config: ConfigDict) -> bool:
    return bool(config.training.channels_last) and config.model.name == "unet"


def _refusing(build: Callable[[Any], Any], c: Any, section: str = "") -> Any:  # noqa: ANN401
    """build(c), its ValueError turned into a refusal."""
    try:
        return build(c)
    except ValueError as error:
        prefix = f"{section}: " if section and not str(error).startswith(section) else ""
        raise RequestError(f"{prefix}{error}") from error
