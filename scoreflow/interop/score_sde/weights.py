"""score_sde's tensors under our names, and its averages, which are a list without names.

Its 1 x 1 layers ("NIN") hold W as (inputs, outputs). The list of averages has the parameters that
are trained, in the order of the network's: without the Fourier frequencies.
"""

import torch
from torch import Tensor

from scoreflow.interop.score_sde.modules import (
    LISTED,
    Architecture,
    MisfitError,
    Tensors,
    grouped,
)
from scoreflow.interop.tensor_files import odd_tensor
from scoreflow.interop.torch_files import printable

RESIDUAL = {
    "GroupNorm_0": "norm_1",
    "Conv_0": "conv_1",
    "Dense_0": "dense",
    "GroupNorm_1": "norm_2",
    "Conv_1": "conv_2",
    "Conv_2": "shortcut",
    "NIN_0": "shortcut",
}


def averaged(tensors: Tensors, averages: object) -> dict[str, Tensor]:
    """The averages under the names of the raw weights, and what is not averaged as it is.

    Raises:
        MisfitError: it is no list of tensors of the trained parameters' number and shapes.
    """
    if not isinstance(averages, list | tuple):
        raise MisfitError(f"its averages are no list, but a {type(averages).__name__}")
    trained = [name for name in tensors if name != f"{LISTED}0.W"]
    if len(averages) != len(trained):
        raise MisfitError(
            f"the list of averages has {len(averages)} tensors, the network {len(trained)} that "
            "are trained"
        )
    found = dict(tensors)
    for name, average in zip(trained, averages, strict=True):
        if odd := odd_tensor(average):
            raise MisfitError(f"the average of {name} is {odd}")
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
            if own in found:
                raise MisfitError(f"two tensors are {own} of our U-Net, the second {name}")
            sign = -1.0 if negated and place == "head.2" else 1.0
            matrix = name.endswith(".W")
            turned = tensor.T[:, :, None, None] if matrix else tensor
            found[own] = (sign * turned.detach().float()).contiguous()
    return found


def _attention(layer: Tensors) -> dict[str, Tensor]:
    """Queries, keys and values as one layer's rows, in this order."""
    parts = {f"NIN_{k}.{kind}" for k in range(4) for kind in "Wb"}
    if lacking := sorted(parts - layer.keys()):
        raise MisfitError(f"an attention has no {lacking[0]}")
    found = {name: tensor for name, tensor in layer.items() if name not in parts}
    found["proj.W"], found["proj.b"] = layer["NIN_3.W"], layer["NIN_3.b"]
    for kind, axis in (("W", 1), ("b", 0)):
        three = [layer[f"NIN_{k}.{kind}"] for k in range(3)]
        if three[0].ndim != axis + 1 or len({part.shape for part in three}) > 1:
            raise MisfitError("queries, keys and values of an attention differ in their shapes")
        found[f"qkv.{kind}"] = torch.cat(three, dim=axis)
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
        if inner not in RESIDUAL:
            raise MisfitError(f"a residual block has no {printable(name)}")
        return f"{place}.{RESIDUAL[inner]}.{kind}"
    return f"{place}.1.{kind}" if place.endswith("resize") else f"{place}.{kind}"
