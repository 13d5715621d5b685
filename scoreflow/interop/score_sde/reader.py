"""score_sde_pytorch's .pth: `ddpm` and `ncsnpp`, whose config is in no file.

    {optimizer, model, ema: {decay, num_updates, shadow_params}, step}

With t in 0..1, x_t = alpha x_0 + sigma eps and F the network:

    vp, discrete        F(x_t, index) = eps at the times of the chain
    vp, continuous      F(x_t, 999 t) = eps,    alpha^2 + sigma^2 = 1
    subvp               F(x_t, 999 t) = eps,    sigma = 1 - alpha^2
    ve, continuous      F(2 x_t - 1, ln(sigma)) / sigma = score, of images in [0, 1]: F is -eps
    ve, discrete        the same with the label N - 1 - index
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from scoreflow.errors import RequestError
from scoreflow.interop.imported import Imported
from scoreflow.interop.options import answers
from scoreflow.interop.score_sde.modules import (
    LISTED,
    Architecture,
    MisfitError,
    architecture_of,
)
from scoreflow.interop.score_sde.recipes import ASKED
from scoreflow.interop.score_sde.weights import averaged, renamed
from scoreflow.interop.tensor_files import odd_tensor
from scoreflow.interop.torch_files import load_tensors

NAME = "score_sde"
PREFIX = "module."
"""What DataParallel puts before every name."""
LAST_LABEL, LEAST_TIME = 999, 1e-5
"""The label of t = 1, and the least t of its training at real times."""
CLOCKS = {
    True: "as its own evaluation asks it",
    False: (
        "the chain's integer times only; its own likelihood and flow ask it as if it were "
        "continuous, at label 999 t: up to 0.999 from the index of that time, the most where the "
        "noise is least, where a label is given a tenth of the noise that it was trained on"
    ),
}
"""How the network is asked, beside its published evaluation; by `continuous`, for vp."""


def recognises(path: Path) -> bool:
    """Whether a path is a checkpoint of score_sde_pytorch, by what its tensors are called."""
    if not path.is_file() or path.suffix not in (".pth", ".pt"):
        return False
    try:
        network = load_tensors(path).get("model")
    except RequestError:
        return False
    return isinstance(network, dict) and any(
        str(name).removeprefix(PREFIX).startswith(LISTED) for name in network
    )


def read(path: Path, options: Mapping[str, object]) -> Imported:
    """A file as our settings and weights.

    Args:
        path: checkpoint_N.pth.
        options: `ASKED`.

    Raises:
        RequestError: an option is missing, or the file is of another network.
    """
    held = load_tensors(path)
    try:
        network, sigmas = _network(held)
        architecture = architecture_of(network)
        told = _told(architecture, options)
        negated = told["sde"] == "ve"
        raw = renamed(network, architecture, negated)
        weights = raw
        if isinstance(held.get("ema"), dict) and "shadow_params" in held["ema"]:
            averages = averaged(network, held["ema"]["shadow_params"])
            weights = renamed(averages, architecture, negated)
        settings = {**_unet(architecture, told), **_process(told, sigmas)}
    except MisfitError as error:
        raise RequestError(
            f"{path} is no network of score_sde_pytorch that can be had: {error}"
        ) from error
    facts = _facts(architecture, told, settings, weights is not raw)
    step = held.get("step", 0)
    return Imported(
        NAME,
        settings,
        weights,
        raw if weights is not raw else None,
        facts,
        step if type(step) is int and step >= 0 else 0,
    )


def _network(held: Mapping[str, Any]) -> tuple[dict[str, Tensor], Tensor]:
    """The raw weights without prefix, and the table of noise scales, largest first."""
    found = held.get("model")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise MisfitError("it has no state dict under `model`")
    network = {name.removeprefix(PREFIX): tensor for name, tensor in found.items()}
    sigmas = network.pop("sigmas", None)
    if odd_tensor(sigmas) or sigmas.ndim != 1 or len(sigmas) < 2:
        raise MisfitError("it has no table `sigmas`, which tells the steps of the chain")
    if not 0 < float(sigmas[-1]) < float(sigmas[0]) < math.inf:
        raise MisfitError("its table `sigmas` does not fall from its most noise to its least")
    return network, sigmas


def _told(architecture: Architecture, options: Mapping[str, object]) -> dict[str, Any]:
    """All answers; what the file hints at is the default of what is not given.

    Raises:
        MisfitError: they contradict each other or the file.
    """
    hints: dict[str, object] = {"skip_rescale": architecture.ncsnpp}
    if architecture.fourier:
        hints |= {"sde": "ve", "continuous": True}
    if architecture.pyramid or not architecture.ncsnpp:
        hints["fir"] = architecture.pyramid
    exploding = options.get("sde", hints.get("sde")) == "ve"
    hints |= {"centered": not exploding, "scale_by_sigma": exploding}
    told = answers(NAME, ASKED, {**hints, **options}, "or --recipe NAME for a published config")
    exploding = told["sde"] == "ve"
    for wrong, why in (
        (architecture.pyramid and not told["fir"], "an input pyramid without the filter (fir)"),
        (
            architecture.pyramid and not told["skip_rescale"],
            "an input pyramid without sums over sqrt 2 (skip_rescale)",
        ),
        (told["fir"] and not architecture.ncsnpp, "the filter (fir) in a ddpm"),
        (told["scale_by_sigma"] != exploding, "scale_by_sigma without ve, or ve without it,"),
        (not (told["centered"] or exploding), "images in [0, 1] (centered = False) without ve"),
        (
            told["sde"] == "subvp" and not told["continuous"],
            "subvp at integer times",
        ),
        (
            exploding and architecture.fourier != told["continuous"],
            "ve at real times without Fourier features, or at integer ones with them,",
        ),
        (architecture.fourier and not exploding, "Fourier features without ve"),
    ):
        if wrong:
            raise MisfitError(f"{why} cannot be had")
    return told


def _unet(architecture: Architecture, told: Mapping[str, Any]) -> dict[str, Any]:
    size = told["size"]
    settings = {
        "model.name": "unet",
        "model.shape": (architecture.image_channels, size, size),
        "model.channels": architecture.channels,
        "model.multipliers": architecture.multipliers,
        "model.blocks": architecture.blocks,
        "model.attention_sizes": tuple(size >> level for level in architecture.attends),
        "model.attention_up": "last",
        "model.num_groups": told["norm_groups"],
        "model.dropout": told["dropout"],
        "model.rescaled_skips": told["skip_rescale"],
    }
    if architecture.ncsnpp:
        settings |= {
            "model.channels_per_group": 4,
            "model.resample": "residual_conv",
            "model.fir": told["fir"],
            "model.input_pyramid": architecture.pyramid,
            "model.time_embedding": "fourier" if architecture.fourier else "positional",
        }
    return settings


def _process(told: Mapping[str, Any], sigmas: Tensor) -> dict[str, Any]:
    steps, continuous = len(sigmas), told["continuous"]
    settings = {
        "sde.name": told["sde"],
        "sde.num_steps": steps,
        "model.prediction": "eps",
        "model.integer_times": not continuous,
        "training.times": "real" if continuous else "integer",
        "training.dequantization": "centre",
    }
    if told["sde"] == "ve":
        unit = 1.0 if told["centered"] else 2.0  # of its noise scales, on images in [-1, 1]
        log_sigma = ("log_sigma", 1.0, -math.log(unit))
        of, scale, offset = log_sigma if continuous else ("time", -1.0, float(steps))
        settings |= {
            "sde.sigma_min": unit * float(sigmas[-1]),
            "sde.sigma_max": unit * float(sigmas[0]),
            "model.input_scale": "alpha",
        }
    else:
        of, scale, offset = (
            ("time", LAST_LABEL / steps, 0.0) if continuous else ("time", 1.0, -1.0)
        )
        settings |= {
            "sde.schedule": "linear_continuous" if continuous else "linear",
            "sde.beta_min": told["beta_min"],
            "sde.beta_max": told["beta_max"],
            "model.input_scale": "none" if told["sde"] == "subvp" else "unit",
        }
        if continuous:
            settings["training.t_min"] = LEAST_TIME * steps
    return settings | {
        "model.label": of,
        "model.label_scale": scale,
        "model.label_offset": offset,
    }


def _facts(
    architecture: Architecture,
    told: Mapping[str, Any],
    settings: Mapping[str, Any],
    has_average: bool,
) -> dict[str, str]:
    widths = ", ".join(str(architecture.channels * each) for each in architecture.multipliers)
    at = ", ".join(str(told["size"] >> level) for level in architecture.attends)
    steps, exploding = settings["sde.num_steps"], told["sde"] == "ve"
    kind = "ncsnpp" if architecture.ncsnpp else "ddpm"
    filtered = ", resized by the filter [1, 3, 3, 1]" if told["fir"] else ""
    pyramid = ", input pyramid" if architecture.pyramid else ""
    if exploding:
        low, high = settings["sde.sigma_min"], settings["sde.sigma_max"]
        schedule = f"variance exploding, sigma from {low:g} to {high:g} of images in [-1, 1]"
        label = "ln(sigma)" if told["continuous"] else f"{steps} - t, from 0 at the most noise"
    else:
        schedule = f"linear, betas {told['beta_min']:g} to {told['beta_max']:g} over {steps} steps"
        label = f"999 t / {steps}" if told["continuous"] else "index, from 0"
        schedule += ", in continuous time" if told["continuous"] else ""
    discrete_ve = exploding and not told["continuous"]
    return {
        "architecture": (
            f"{kind}, {widths} channels, {architecture.blocks} blocks a level, attention at "
            f"{at or 'the middle alone'}{filtered}{pyramid}"
        ),
        "process": told["sde"],
        "schedule": schedule,
        "prediction": "score, of which -eps is the part before 1 / sigma" if exploding else "eps",
        "label": label,
        "clock": "the chain's integer times only" if discrete_ve else CLOCKS[told["continuous"]],
        "classes": "none",
        "weights": "averaged, and the raw ones" if has_average else "raw",
    }
