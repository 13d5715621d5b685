"""Loss, optimisation and compilation from the `training` section."""

import math
from dataclasses import fields, replace
from typing import Any

import torch
from torch import nn

from scoreflow.data.dataset import Data
from scoreflow.errors import RequestError
from scoreflow.factory.choose import choose_key
from scoreflow.factory.own_network import is_import_path
from scoreflow.losses.objective import Objective
from scoreflow.models.score_model import HALF
from scoreflow.runtime import compiling, distributed
from scoreflow.runtime.device import WITHOUT_FLOAT64
from scoreflow.runtime.environment import BFLOAT16, cpu_flags
from scoreflow.runtime.memory import refuse_above_memory
from scoreflow.samplers.reverse_variance import Variance
from scoreflow.schema import resolve
from scoreflow.schema.config import AnyConfig, Config
from scoreflow.schema.request import flatten
from scoreflow.schema.section import AUTO
from scoreflow.storage.atomic_files import Json
from scoreflow.storage.checkpoints.content import trained_with, values_in
from scoreflow.storage.checkpoints.states import DamagedError
from scoreflow.storage.run_folder import DATA, RunDir
from scoreflow.training.settings import ClassifierSettings, TrainingSettings

CPU = torch.device("cpu")


def build_training(config: AnyConfig, device: torch.device = CPU) -> TrainingSettings:
    """The settings of the trainer, checked; what they leave to the device as that has it.

    Args:
        config: of the run.
        device: where the network is trained.
    """
    config = Config.of(config)
    section: dict[str, Any] = config.training.to_dict()
    asked = section["compile"]
    section["compile"] = asked is True or (asked == AUTO and may_compile(config, device))
    section["precision"] = compiling.precision_on(
        choose_key("training.precision", config.training.precision), device
    )
    names = [field.name for field in fields(TrainingSettings)]
    settings = TrainingSettings(**{name: section[name] for name in names})
    choose_key("training.decay", settings.decay)
    choose_key("training.compile_mode", settings.compile_mode)
    if settings.compile_mode != "default" and asked is False:
        raise RequestError(
            f"training.compile_mode = {settings.compile_mode} needs training.compile = true"
        )
    choose_key("training.dequantization", settings.dequantization)
    if settings.checkpoint_every % settings.log_every:
        raise RequestError(
            "training.checkpoint_every must be a multiple of training.log_every "
            f"({settings.log_every}), got {settings.checkpoint_every}"
        )
    if settings.preview_every % settings.log_every:
        raise RequestError(
            "training.preview_every must be a multiple of training.log_every "
            f"({settings.log_every}), or 0, got {settings.preview_every}"
        )
    return settings


def may_compile(config: Config, device: torch.device) -> bool:
    """Whether networks are compiled without a word: ours, on CUDA, where the machine can."""
    own = not is_import_path(config.model.name)
    on_gpu = config.training.compile is not False and device.type == "cuda"
    return own and on_gpu and not compiling.missing_for(device)


def planned(
    config: Config, settings: TrainingSettings, device: torch.device, event: tuple[int, ...]
) -> tuple[TrainingSettings, tuple[str, ...]]:
    """A training's settings, compiled under `AUTO` where it is worth it, and the line about it.

    There is one as well where compiling was asked for: nothing else is seen for minutes.

    Args:
        config: of the run.
        settings: of `build_training` on the device.
        device: where it is trained.
        event: shape of an image.
    """
    work = compiling.PASSES * settings.num_steps, settings.batch_size, event
    worth = settings.compile_mode != "default" or compiling.worth_compiling(*work)
    if settings.compile and config.training.compile != AUTO:
        here = f"training.compile = true: on {device} the network is compiled, {compiling.TAKES}"
        return settings, (here,)
    if config.training.compile != AUTO or device.type != "cuda":
        return settings, ()
    if not worth or is_import_path(config.model.name):
        return replace(settings, compile=False), ()
    lacking = compiling.missing_for(device)
    told = f"the network is compiled, {compiling.TAKES}"
    if lacking:
        told = f"the network is not compiled, for want of {lacking}"
        told += "" if lacking == compiling.NEWER_GPU else ": install it for faster steps"
    return settings, (f"training.compile = auto: on {device} {told}",)


def refuse_batch(config: Config, data: Data) -> None:
    """Refuse a batch, or a part of it, that is larger than the memory."""
    t, event, device = config.training, data.train.shape[1:], data.train.device
    whole = -(-t.batch_size // distributed.placement().world)
    wide = config.model.channels if config.model.name == "unet" else 1
    part = -(-whole // t.micro_batches) * wide * math.prod(event[1:])
    need = 8 * max(part, whole * math.prod(event))
    remedy = "lower it, or raise training.micro_batches"
    refuse_above_memory(f"training.batch_size = {t.batch_size}", need, device, remedy)


def build_classifying(config: AnyConfig) -> ClassifierSettings:
    """The settings of the classifier's trainer; flips and dequantization are those of training."""
    config = Config.of(config)
    c, t = config.classifier, config.training
    embedding = choose_key("training.dequantization", t.dequantization)
    return ClassifierSettings(
        c.num_steps, c.batch_size, c.learning_rate, c.width, t.flip, embedding, config.seed
    )


def build_objective(config: AnyConfig) -> Objective:
    """The loss, checked against the model that is to be trained."""
    config = Config.of(config)
    c, learned = config.training, config.model.learned_variance
    variance: Variance = "learned" if learned else choose_key("training.variance", c.variance)
    objective = Objective(
        name=choose_key("training.objective", c.objective),
        times=choose_key("training.times", c.times),
        t_min=c.t_min,
        low_discrepancy=c.low_discrepancy,
        variance=variance,
        hybrid_weight=c.hybrid_weight,
        min_snr_gamma=c.min_snr_gamma,
        p2_gamma=c.p2_gamma,
        p2_k=c.p2_k,
        log_normal_mean=c.log_normal_mean,
        log_normal_std=c.log_normal_std,
        shift=c.shift,
    )
    if choose_key("training.coupling", c.coupling) != "independent":
        raise RequestError(
            f"training.coupling = {c.coupling} pairs data with noise in a batch: u is then not "
            "the mean of eps - x_0 given x_t under independent noise, from which score, samplers "
            "and likelihood follow; leave training.coupling at independent"
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
            f"training.t_min = {c.t_min} needs training.times = real, importance or "
            "log_normal; integer times begin at 1"
        )
    if config.model.prediction == "mean" and c.times != "integer":
        raise RequestError(
            "model.prediction = mean is about whole steps of the chain and needs training.times = "
            f"integer, got {c.times}"
        )
    return objective


def computes_in(precision: str, device: torch.device) -> bool:
    """Whether a device has a precision; float32 is everywhere, and all of MPS's that is used."""
    if precision not in HALF or device.type in WITHOUT_FLOAT64:
        return precision not in HALF
    one = torch.ones(1, 1, 3, 3, device=device)
    try:
        with torch.autocast(device.type, HALF[precision]):
            return torch.nn.functional.conv2d(one, one).dtype == HALF[precision]
    except RuntimeError:
        return False


def check_precision(settings: TrainingSettings, device: torch.device) -> None:
    """Refuse to train in half a precision that the device cannot compute in.

    Raises:
        RequestError: with the precision that every device has.
    """
    if not computes_in(settings.precision, device):
        raise RequestError(
            f"training.precision = {settings.precision} is none that networks are trained in on "
            f"the device {device}: add --config.training.precision=float32"
        )


def compiled(
    network: nn.Module, settings: TrainingSettings, say: compiling.Say | None = None
) -> nn.Module:
    """The network through torch.compile, if the settings ask for it and this machine can.

    Args:
        network: to be trained.
        settings: of its training.
        say: gets a line after the first step, with the seconds that it took.
    """
    if not settings.compile:
        return network
    device = next(network.parameters()).device
    if lacking := compiling.missing_for(device):
        remedy = "add --config.training.compile=false"
        if lacking != compiling.NEWER_GPU:
            lacking, remedy = f"{lacking}, which was not found", f"install it, or {remedy}"
        kind = "a CPU" if device.type == "cpu" else "a GPU"
        raise RequestError(f"training.compile on {kind} needs {lacking}: {remedy}")
    share = -(-settings.batch_size // distributed.placement().world)
    varying = share % settings.micro_batches > 0
    return compiling.Compiled(network, "train", settings.compile_mode, varying, say)


def not_compiled(config: AnyConfig, device: torch.device) -> str:
    """A line where training.compile = true has no effect on evaluations; else ""."""
    config = Config.of(config)
    if config.training.compile is not True or may_compile(config, device):
        return ""
    lacking = compiling.missing_for(device) if device.type == "cuda" else ""
    why = f", for want of {lacking}" if lacking else ""
    return f"training.compile = true: evaluations on {device} are not compiled{why}"


def remark(settings: TrainingSettings, device: torch.device, asked: str = "") -> str | None:
    """Warning about a setting that is slow or without effect on this device, or None.

    Args:
        settings: of a training there.
        device: where it is.
        asked: the precision that the config has, where the settings have the device's.
    """
    if device.type == "cuda" and settings.precision == "bfloat16":
        if torch.cuda.is_available() and torch.cuda.get_device_capability(device) < (8, 0):
            return (
                f"training.precision = bfloat16: {torch.cuda.get_device_name(device)} has no "
                "arithmetic for it and emulates it: float16 is the one it has"
            )
        return None
    if device.type in WITHOUT_FLOAT64:
        return (
            f"{device} has no float64: the network is there, in float32; data, states and solvers "
            "are on the CPU"
        )
    if device.type != "cpu":
        return None
    if settings.precision == "float16":
        return (
            "training.precision = float16: a GPU's; on a CPU it is many times slower than float32"
        )
    if settings.compile_mode == "reduce-overhead":
        here = "on this CPU as default" if settings.compile else "without effect on this CPU"
        return f"training.compile_mode = reduce-overhead: a GPU's graphs; {here}"
    flags = cpu_flags()
    if settings.precision == "bfloat16" and flags and not flags & BFLOAT16:
        return (
            "training.precision = bfloat16: this CPU has no arithmetic for it and is many times "
            "slower than in float32"
        )
    if asked == "tf32":
        return "training.precision = tf32: a GPU's; on this CPU it is float32"
    return None


def choose_precision(config: AnyConfig) -> str:
    """The precision of a network under `equivalence`: that of training, unless it names one.

    float32 where training left it to the device, or has a scaled loss for it.
    """
    config = Config.of(config)
    trained = config.training.precision
    rounded = trained in (AUTO, "float16")
    own = config.equivalence.precision or ("float32" if rounded else trained)
    name: str = choose_key("equivalence.precision", own)
    return name


def refuse_edited(folder: RunDir, step: int, state: Json) -> None:
    """Refuse a config.json, or a data.json, that is not what a checkpoint was trained with.

    What an imported network is trained on with is free until that begins, and data.json is there.

    Raises:
        RequestError: names what was edited; or what the checkpoint says of it is damaged.
    """
    where, data = folder.path / "config.json", folder.data
    try:
        recorded, of_data = values_in(state), values_in(state, "data")
    except DamagedError as error:
        raise RequestError(f"the checkpoint of step {step} in {folder.path}: {error}") from error
    if data and not of_data:  # of a network that came from elsewhere
        recorded = {k: v for k, v in recorded.items() if k.split(".")[0] in resolve.OF_NETWORK}
    resolve.refuse_edited(recorded, flatten(folder.config), folder.history, step, where)
    resolve.refuse_edited_data(of_data, data, step, folder.path / DATA)


def record_of(folder: RunDir) -> Json:
    """What a training keeps in its checkpoints of what it is trained with."""
    values = resolve.frozen(flatten(folder.config))
    return trained_with(config=values, data=resolve.facts_of_data(folder.data))
