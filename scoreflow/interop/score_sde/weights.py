"""score_sde's tensors under our names, and its averages, which are a list without names.

Its 1 x 1 layers ("NIN") hold W as (inputs, outputs). The list of averages has the parameters that
are trained, in the order of the network's: without the Fourier frequencies.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from scoreflow.interop.score_sde.modules import (
    LISTED,
    Architecture,
    MisfitError,
    Tensors,
    grouped,
)

RESIDUAL = {
    "GroupNorm_0": "norm_1",
    "Conv_0": "conv_1",
    "Dense_0": "dense",
    "GroupNorm_1": "norm_2",
    "Conv_1": "conv_2",
    "Conv_2": "shortcut",
    "NIN_0": "shortcut",
}


def averaged(tensors: Tensors, averages: Sequence[Tensor]) -> dict[str, Tensor]:
    """The averages under the names of the raw weights, and what is not averaged as it is.

    Raises:
        MisfitError: the list does not have the trained parameters' number or shapes.
    """
    trained = [name for name in tensors if name != f"{LISTED}0.W"]
    if len(averages) != len(trained):
        raise MisfitError(
            f"the list of averages has {len(averages)} tensors, the network {len(trained)} that "
            "are trained"
        )
    found = dict(tensors)
    for name, average in zip(trained, averages, strict=True):
        if average.shape != tensors[name].shape:
            raise MisfitError(
                f"the average of {name} has the shape {tuple(average.shape)}, the parameter "
                f"{tuple(tensors[name].shape)}"
            )
        found[name] = average
    return found


def renamed(tensors: Tensors, architecture: Architecture, negated: bool) -> dict[str, Tensor]:
    """All tensors by their names in our U-Net, float32.

    Args:
        tensors: raw or averaged, `all_modules.N....`.
        architecture: of the network.
        negated: the last convolution changes its sign.
    """
    found = {}
    for layer, place in zip(grouped(tensors), architecture.places, strict=True):
        if place.endswith("attention"):
            layer = _attention(layer)
        for name, tensor in layer.items():
            own = _name(place, name, architecture.ncsnpp)
            sign = -1.0 if negated and place == "head.2" else 1.0
            matrix = name.endswith(".W")
            turned = tensor.T[:, :, None, None] if matrix else tensor
            found[own] = (sign * turned.detach().float()).contiguous()
    return found


def _attention(layer: Tensors) -> dict[str, Tensor]:
    """Queries, keys and values as one layer's rows, in this order."""
    found = {name: tensor for name, tensor in layer.items() if name.startswith("GroupNorm_0")}
    found["proj.W"], found["proj.b"] = layer["NIN_3.W"], layer["NIN_3.b"]
    found["qkv.W"] = torch.cat([layer[f"NIN_{k}.W"] for k in range(3)], dim=1)
    found["qkv.b"] = torch.cat([layer[f"NIN_{k}.b"] for k in range(3)])
    return found


def _name(place: str, name: str, ncsnpp: bool) -> str:
    """Our name of a tensor, from its layer's place and its name in the layer."""
    if place == "embedding":
        return "embedding.frequencies"
    inner, _, kind = name.rpartition(".")
    kind = {"W": "weight", "b": "bias"}.get(kind, kind)
    if place.endswith("attention"):
        return f"{place}.{'norm' if inner == 'GroupNorm_0' else inner}.{kind}"
    if place.endswith("residual") or (place.endswith("resize") and ncsnpp):
        return f"{place}.{RESIDUAL[inner]}.{kind}"
    return f"{place}.1.{kind}" if place.endswith("resize") else f"{place}.{kind}"
