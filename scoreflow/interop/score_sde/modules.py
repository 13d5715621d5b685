"""What the names and shapes of score_sde's tensors tell of the network.

All its layers lie in one list, `all_modules.N`, in the order in which they are asked:

    Fourier frequencies?  two dense layers  stem
    down    per level [residual, attention?] `blocks` times, then a halving and a pyramid's step?
    middle  residual, attention, residual
    up      per level `blocks` + 1 residual, attention?, then a doubling
    norm    convolution

`ddpm` halves and doubles by convolutions, `ncsnpp` by residual blocks, which have a shortcut with
weights though inputs and outputs are alike.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from scoreflow.interop.tensor_files import odd_tensor
from scoreflow.interop.torch_files import printable

Kind = Literal[
    "frequencies", "dense", "convolution", "norm", "residual", "resizing", "attention",
    "resize", "pyramid", "unknown",
]  # fmt: skip
LISTED = "all_modules."
NUMBER = re.compile(r"0|[1-9][0-9]{0,3}")
"""Of a layer in the list."""
Tensors = Mapping[str, Tensor]


RANKS: dict[Kind, dict[str, int]] = {
    "convolution": {"weight": 4},
    "residual": {"Conv_1.weight": 4},
    "resizing": {"Conv_1.weight": 4},
    "attention": {f"NIN_{k}.W": 2 for k in range(4)},
}
"""What is looked into of a layer, by its kind, and the number of its dimensions."""


class MisfitError(ValueError):
    """The tensors are not those of a network that can be had; its text says why."""


@dataclass(frozen=True)
class Architecture:
    """A network, as far as its tensors tell.

    Attributes:
        ncsnpp: it is an `ncsnpp`, not a `ddpm`.
        channels: channels C of the stem ("nf").
        multipliers: channels of the levels over C ("ch_mult").
        blocks: residual blocks a level on the way down ("num_res_blocks").
        attends: levels with attention, 0 the finest.
        image_channels: of its images.
        fourier: the label goes through Fourier features.
        pyramid: the input is added at each halving, through the filter.
        places: our name of each layer of `all_modules`, in its order.
    """

    ncsnpp: bool
    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    attends: tuple[int, ...]
    image_channels: int
    fourier: bool
    pyramid: bool
    places: tuple[str, ...]


def grouped(tensors: Tensors) -> list[dict[str, Tensor]]:
    """The tensors of each layer of `all_modules` by their names in it.

    Raises:
        MisfitError: there is another tensor, or a layer without any.
    """
    found: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, rest = name.removeprefix(LISTED).partition(".")
        if not name.startswith(LISTED) or not NUMBER.fullmatch(number) or not rest:
            raise MisfitError(f"its networks have no tensor {printable(name)!r}")
        if odd := odd_tensor(tensor):
            raise MisfitError(f"its {printable(name)} is {odd}")
        found.setdefault(int(number), {})[rest] = tensor
    if not found or sorted(found) != list(range(len(found))):
        raise MisfitError("a layer without weights (resamp_with_conv = False) cannot be had")
    return [found[number] for number in range(len(found))]


def kind_of(layer: Tensors) -> Kind:
    """What a layer is, by what it holds."""
    names = {name.rpartition(".")[0] for name in layer}
    if "Conv_1" in names:
        alike = "Conv_2.weight" in layer and len({*layer["Conv_2.weight"].shape[:2]}) == 1
        return "resizing" if alike else "residual"
    if "NIN_3" in names:
        return "attention"
    if names == {"Conv_0"}:
        return "resize"
    if names == {"Conv2d_0"}:
        return "pyramid"
    if layer.keys() == {"W"}:
        return "frequencies"
    if names != {""}:
        return "unknown"
    if not layer.keys() <= {"weight", "bias"}:
        return "unknown"
    plain: dict[int, Kind] = {1: "norm", 2: "dense", 4: "convolution"}
    return plain.get(layer["weight"].ndim, "unknown") if "weight" in layer else "unknown"


def architecture_of(tensors: Tensors) -> Architecture:
    """The network of a state dict, its prefix and buffers left out.

    Raises:
        MisfitError: it is none of score_sde's, or one that our U-Net has no switches for.
    """
    layers = grouped(tensors)
    kinds = [kind_of(layer) for layer in layers]
    fourier = kinds[0] == "frequencies"
    stem = 3 if fourier else 2
    if len(kinds) < stem + 6 or kinds[stem] != "convolution":
        raise MisfitError("they do not begin with a time embedding and a stem")
    _check_layers(layers, kinds)
    ncsnpp = any("Conv_2.weight" in layer for layer in layers)
    widths, blocks, attends, pyramid = _down(layers, kinds, stem + 1)
    plan = _planned(fourier, ncsnpp, len(widths), blocks, attends, pyramid)
    if [kind for kind, _ in plan] != [_on_the_way(kind) for kind in kinds]:
        _check_kinds(plan, kinds)
    channels = len(layers[stem]["weight"])
    if not channels or not all(widths):
        raise MisfitError("a layer without channels")
    if any(width % channels for width in widths):
        raise MisfitError(f"levels of {widths} channels on a stem of {channels}")
    return Architecture(
        ncsnpp,
        channels,
        tuple(width // channels for width in widths),
        blocks,
        attends,
        layers[stem]["weight"].shape[1],
        fourier,
        pyramid,
        tuple(place for _, place in plan),
    )


def _check_layers(layers: list[dict[str, Tensor]], kinds: list[Kind]) -> None:
    """Refuse a layer that lacks what its kind has, or has it in another rank."""
    for number, (layer, kind) in enumerate(zip(layers, kinds, strict=True)):
        for name, rank in RANKS.get(kind, {}).items():
            if name not in layer:
                raise MisfitError(f"layer {number}, of the kind {kind}, has no {name}")
            if layer[name].ndim != rank:
                raise MisfitError(
                    f"layer {number}'s {name} must have {rank} dimensions, got "
                    f"{tuple(layer[name].shape)}"
                )
        for name, tensor in layer.items():
            if name.endswith(".W") and tensor.ndim != 2:
                raise MisfitError(f"layer {number}'s {name} is no matrix")


def _down(
    layers: list[dict[str, Tensor]], kinds: list[Kind], start: int
) -> tuple[list[int], int, tuple[int, ...], bool]:
    """Widths, blocks a level, levels with attention, and whether there is a pyramid."""
    halvings = [k for k in range(start, len(kinds)) if kinds[k] in ("resize", "resizing")]
    until = halvings[0] if halvings else len(kinds)
    blocks = kinds[start:until].count("residual")
    if not halvings:  # b on the way down, two in the middle, b + 1 on the way up
        blocks = (blocks - 3) // 2
    if blocks < 1:
        raise MisfitError("there is no residual block before the first halving")
    widths: list[int] = []
    attends: list[bool] = []
    at, pyramid, first = start, False, False
    while True:
        for k in range(blocks):
            if at + 2 >= len(kinds) or kinds[at] != "residual":
                raise MisfitError(f"layer {at} is no residual block, but a level has {blocks}")
            widths[len(attends) :] = [len(layers[at]["Conv_1.weight"])]
            at += 1
            attend = kinds[at] == "attention"  # there is one: `at` was two below the end
            at += attend
            if k == 0:
                first = attend
            elif attend != first:
                raise MisfitError(f"attention follows some blocks of a level (layer {at}) only")
        attends.append(first)
        if at + 1 >= len(kinds):
            raise MisfitError("its layers end on the way down")
        if kinds[at] not in ("resize", "resizing"):
            break
        at += 1
        if kinds[at] == "pyramid":
            pyramid, at = True, at + 1
    return widths, blocks, tuple(k for k, attend in enumerate(attends) if attend), pyramid


def _planned(
    fourier: bool, ncsnpp: bool, levels: int, blocks: int, attends: tuple[int, ...], pyramid: bool
) -> list[tuple[Kind, str]]:
    """Kind and our name of every layer, in order."""
    plan: list[tuple[Kind, str]] = [("frequencies", "embedding")] if fourier else []
    plan += [("dense", "embedding.inner"), ("dense", "embedding.outer"), ("convolution", "stem")]
    resize: Kind = "residual" if ncsnpp else "resize"
    for level in range(levels):
        for k in range(blocks):
            plan += _block(f"down.{level}.blocks.{k}", level in attends)
        if level < levels - 1:
            plan.append((resize, f"down.{level}.resize"))
            plan += [("pyramid", f"down.{level}.pyramid")] if pyramid else []
    plan += [*_block("middle.0", True), *_block("middle.1", False)]
    for step, level in enumerate(reversed(range(levels))):
        for k in range(blocks + 1):
            plan += _block(f"up.{step}.blocks.{k}", k == blocks and level in attends)
        if level > 0:
            plan.append((resize, f"up.{step}.resize"))
    return [*plan, ("norm", "head.0"), ("convolution", "head.2")]


def _block(place: str, attends: bool) -> list[tuple[Kind, str]]:
    found: list[tuple[Kind, str]] = [("residual", f"{place}.residual")]
    return found + ([("attention", f"{place}.attention")] if attends else [])


def _on_the_way(kind: Kind) -> Kind:
    """A resizing block as what it is made of: its shapes do not tell it on the way up."""
    return "residual" if kind == "resizing" else kind


def _check_kinds(plan: list[tuple[Kind, str]], kinds: list[Kind]) -> None:
    for number, (kind, (wanted, place)) in enumerate(zip(kinds, plan, strict=False)):
        if _on_the_way(kind) != wanted:
            raise MisfitError(
                f"layer {number} is of the kind {kind}, where {place} is to be a {wanted}: "
                "progressive = output_skip and progressive_input = input_skip cannot be had"
            )
    raise MisfitError(f"{len(kinds)} layers, where {len(plan)} make such a network")
