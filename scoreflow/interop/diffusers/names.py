"""diffusers' names of a UNet2DModel's tensors, of all its versions, as ours."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from scoreflow.errors import RequestError
from scoreflow.interop.imported import Weights
from scoreflow.interop.tensor_files import as_convolution, refuse_twice
from scoreflow.interop.torch_files import printable

NAMES = [
    (r"^conv_in\.", "stem."),
    (r"^conv_norm_out\.", "head.0."),
    (r"^conv_out\.", "head.2."),
    (r"^time_embedding\.linear_1\.", "embedding.inner."),
    (r"^time_embedding\.linear_2\.", "embedding.outer."),
    (r"^class_embedding\.", "embedding.classes."),
    (r"^mid_block\.resnets\.([01])\.", r"middle.\1.residual."),
    (r"^mid_block\.attentions\.0\.", "middle.0.attention."),
    (r"^(down|up)_blocks\.(\d+)\.resnets\.(\d+)\.", r"\1.\2.blocks.\3.residual."),
    (r"^(down|up)_blocks\.(\d+)\.attentions\.(\d+)\.", r"\1.\2.blocks.\3.attention."),
    (r"^(down|up)_blocks\.(\d+)\.(?:down|up)samplers\.0\.conv\.", r"\1.\2.resize.1."),
    (r"\.(norm|conv)([12])\.", r".\1_\2."),
    (r"\.time_emb_proj\.", ".dense."),
    (r"\.conv_shortcut\.", ".shortcut."),
    (r"\.group_norm\.", ".norm."),
    (r"\.to_out\.0\.", ".proj."),
]
"""Their names, as patterns, and ours."""
THEIR_NAMES = [
    (r"^stem\.", "conv_in."),
    (r"^head\.0\.", "conv_norm_out."),
    (r"^head\.2\.", "conv_out."),
    (r"^embedding\.inner\.", "time_embedding.linear_1."),
    (r"^embedding\.outer\.", "time_embedding.linear_2."),
    (r"^embedding\.classes\.", "class_embedding."),
    (r"^middle\.([01])\.residual\.", r"mid_block.resnets.\1."),
    (r"^middle\.0\.attention\.", "mid_block.attentions.0."),
    (r"^(down|up)\.(\d+)\.blocks\.(\d+)\.residual\.", r"\1_blocks.\2.resnets.\3."),
    (r"^(down|up)\.(\d+)\.blocks\.(\d+)\.attention\.", r"\1_blocks.\2.attentions.\3."),
    (r"^(down|up)\.(\d+)\.resize\.1\.", r"\1_blocks.\2.\1samplers.0.conv."),
    (r"\.(norm|conv)_([12])\.", r".\1\2."),
    (r"\.dense\.", ".time_emb_proj."),
    (r"\.shortcut\.", ".conv_shortcut."),
    (r"\.norm\.", ".group_norm."),
    (r"\.proj\.", ".to_out.0."),
]
"""Our names, as patterns, and theirs."""
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Layers of attention as versions before 0.12 called them."""
OUR_TOPS = ("stem", "embedding", "down", "middle", "up", "head")


def renamed(tensors: Mapping[str, Tensor], where: Path) -> Weights:
    """Weights by our names; q, k and v are one tensor here.

    Raises:
        RequestError: a name that a UNet2DModel of `constructor`'s kind does not have.
    """
    now: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if now.setdefault(_present_name(name), tensor) is not tensor:
            raise RequestError(
                f"{where}: {printable(name)} is there by its old name and by its present one: "
                "the file is damaged"
            )
    ours: dict[str, Tensor] = {}
    for name, tensor in now.items():
        if ".to_k." in name or ".to_v." in name:
            query = re.sub(r"\.to_[kv]\.", ".to_q.", name)
            _part(now, query, "to_q", where)
            continue
        own, value = name, tensor
        if ".to_q." in name:
            parts = [_part(now, name, each, where) for each in ("to_q", "to_k", "to_v")]
            if not parts[0].ndim or len({part.shape for part in parts}) > 1:
                raise RequestError(
                    f"{where}: {printable(name)} must have the shape of its keys and values, got "
                    f"{', '.join(str(tuple(part.shape)) for part in parts)}: the file is damaged"
                )
            value = torch.cat(parts)
            own = name.replace(".to_q.", ".qkv.")
        for pattern, replacement in NAMES:
            own = re.sub(pattern, replacement, own)
        if own.split(".")[0] not in OUR_TOPS:
            raise RequestError(
                f"{where}: a UNet2DModel has no tensor {printable(name)!r}; save the network "
                "alone, by its save_pretrained"
            )
        if own.endswith(("qkv.weight", "proj.weight")):
            value = as_convolution(value, name, where)
        refuse_twice(own in ours, own, name, where)
        ours[own] = value
    return ours


def given_back(weights: Weights) -> dict[str, Tensor]:
    """Our weights by diffusers' names: `renamed` undone, bit for bit."""
    theirs: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        own, value = name, tensor
        for pattern, replacement in THEIR_NAMES:
            own = re.sub(pattern, replacement, own)
        if ".qkv." in name or own.endswith(".to_out.0.weight"):
            value = value.flatten(1) if value.ndim > 1 else value  # a dense layer there
        if ".qkv." not in name:
            theirs[own] = value
            continue
        for layer, part in zip(("to_q", "to_k", "to_v"), value.chunk(3), strict=True):
            theirs[own.replace(".qkv.", f".{layer}.")] = part
    return theirs


def _present_name(name: str) -> str:
    for old, now in OLD_NAMES.items():
        name = name.replace(f".{old}.", f".{now}.")
    return name


def _part(tensors: Mapping[str, Tensor], name: str, part: str, where: Path) -> Tensor:
    wanted = name.replace("to_q", part)
    if wanted not in tensors:
        raise RequestError(f"{where}: the tensor {wanted} is missing: the file is not whole")
    return tensors[wanted].flatten(1) if tensors[wanted].ndim > 1 else tensors[wanted]
