"""OpenAI's improved-diffusion and guided-diffusion: flat state dicts without a config.

The shapes tell channels, multipliers, blocks, levels with attention, classes, a learned variance,
scale-shift norms and residual resampling; the rest is asked, or known by a published recipe.

    input_blocks.k      stem; then a level's blocks (residual, attention), and a halving
    middle_block.0..2   residual, attention, residual
    output_blocks.k     a level's blocks, the last of them with a doubling
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from scoreflow.errors import RequestError
from scoreflow.interop.imported import Imported, Weights
from scoreflow.interop.openai.shapes import Shape, shape_of
from scoreflow.interop.options import Asked, answers
from scoreflow.interop.tensor_files import as_convolution, read_tensors, refuse_twice
from scoreflow.interop.torch_files import printable

ORDERS = ("head_major", "qkv_major")
ASKED = (
    Asked("size", int, "side of its images in pixels"),
    Asked("schedule", str, "its noise schedule", choices=("linear", "cosine")),
    Asked("steps", int, "steps of its chain (diffusion_steps)"),
    Asked("heads", int, "heads of each attention (num_heads)", 0),
    Asked("head_channels", int, "channels of a head instead (num_head_channels)", 0),
    Asked(
        "attention_order",
        str,
        "order of the rows of qkv: qkv_major with use_new_attention_order",
        "head_major",
        ORDERS,
    ),
    Asked("rescale_timesteps", bool, "labels run to 1000 whatever the steps", False),
    Asked("prediction", str, "what it estimates: x_0 with predict_xstart", "eps", ("eps", "x_0")),
    Asked("sigma_small", bool, "not learned: sampled with the posterior's variance", False),
    Asked("dropout", float, "dropout of its training", 0.0),
    Asked("norm_groups", int, "groups of each norm; 32 in the original", 32),
)
"""Options of this reader. improved-diffusion rescales timesteps unless it is told not to."""
MARKS = {"time_embed.0.weight", "input_blocks.0.0.weight", "out.2.weight"}
"""Tensors that every network of either codebase has."""
LABELS = 1000
"""The end of the labels where they are rescaled, and the steps that the linear betas are for."""
RESIDUAL = {
    "in_layers.0": "norm_1",
    "in_layers.2": "conv_1",
    "emb_layers.1": "dense",
    "out_layers.0": "norm_2",
    "out_layers.3": "conv_2",
    "skip_connection": "shortcut",
}
TOPS = {
    "time_embed.0": "embedding.inner",
    "time_embed.2": "embedding.outer",
    "label_emb": "embedding.classes",
    "input_blocks.0.0": "stem",
    "out.0": "head.0",
    "out.2": "head.2",
}


def recognises(path: Path, format: str) -> bool:
    """Whether a path may be a file of this codebase, by what its tensors are called.

    Blocks that halve and double are guided-diffusion's alone; all else both have.
    """
    if not path.is_file() or path.suffix not in (".pt", ".pth", ".bin"):
        return False
    try:
        tensors = read_tensors(path)
    except RequestError:
        return False
    if not tensors.keys() >= MARKS:
        return False
    try:
        return format == "guided_diffusion" or not shape_of(tensors, path).residual_resampling
    except RequestError:  # which reading it says
        return False


def read(path: Path, options: Mapping[str, object], format: str = "guided_diffusion") -> Imported:
    """A file of either codebase as our settings and weights.

    Args:
        path: ema_RATE_STEP.pt, modelSTEP.pt or a published file.
        options: `ASKED`.
        format: the codebase, "improved_diffusion" or "guided_diffusion": of the default of
            rescale_timesteps alone.

    Raises:
        RequestError: an option is missing, or the file is of another network.
    """
    rescales = {"rescale_timesteps": format == "improved_diffusion"}
    recipes = "or --recipe NAME for a published file"
    told = answers(format, ASKED, {**rescales, **options}, recipes)
    if bool(told["heads"]) == bool(told["head_channels"]):
        raise RequestError(
            "the file does not say how attention is cut into heads: add --set heads=4, or "
            f"--set head_channels=64, got {told['heads']} and {told['head_channels']}"
        )
    tensors = read_tensors(path)
    shape = shape_of(tensors, path)
    average, raw_path, step = _siblings(path)
    weights = _Names(shape, told).renamed(tensors, path)
    raw = _Names(shape, told).renamed(read_tensors(raw_path), raw_path) if raw_path else None
    settings = {**_network(shape, told), **_process(shape, told)}
    facts = _facts(shape, told) | {"weights": _which(path, average, raw_path)}
    also = (raw_path,) if raw_path else ()
    return Imported(format, settings, weights, raw, facts, step, also)


# ---- settings -----------------------------------------------------------------------------------


def _network(shape: Shape, told: Mapping[str, Any]) -> dict[str, Any]:
    size, classes = told["size"], shape.classes
    settings = {
        "model.name": "unet",
        "model.shape": (shape.image_channels, size, size),
        "model.channels": shape.channels,
        "model.multipliers": shape.multipliers,
        "model.blocks": shape.blocks,
        "model.attention_sizes": tuple(size >> level for level in shape.attends),
        "model.num_groups": told["norm_groups"],
        "model.dropout": told["dropout"],
        "model.norm_eps": 1e-5,
        "model.embedding_order": "cos_sin",
        "model.frequency_shift": 0,
        "model.padding": "symmetric",
        "model.scale_shift": shape.scale_shift,
        "model.resample": "residual" if shape.residual_resampling else "conv",
        "model.heads": told["heads"] or 1,
        "model.head_channels": told["head_channels"],
        "model.learned_variance": shape.learned_variance,
    }
    if classes:
        settings |= {
            "model.conditional": True,
            "model.num_classes": classes,
            "model.null_class": False,
        }
    return settings


def _process(shape: Shape, told: Mapping[str, Any]) -> dict[str, Any]:
    steps, learned = told["steps"], shape.learned_variance
    step_of_label = LABELS / steps if told["rescale_timesteps"] else 1.0
    fixed = "posterior" if told["sigma_small"] else "beta"
    return {
        "sde.name": "vp",
        "sde.num_steps": steps,
        "sde.schedule": told["schedule"],
        "sde.beta_min": 0.1,  # 1e-4 x 1000 steps, and as much in all with more or fewer of them
        "sde.beta_max": 20.0,
        "model.prediction": told["prediction"],
        "model.label": "time",
        "model.label_scale": step_of_label,
        "model.label_offset": -step_of_label,
        "model.integer_times": True,
        "training.times": "integer",
        "training.dequantization": "centre",
        "training.objective": "hybrid" if learned else "simple",
        "sampling.variance": "learned" if learned else fixed,
    }


def _facts(shape: Shape, told: Mapping[str, Any]) -> dict[str, str]:
    heads = told["heads"] or f"{told['head_channels']} channels a head, so many"
    widths = ", ".join(str(shape.channels * each) for each in shape.multipliers)
    at = ", ".join(str(told["size"] >> level) for level in shape.attends) or "the middle alone"
    index = "index x 1000/T" if told["rescale_timesteps"] else "index"
    return {
        "architecture": (
            f"U-Net, {widths} channels, {shape.blocks} blocks a level, attention at {at} with "
            f"{heads} heads, qkv {told['attention_order']}"
        ),
        "schedule": f"{told['schedule']}, {told['steps']} steps",
        "prediction": told["prediction"],
        "label": f"{index}, from 0, at the chain's integer times",
        "variance": "learned, between beta and the posterior's"
        if shape.learned_variance
        else "fixed",
        "classes": f"{shape.classes}, and none for no class" if shape.classes else "none",
    }


def _siblings(path: Path) -> tuple[bool, Path | None, int]:
    """Whether the weights are averaged, the raw ones of the same step, and the step."""
    average = re.fullmatch(r"ema_[\d.]+_(\d+)", path.stem)
    raw = re.fullmatch(r"model(\d+)", path.stem)
    named = average or raw
    step = int(named[1]) if named else 0
    beside = path.with_name(f"model{named[1]}.pt") if average and named else None
    return average is not None, beside if beside and beside.is_file() else None, step


def _which(path: Path, average: bool, raw_path: Path | None) -> str:
    if average:
        return "averaged" + (f", and the raw ones of {raw_path.name}" if raw_path else "")
    if path.stem.startswith("model"):
        return "raw; the averaged ones are in a file ema_RATE_STEP.pt"
    return "one set; whether averaged, the file does not say"


# ---- names --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Names:
    """Tensors of a network of this shape under our names.

    Attributes:
        shape: of the network.
        told: heads and the order of qkv among them.
    """

    shape: Shape
    told: Mapping[str, Any]

    def renamed(self, tensors: Mapping[str, Tensor], where: Path) -> Weights:
        """All of them.

        Raises:
            RequestError: a tensor that neither codebase's U-Net has.
        """
        ours = {}
        for name, tensor in tensors.items():
            own = self._name(name)
            if own is None:
                raise RequestError(
                    f"{where}: a U-Net of OpenAI's has no tensor {printable(name)!r}: only their "
                    "plain diffusion networks can be read, no classifiers or upsamplers"
                )
            refuse_twice(own in ours, own, name, where)
            is_dense = own.endswith((".qkv.weight", ".proj.weight"))
            if is_dense:
                tensor = as_convolution(tensor, name, where)
            if own.endswith(("attention.qkv.weight", "attention.qkv.bias")):
                tensor = self._qkv_major(tensor, name, where)
            ours[own] = tensor
        return ours

    def _name(self, name: str) -> str | None:
        layer, _, kind = name.rpartition(".")
        if layer in TOPS:
            return f"{TOPS[layer]}.{kind}"
        parts = layer.split(".")
        if len(parts) < 3:
            return None
        top, rest = parts[0], ".".join(parts[2:])
        if top == "middle_block" and parts[1] in ("0", "1", "2"):
            place = "middle.1" if parts[1] == "2" else "middle.0"
            return _in_block(place, rest, kind)
        if (
            top not in ("input_blocks", "output_blocks")
            or len(parts) < 4
            or not parts[1].isdigit()
        ):
            return None
        place = self.shape.place(top, int(parts[1]), int(parts[2]))
        return _in_block(place, ".".join(parts[3:]), kind)

    def _qkv_major(self, rows: Tensor, name: str, where: Path) -> Tensor:
        """Rows (head, 3, channel) as ours, (3, head, channel)."""
        if not rows.ndim or len(rows) % 3:
            raise RequestError(
                f"{where}: {printable(name)} must have rows of queries, keys and values, got the "
                f"shape {tuple(rows.shape)}: the file is damaged"
            )
        if self.told["attention_order"] == "qkv_major":
            return rows
        channels = len(rows) // 3
        heads = self.told["heads"] or channels // self.told["head_channels"]
        if heads < 1 or channels % heads:
            raise RequestError(
                f"an attention of {channels} channels cannot have {heads} heads: option heads or "
                "head_channels is wrong"
            )
        found: Tensor = rows.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)
        return found


def _in_block(place: str, layer: str, kind: str) -> str | None:
    """A layer's name in a block; `place` ends in ".resize" for halvings and doublings."""
    if layer in RESIDUAL:
        inner = "" if place.endswith("resize") else ".residual"
        return f"{place}{inner}.{RESIDUAL[layer]}.{kind}"
    if layer in ("norm", "qkv", "proj_out"):
        return f"{place}.attention.{layer.removesuffix('_out')}.{kind}"
    if layer in ("op", "conv") and place.endswith("resize"):
        return f"{place}.1.{kind}"
    return None
