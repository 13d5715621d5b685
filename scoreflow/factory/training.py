"""What is trained for, and how: the `training` section."""

import shutil
from dataclasses import fields
from importlib.util import find_spec

import torch
from ml_collections import ConfigDict
from torch import nn

from scoreflow.data.levels import EMBEDDINGS
from scoreflow.errors import RequestError
from scoreflow.factory.choose import choose
from scoreflow.losses.objective import NAMES, TIMES, Objective
from scoreflow.runtime.environment import BFLOAT16, cpu_flags
from scoreflow.training import classifier_trainer, trainer

TRAINED_IN = ("float32", "tf32", "bfloat16")
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")
FIXED = ("beta", "posterior")
"""Variances of a reverse step that nothing teaches."""


def build_training(config: ConfigDict) -> trainer.Settings:
    """How training goes, checked."""
    section = config.training.to_dict()
    names = [field.name for field in fields(trainer.Settings)]
    settings = trainer.Settings(**{name: section[name] for name in names})
    choose("training.decay", settings.decay, ("constant", "cosine"))
    choose("training.precision", settings.precision, TRAINED_IN)
    choose("training.compile_mode", settings.compile_mode, COMPILE_MODES)
    if settings.compile_mode != "default" and not settings.compile:
        raise RequestError(
            f"training.compile_mode = {settings.compile_mode} needs training.compile = true"
        )
    choose("training.dequantization", settings.dequantization, EMBEDDINGS)
    if settings.checkpoint_every % settings.log_every:
        raise RequestError(
            "training.checkpoint_every must be a multiple of training.log_every "
            f"({settings.log_every}), got {settings.checkpoint_every}"
        )
    return settings


def build_classifying(config: ConfigDict) -> classifier_trainer.Settings:
    """How a classifier of noisy images is trained: its section, on data shown as in training."""
    c, t = config.classifier, config.training
    return classifier_trainer.Settings(
        c.num_steps, c.batch_size, c.learning_rate, c.width, t.flip, t.dequantization, config.seed
    )


def build_objective(config: ConfigDict) -> Objective:
    """What training minimises, checked against the model that is to be trained."""
    c, learned = config.training, config.model.learned_variance
    variance = "learned" if learned else choose("training.variance", c.variance, FIXED)
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


def compiled(network: nn.Module, settings: trainer.Settings) -> nn.Module:
    """The network through torch.compile, if the settings ask for it and this machine can."""
    if not settings.compile:
        return network
    on_cpu = next(network.parameters()).device.type == "cpu"
    if on_cpu and not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        raise RequestError(
            "training.compile on a CPU needs a C++ compiler and none was found: "
            "install g++ or leave it false"
        )
    if not on_cpu and find_spec("triton") is None:
        raise RequestError(
            "training.compile on a GPU needs the package triton and it was not found: "
            "install it or leave training.compile false"
        )
    if not on_cpu and not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        raise RequestError(
            "training.compile on a GPU needs a C compiler and none was found: "
            "install gcc or leave training.compile false"
        )
    return torch.compile(network, mode=settings.compile_mode)


def remark(settings: trainer.Settings, device: torch.device) -> str | None:
    """A line for who has asked for what this machine is slow at; None for nothing to remark."""
    if device.type != "cpu":
        return None
    if settings.compile_mode == "reduce-overhead":
        return "training.compile_mode = reduce-overhead: a GPU's graphs; on this CPU as default"
    flags = cpu_flags()
    if settings.precision == "bfloat16" and flags and not flags & BFLOAT16:
        return (
            "training.precision = bfloat16: this CPU has no arithmetic for it and is many times "
            "slower than in float32"
        )
    if settings.precision == "tf32":
        return "training.precision = tf32: a GPU's; on this CPU it is float32"
    return None


def choose_precision(config: ConfigDict) -> str:
    """The precision in which a network is certified: its training's, if no other is asked for."""
    own = config.equivalence.precision or config.training.precision
    name: str = choose("equivalence.precision", own, TRAINED_IN)
    return name
