"""SongUNet and DhariwalUNet as ScoreFlow's U-Net: its switches, and where each block lies.

    enc.RxR_conv            stem
    enc.RxR_block0, ...     the blocks of the level whose images have R pixels a side
    enc.RxR_down            the halving that leads to that level
    enc.RxR_aux_residual    the input pyramid's convolution of that halving
    dec.RxR_in0, in1        the middle
    dec.RxR_up              the doubling that leads to that level
    dec.RxR_block0, ...     its blocks on the way up
    dec.RxR_aux_*, out_*    head

Sizes come from the constructor's arguments; heads, scales and eps from each block itself.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from scoreflow.interop.edm.modules import Arguments, MisfitError, Module

NETWORKS = ("SongUNet", "DhariwalUNet")
FILTERS = {(1, 1): False, (1, 3, 3, 1): True}
"""Filters of the resizing, and whether it is our `fir`."""
GROUPS, CHANNELS_PER_GROUP = 32, 4


@dataclass(frozen=True)
class Architecture:
    """One of the two networks.

    Attributes:
        song: a SongUNet; else a DhariwalUNet.
        size: pixels a side.
        levels: pixels a side of each level, fine to coarse.
        blocks: residual blocks a level.
        settings: the keys of our U-Net.
        heads: of each block with attention, by the block's name in the file.
    """

    song: bool
    size: int
    levels: tuple[int, ...]
    blocks: int
    settings: dict[str, Any]
    heads: dict[str, int]

    @cached_property
    def places(self) -> dict[str, str]:
        """Our name of each block, by its name in the file; `resize` ends those that resize."""
        fine, coarse = self.levels[0], self.levels[-1]
        found = {
            f"dec.{coarse}x{coarse}_in0": "middle.0",
            f"dec.{coarse}x{coarse}_in1": "middle.1",
        }
        for level, side in enumerate(self.levels):
            up = len(self.levels) - 1 - level
            for k in range(self.blocks):
                found[f"enc.{side}x{side}_block{k}"] = f"down.{level}.blocks.{k}"
            for k in range(self.blocks + 1):
                found[f"dec.{side}x{side}_block{k}"] = f"up.{up}.blocks.{k}"
            if side != fine:
                found[f"enc.{side}x{side}_down"] = f"down.{level - 1}.resize"
            if side != coarse:
                found[f"dec.{side}x{side}_up"] = f"up.{up - 1}.resize"
        return found

    @cached_property
    def layers(self) -> dict[str, str]:
        """Our name of each layer outside the blocks, by its name in the file."""
        side = f"{self.size}x{self.size}"
        head = f"dec.{side}_aux" if self.song else "out"
        found = {
            "map_noise": "embedding",
            "map_layer0": "embedding.inner",
            "map_layer1": "embedding.outer",
            f"enc.{side}_conv": "stem",
            f"{head}_norm": "head.0",
            f"{head}_conv": "head.2",
        }
        for level, coarser in enumerate(self.levels[1:]):
            found[f"enc.{coarser}x{coarser}_aux_residual"] = f"down.{level}.pyramid"
        return found


def architecture_of(network: Module, modules: dict[str, Module]) -> Architecture:
    """The architecture of a network.

    Args:
        network: the SongUNet or DhariwalUNet.
        modules: those inside, by their names from it.

    Raises:
        MisfitError: a switch that our U-Net does not have, or blocks that contradict each other.
    """
    if network.kind not in NETWORKS:
        raise MisfitError(f"its network is a {network.kind}: only {' and '.join(NETWORKS)} can be")
    song, told = network.kind == "SongUNet", network.arguments()
    plan = _sizes(told, song, len(modules))
    found = {name: _part(modules, name, "UNetBlock") for name in plan.places}
    heads = {name: n for name, block in found.items() if (n := block.whole("num_heads")) > 0}
    settings = {
        **plan.settings,
        **(_song(told, modules) if song else _dhariwal(modules)),
        **_classes(told, song),
        **_norms(modules),
        **_attention(plan, found, heads),
        **_scales(found),
    }
    return replace(plan, settings=settings, heads=heads)


def _sizes(told: Arguments, song: bool, in_all: int) -> Architecture:
    """Levels, blocks and channels, of a network of so many modules."""
    multipliers = told.wholes("channel_mult", (1, 2, 2, 2) if song else (1, 2, 3, 4))
    size, blocks = told.whole("img_resolution"), told.whole("num_blocks", 4 if song else 3)
    levels = tuple(size >> level for level in range(len(multipliers)))
    if not levels or levels[-1] == 0 or levels[-1] << len(levels) - 1 != size:
        raise MisfitError(f"{len(multipliers)} levels do not divide its {size} pixels")
    if not 0 < blocks <= in_all:
        raise MisfitError(f"{blocks} blocks a level, where it has {in_all} modules in all")
    if told.whole("channel_mult_emb", 4) != 4:
        raise MisfitError("an embedding of other than 4 times its channels cannot be had")
    settings = {
        "model.name": "unet",
        "model.shape": (told.whole("in_channels"), size, size),
        "model.channels": told.whole("model_channels", 128 if song else 192),
        "model.multipliers": multipliers,
        "model.blocks": blocks,
        "model.stem_multiplier": 1 if song else multipliers[0],
        "model.dropout": told.share("dropout", 0.1),
    }
    return Architecture(song, size, levels, blocks, settings, {})


def _part(modules: dict[str, Module], name: str, kind: str) -> Module:
    if name not in modules or modules[name].kind != kind:
        raise MisfitError(f"its network has no {kind} {name}")
    return modules[name]


def _song(told: Arguments, modules: dict[str, Module]) -> dict[str, Any]:
    """Switches of SongUNet alone: ddpmpp and ncsnpp are two settings of them."""
    kind = told.choice("embedding_type", "positional", ("positional", "fourier"))
    encoder = told.choice("encoder_type", "standard", ("standard", "residual"))
    told.choice("decoder_type", "standard", ("standard",))
    taps = told.wholes("resample_filter", (1, 1))
    if taps not in FILTERS:
        raise MisfitError(f"resizing by the filter {list(taps)[:9]} cannot be had")
    fourier = kind == "fourier"
    if (mult := told.whole("channel_mult_noise", 1)) != 1 + fourier:
        raise MisfitError(f"{kind} embeddings of {mult} times its channels cannot be had")
    return {
        "model.time_embedding": kind,
        "model.embedding_order": "sin_cos",  # made cosines first, then exchanged
        "model.frequency_shift": 1 if fourier else _frequency_shift(modules),
        "model.resample": "residual_conv",
        "model.fir": FILTERS[taps],
        "model.input_pyramid": encoder == "residual",
    }


def _dhariwal(modules: dict[str, Module]) -> dict[str, Any]:
    return {
        "model.embedding_order": "cos_sin",
        "model.frequency_shift": _frequency_shift(modules),
        "model.resample": "residual",
    }


def _frequency_shift(modules: dict[str, Module]) -> int:
    sinusoids = _part(modules, "map_noise", "PositionalEmbedding")
    if sinusoids.whole("max_positions") != 10000:
        raise MisfitError("sinusoids down to another frequency than 1/10000 cannot be had")
    return int(sinusoids.flag("endpoint"))


def _classes(told: Arguments, song: bool) -> dict[str, Any]:
    count = told.whole("label_dim", 0)
    if count == 0:
        return {}
    return {
        "model.conditional": True,
        "model.num_classes": count,
        "model.null_class": True,
        "model.class_embedding": "before" if song else "after",
    }


def _norms(modules: dict[str, Module]) -> dict[str, Any]:
    norms = [module for module in modules.values() if module.kind == "GroupNorm"]
    for norm in norms:
        channels = norm.tensors()["weight"].numel() if "weight" in norm.tensors() else 0
        if norm.whole("num_groups") != min(GROUPS, channels // CHANNELS_PER_GROUP):
            raise MisfitError(f"{norm.name} has other groups than min(32, channels / 4)")
    eps = {norm.real("eps") for norm in norms}
    if len(eps) != 1:
        raise MisfitError("its norms have different eps, or there are none")
    return {
        "model.num_groups": GROUPS,
        "model.channels_per_group": CHANNELS_PER_GROUP,
        "model.norm_eps": eps.pop(),
    }


def _attention(
    plan: Architecture, found: dict[str, Module], heads: dict[str, int]
) -> dict[str, Any]:
    """Which blocks attend, and with how many heads."""
    coarse = plan.levels[-1]
    middle = f"dec.{coarse}x{coarse}_in0"
    sides = tuple(side for side in plan.levels if f"enc.{side}x{side}_block0" in heads)
    first_up = plan.blocks if plan.song else 0  # block of a level that attends on the way up
    expected = {
        f"{way}.{side}x{side}_block{k}"
        for side in sides
        for way, first in (("enc", 0), ("dec", first_up))
        for k in range(first, plan.blocks + (way == "dec"))
    }
    if odd := (set(heads) - {middle}) ^ expected:
        raise MisfitError(f"attention in {min(odd)} and not as in the others of its size")
    widths = {name: found[name].whole("out_channels") for name in heads}
    cut = {widths[name] / count for name, count in heads.items()}
    counts = set(heads.values())
    if len(counts) > 1 and len(cut) > 1:
        raise MisfitError("attentions with different numbers of heads and channels a head")
    by_count = len(counts) <= 1
    return {
        "model.attention_sizes": sides,
        "model.attention_middle": middle in heads,
        "model.attention_up": "last" if plan.song else "each",
        "model.heads": next(iter(counts), 1) if by_count else 1,
        "model.head_channels": 0 if by_count else int(cut.pop()),
    }


def _scales(found: dict[str, Module]) -> dict[str, Any]:
    """How blocks take the embedding and the shortcut; each alike."""
    scales = {block.real("skip_scale") for block in found.values()}
    adaptive = {block.flag("adaptive_scale") for block in found.values()}
    scale = scales.pop()
    rescaled = math.isclose(scale, math.sqrt(0.5), rel_tol=1e-6)
    if scales or len(adaptive) > 1 or not (rescaled or scale == 1):
        raise MisfitError("blocks with a skip_scale other than 1 or sqrt(1/2), or different ones")
    return {"model.rescaled_skips": rescaled, "model.scale_shift": adaptive.pop()}
