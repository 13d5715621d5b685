"""The tensors of an EDM network under our names, in our order and sign."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from scoreflow.interop.edm.architecture import Architecture
from scoreflow.interop.edm.modules import MisfitError
from scoreflow.interop.tensor_files import odd_tensor
from scoreflow.interop.torch_files import printable

RESIDUAL = {
    "norm0": "norm_1",
    "conv0": "conv_1",
    "affine": "dense",
    "norm1": "norm_2",
    "conv1": "conv_2",
    "skip": "shortcut",
}
ATTENTION = {"norm2": "norm", "qkv": "qkv", "proj": "proj"}
KINDS = ("weight", "bias")
TAKEN = {"map_noise.freqs": "embedding.frequencies"}
UNUSED = ("map_augment.", "resample_filter")
"""Beginnings or ends of tensors without a place: augmentation is not asked for when a network is
evaluated, and a filter is one of two that the settings name."""


def renamed(tensors: Mapping[str, Tensor], plan: Architecture, negated: bool) -> dict[str, Tensor]:
    """A network's tensors as our U-Net's state dict, float32.

    Args:
        tensors: by the names in the file, from the network on.
        plan: the architecture.
        negated: the network estimates the negative of what our prediction is of.

    Raises:
        MisfitError: a tensor that has no place.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if odd := odd_tensor(tensor):
            raise MisfitError(f"its {printable(name)} is {odd}")
        if name.startswith("map_label.") or name.startswith(UNUSED[0]) or name.endswith(UNUSED[1]):
            continue
        own = _name(name, plan)
        if own is None:
            raise MisfitError(f"its tensor {name} has no place in our U-Net")
        if name.endswith((".qkv.weight", ".qkv.bias")):
            tensor = qkv_major(tensor, plan.heads[name.rpartition(".qkv.")[0]])
        sign = -1.0 if negated and own.startswith("head.2.") else 1.0
        found[own] = sign * tensor.detach().to(torch.float32)
    return found | _classes(tensors, plan)


def qkv_major(rows: Tensor, heads: int) -> Tensor:
    """Rows (head, channel, 3) of the product for queries, keys and values as (3, head, channel).

    Args:
        rows: weights or biases, (3 C, ...).
        heads: that divide C.
    """
    if not rows.ndim:
        raise MisfitError("an attention has one number for its rows")
    if rows.shape[0] % (3 * heads):
        raise MisfitError(f"an attention of {rows.shape[0]} rows cannot have {heads} heads")
    ours: Tensor = rows.unflatten(0, (heads, -1, 3)).movedim(2, 0).flatten(0, 2)
    return ours


def _name(name: str, plan: Architecture) -> str | None:
    """Our name of a tensor; None where it has no place."""
    if name in TAKEN:
        return TAKEN[name]
    layer, _, kind = name.rpartition(".")
    if layer in plan.layers and kind in KINDS:
        return f"{plan.layers[layer]}.{kind}"
    block, _, part = layer.rpartition(".")
    place = plan.places.get(block)
    if place is None or kind not in KINDS:
        return None
    if part in ATTENTION and not place.endswith("resize") and block in plan.heads:
        return f"{place}.attention.{ATTENTION[part]}.{kind}"
    inner = place if place.endswith("resize") else f"{place}.residual"
    return f"{inner}.{RESIDUAL[part]}.{kind}" if part in RESIDUAL else None


def _classes(tensors: Mapping[str, Tensor], plan: Architecture) -> dict[str, Tensor]:
    """Our table of class vectors, its first row for no class, out of a layer on one-hot rows.

    No class is a row of zeros in both networks: what is left is the bias, which SongUNet's has.
    """
    if "map_label.weight" not in tensors:
        return {}
    weight = tensors["map_label.weight"].detach().double()  # (width, K)
    bias = tensors.get("map_label.bias")
    if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        raise MisfitError("its map_label is no dense layer")
    scale = class_scale(plan, weight.shape[1])
    vectors = torch.cat((torch.zeros(1, len(weight), dtype=weight.dtype), scale * weight.t()))
    if bias is not None:
        vectors = vectors + bias.detach().double()
    return {"embedding.classes.weight": vectors.float()}


def class_scale(plan: Architecture, count: int) -> float:
    """What the layer's one-hot rows of so many classes are multiplied by."""
    return math.sqrt(count) if plan.song else 1.0
