"""A run's U-Net as diffusers has it: a DDPMPipeline's configs, and its weights by their names.

The reader undone. diffusers asks at the chain's integer times alone, so a network that learned
others as well loses nothing; what its UNet2DModel or its schedulers cannot express is refused by
our key. The rectified path is FlowMatchEulerDiscreteScheduler's: it follows the network's output
as u = eps - x_0, and asks it about x_t itself with the label N sigma = t, at real times from N
to 1. So of that path only a network of u, with that input and label, can be written.
"""

from typing import Any

import torch
from torch import Tensor

from scoreflow.errors import RequestError
from scoreflow.interop.diffusers import folder
from scoreflow.interop.diffusers.names import given_back
from scoreflow.interop.imported import Exported, Weights
from scoreflow.schema.config import Config
from scoreflow.schema.request import flatten
from scoreflow.schema.training_sections import SDEConfig
from scoreflow.sde import VPSDE

Json = dict[str, Any]
VERSION = "0.35.2"
"""The version of diffusers whose files these are."""
DDPM, FLOW = "DDPMScheduler", "FlowMatchEulerDiscreteScheduler"
PREDICTIONS = {"eps": "epsilon", "x_0": "sample", "v": "v_prediction", "score": "epsilon"}
EXPRESSED: dict[str, tuple[object, ...]] = {
    "model.name": ("unet",),
    "sde.name": ("vp",),
    "model.prediction": tuple(PREDICTIONS),
    "model.class_embedding": ("after",),
    "model.time_embedding": ("positional",),
    "model.channels_per_group": (0,),
    "model.attention_up": ("each",),
    "model.rescaled_skips": (False,),
    "model.resample": ("conv",),
    "model.fir": (False,),
    "model.input_pyramid": (False,),
    "model.label": ("time",),
    "model.label_scale": (1.0,),
    "model.label_offset": (-1.0,),
    "model.input_scale": ("unit", "none"),
    "model.data_std": (1.0,),
    "model.data_range": ("symmetric",),
}
"""Values that diffusers has, by our key."""
OF_THE_PATH: dict[str, tuple[object, ...]] = {
    "sde.name": ("rectified",),
    "model.prediction": ("u",),
    "model.input_scale": ("none",),
    "model.label_offset": (0.0,),
    "model.learned_variance": (False,),
    "model.integer_times": (False,),
}
"""Those of a network on the rectified path, where they differ."""
VARIANCES = {"beta": "fixed_large", "learned": "learned_range"}
"""Variances of a step; for all others theirs is the posterior's."""


def files(network: Exported) -> dict[str, Any]:
    """The files of a pipeline's folder, by their paths: JSON values, and the weights.

    Raises:
        RequestError: a key has a value that diffusers has not.
    """
    refuse_unlike(network.config)
    weights = network.weights
    if network.config.model.prediction == "score":
        weights = _negated(weights, network.event[0])
    kind = _kind(network.config)
    classes = {"scheduler": ["diffusers", kind], "unet": ["diffusers", "UNet2DModel"]}
    how = flow_scheduler if _on_the_path(network.config) else scheduler
    return {
        "model_index.json": _about("DDPMPipeline") | classes,
        "unet/config.json": _about("UNet2DModel") | constructor(network),
        "unet/diffusion_pytorch_model.safetensors": given_back(weights),
        "scheduler/scheduler_config.json": _about(kind) | how(network.config),
        folder.OURS: our_settings(network),
    }


def our_settings(network: Exported) -> Json:
    """What diffusers' files have no place for: our process, times, points of a level, classes."""
    flat = flatten(network.config.to_dict())
    found = {key: flat[key] for key in folder.OUR_KEYS}
    table = network.weights.get("embedding.classes.weight")
    if table is not None:
        found["model.num_classes"] = len(table) - int(network.config.model.null_class)
    return found


def refuse_unlike(config: Config) -> None:
    """Refuse a network or a process that diffusers does not have.

    Raises:
        RequestError: naming the key, its value, and the values that can be written.
    """
    own = OF_THE_PATH if _on_the_path(config) else {"sampling.shift": (1.0,)}
    for key, values in (EXPRESSED | own).items():
        section, option = key.split(".")
        if (value := getattr(getattr(config, section), option)) not in values:
            raise beyond(key, value, " or ".join(map(str, values)), _kind(config))


def beyond(key: str, value: object, wanted: str, scheduler: str = DDPM) -> RequestError:
    """The refusal of a value that diffusers has not."""
    return RequestError(
        f"{key} must be {wanted} for diffusers' UNet2DModel and {scheduler}, got {value}: "
        "export to safetensors instead"
    )


def _on_the_path(config: Config) -> bool:
    return config.sde.name == "rectified"


def _kind(config: Config) -> str:
    """The scheduler's class."""
    return FLOW if _on_the_path(config) else DDPM


def constructor(network: Exported) -> Json:
    """UNet2DModel's arguments.

    Raises:
        RequestError: its widths are not such as UNet2DModel derives from each other.
    """
    c, weights, (channels, height, width) = network.config.model, network.weights, network.event
    widths = [c.channels * multiplier for multiplier in c.multipliers]
    sinusoids, stem = weights["embedding.inner.weight"].shape[1], len(weights["stem.weight"])
    if stem != widths[0]:
        raise beyond("model.multipliers", c.multipliers, f"begun by {stem // c.channels}")
    if sinusoids != widths[0]:
        raise beyond("model.embedding_channels", sinusoids, str(widths[0]))
    embedding = len(weights["embedding.outer.weight"])
    attends = [max(height, width) >> level in c.attention_sizes for level in range(len(widths))]
    table = weights.get("embedding.classes.weight")
    return {
        "sample_size": height if height == width else [height, width],
        "in_channels": channels,
        "out_channels": len(weights["head.2.bias"]),
        "center_input_sample": False,
        "time_embedding_type": "positional",
        "time_embedding_dim": None if embedding == 4 * widths[0] else embedding,
        "freq_shift": c.frequency_shift,
        "flip_sin_to_cos": c.embedding_order == "cos_sin",
        "down_block_types": [f"{'Attn' if each else ''}DownBlock2D" for each in attends],
        "mid_block_type": "UNetMidBlock2D",
        "up_block_types": [f"{'Attn' if each else ''}UpBlock2D" for each in reversed(attends)],
        "block_out_channels": widths,
        "layers_per_block": c.blocks,
        "mid_block_scale_factor": 1,
        "downsample_padding": 0 if c.padding == "bottom_right" else 1,
        "downsample_type": "conv",
        "upsample_type": "conv",
        "dropout": c.dropout,
        "act_fn": "silu",
        "attention_head_dim": _head_channels(network.config, widths, attends),
        "norm_num_groups": c.num_groups,
        "attn_norm_num_groups": c.num_groups if c.scale_shift else None,
        "norm_eps": c.norm_eps,
        "resnet_time_scale_shift": "scale_shift" if c.scale_shift else "default",
        "add_attention": c.attention_middle,
        "class_embed_type": None,
        "num_class_embeds": None if table is None else len(table),
        "num_train_timesteps": None,
    }


def scheduler(config: Config) -> Json:
    """DDPMScheduler's arguments; times of fewer steps are those of `sampling.grid`."""
    c, learned = config.sampling, config.model.learned_variance
    return {
        **betas(config.sde),
        "num_train_timesteps": config.sde.num_steps,
        "prediction_type": PREDICTIONS[config.model.prediction],
        "variance_type": VARIANCES.get("learned" if learned else c.variance, "fixed_small"),
        "clip_sample": c.clip,
        "clip_sample_range": 1.0,
        "thresholding": False,
        "timestep_spacing": "leading" if c.grid == "leading" else "trailing",
        "steps_offset": 0,
        "rescale_betas_zero_snr": False,
    }


def flow_scheduler(config: Config) -> Json:
    """FlowMatchEulerDiscreteScheduler's arguments; its times of K steps are even from N to 1."""
    return {
        "num_train_timesteps": config.sde.num_steps,
        "shift": config.sampling.shift,
        "use_dynamic_shifting": False,
        "invert_sigmas": False,
        "stochastic_sampling": False,
    }


def betas(c: SDEConfig) -> Json:
    """The schedule by their name for it, or as a list of betas."""
    ends = {"beta_start": c.beta_min / c.num_steps, "beta_end": c.beta_max / c.num_steps}
    match c.schedule:
        case "linear" | "scaled_linear":
            return {"beta_schedule": c.schedule, **ends}
        case "cosine":
            return {"beta_schedule": "squaredcos_cap_v2"}
        case "betas":
            return {"trained_betas": list(c.betas)}
        case "log_linear":
            own = VPSDE.log_linear(c.num_steps, c.sigma_min, c.alpha_min).betas
            return {"trained_betas": own.tolist()}
        case "linear_continuous":
            return {"trained_betas": _of_closed_form(c)}
    raise AssertionError(f"{c.schedule} is no schedule")


# ---- parts of these -----------------------------------------------------------------------------


def _about(kind: str) -> Json:
    return {"_class_name": kind, "_diffusers_version": VERSION}


def _head_channels(config: Config, widths: list[int], attends: list[bool]) -> int | None:
    """Channels of a head, the same at every level there; None for one head."""
    c = config.model
    if c.head_channels or c.heads == 1:
        return c.head_channels or None
    used = [width for width, attended in zip(widths, attends, strict=True) if attended]
    used += widths[-1:] if c.attention_middle else []
    sizes = {width // c.heads for width in used}
    if len(sizes) > 1:
        raise beyond("model.heads", c.heads, "1, or model.head_channels set in its place")
    return sizes.pop() if sizes else None


def _negated(weights: Weights, channels: int) -> Weights:
    """The estimate's output with its sign turned: unit-scale score is minus eps."""
    turned: dict[str, Tensor] = dict(weights)
    for name in ("head.2.weight", "head.2.bias"):
        own = weights[name].clone()
        own[:channels] = -own[:channels]
        turned[name] = own
    return turned


def _of_closed_form(c: SDEConfig) -> list[float]:
    """Betas of the chain that has linear_continuous's alpha at every integer time."""
    u = torch.arange(c.num_steps + 1, dtype=torch.float64) / c.num_steps
    log_alpha = -(u**2) * (c.beta_max - c.beta_min) / 4 - u * c.beta_min / 2
    found: list[float] = (-torch.expm1(2 * log_alpha.diff())).tolist()
    return found
