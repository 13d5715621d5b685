"""diffusers' names as ours, written apart from the reader's: the oracle of the U-Net's tests."""

import re

import pytest
import torch

NAMES = [
    (r"^conv_in\.", "stem."),
    (r"^conv_norm_out\.", "head.0."),
    (r"^conv_out\.", "head.2."),
    (r"^time_proj\.weight", "embedding.frequencies"),
    (r"^time_embedding\.linear_1\.", "embedding.inner."),
    (r"^time_embedding\.linear_2\.", "embedding.outer."),
    (r"^class_embedding\.", "embedding.classes."),
    (r"^mid_block\.resnets\.(\d)\.", r"middle.\1.residual."),
    (r"^mid_block\.attentions\.0\.", "middle.0.attention."),
    (r"^(down|up)_blocks\.(\d)\.resnets\.(\d)\.", r"\1.\2.blocks.\3.residual."),
    (r"^(down|up)_blocks\.(\d)\.attentions\.(\d)\.", r"\1.\2.blocks.\3.attention."),
    (r"^(down|up)_blocks\.(\d)\.(down|up)samplers\.0\.conv\.", r"\1.\2.resize.1."),
    (r"^(down|up)_blocks\.(\d)\.(down|up)samplers\.0\.", r"\1.\2.resize."),
    (r"\.(norm|conv)([12])\.", r".\1_\2."),
    (r"\.time_emb_proj\.", ".dense."),
    (r"\.conv_shortcut\.", ".shortcut."),
    (r"\.group_norm\.", ".norm."),
    (r"\.to_out\.0\.", ".proj."),
]


def renamed(tensors):
    """Tensors under diffusers' names (weights, or their gradients) -> under ours."""
    ours = {}
    for name, tensor in tensors.items():
        if ".to_k." in name or ".to_v." in name:
            continue
        if ".to_q." in name:
            parts = [tensors[name.replace(".to_q.", f".to_{part}.")] for part in "qkv"]
            tensor, name = torch.cat(parts), name.replace(".to_q.", ".qkv.")
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        if name.endswith(("qkv.weight", "proj.weight")):
            tensor = tensor[:, :, None, None]  # a dense layer over the pixels as 1 x 1 convolution
        ours[name] = tensor
    return ours


@pytest.fixture(scope="session")
def from_diffusers():
    return renamed
