"""diffusers' UNet2DModel with a DDPM-like scheduler: its config as our keys, its names as ours.

What its constructor or its scheduler says and we cannot express is refused by key and value: a
network that is asked wrongly answers without a word.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from scoreflow.errors import RequestError
from scoreflow.interop.diffusers import folder as folders
from scoreflow.interop.diffusers import kinds
from scoreflow.interop.diffusers.folder import Json
from scoreflow.interop.diffusers.kinds import shown
from scoreflow.interop.diffusers.names import renamed
from scoreflow.interop.diffusers.schedule import schedule
from scoreflow.interop.imported import Imported
from scoreflow.interop.options import Asked, answers

ASKED = (Asked("size", int, "side of its images in pixels, where config.json has none", 0),)
"""Options of this reader."""

DEFAULTS: Json = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D"] + ["AttnDownBlock2D"] * 3,
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["AttnUpBlock2D"] * 3 + ["UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}
"""UNet2DModel's own defaults, which stand for what an older file lacks."""
OF_THE_AVERAGE = {
    "decay",
    "inv_gamma",
    "min_decay",
    "optimization_step",
    "power",
    "update_after_step",
    "use_ema_warmup",
}
"""Keys that diffusers' EMAModel writes into the config of the network that it averages."""
FIXED: Json = {
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "downsample_padding": (0, 1),
    "freq_shift": (0, 1),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "act_fn": ("silu", "swish"),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "class_embed_type": (None,),
}
"""The values that our U-Net has, of keys that have more."""
DOWN = {"DownBlock2D": False, "AttnDownBlock2D": True}
UP = {"UpBlock2D": False, "AttnUpBlock2D": True}


def recognises(path: Path) -> bool:
    """Whether a path looks like a diffusers folder with a U-Net."""
    return folders.holds_network(path)


def read(path: Path, options: Mapping[str, object]) -> Imported:
    """A diffusers folder as our settings and weights.

    Args:
        path: of a pipeline, a checkpoint of train_unconditional.py, or a network's folder.
        options: `ASKED`.

    Raises:
        RequestError: files are missing, or we cannot express what the config says.
    """
    told = answers("diffusers", ASKED, options)
    folder = folders.locate(path)
    where = folder.network / "config.json"
    config = folders.read_json(where)
    c = constructor(where, config)
    scheduler = folders.read_json(folder.scheduler)
    noise, facts = schedule(folder.scheduler, scheduler)
    ours = folders.our_settings(path, folder)
    settings = {**network_settings(where, c, int(told["size"])), **noise, **ours}
    if ours:
        facts = facts | {"exported": f"by ScoreFlow: its own process and points, {folders.OURS}"}
        if ours.get("model.null_class") and c["num_class_embeds"]:
            facts["classes"] = f"{c['num_class_embeds'] - 1}, and no class"
    _match_channels(where, c, settings)
    weights = renamed(folders.tensors(folder.network), where)
    raw = None
    if folder.raw is not None:
        raw = renamed(folders.tensors(folder.raw), folder.raw)
    step = folders.step_of(folder.network, config)
    if not step and folder.raw is not None:
        step = folders.step_of(folder.raw, {})
    return Imported("diffusers", settings, weights, raw, _facts(path, folder, c) | facts, step)


def constructor(where: Path, config: Json) -> Json:
    """The network's arguments, checked to be such as our U-Net has.

    Args:
        where: the file, for messages.
        config: its content.

    Raises:
        RequestError: another class, or a key or a value that we do not have.
    """
    kind = config.get("_class_name", "UNet2DModel")
    if kind != "UNet2DModel":
        older = (
            "take a later revision of the repository, whose config.json says UNet2DModel"
            if kind in ("UNetModel", "UNetUnconditionalModel")
            else "wrap the network instead (docs/networks.md)"
        )
        raise RequestError(f"{where}: _class_name must be UNet2DModel, got {shown(kind)}: {older}")
    given = {k: v for k, v in config.items() if not k.startswith("_") and k not in OF_THE_AVERAGE}
    for key, value in given.items():
        if key not in DEFAULTS and value not in (None, False):
            raise beyond(where, key, value)
    c: Json = {**DEFAULTS, **{k: v for k, v in given.items() if k in DEFAULTS}}
    for key, values in FIXED.items():
        if c[key] not in values:
            raise beyond(where, key, c[key], values)
    kinds.check(where, c, kinds.NETWORK)
    return c


def network_settings(where: Path, c: Json, size: int) -> Json:
    """The keys of our U-Net.

    Args:
        where: the config's file, for messages.
        c: of `constructor`.
        size: of the images, where the config has none.
    """
    widths, attends = c["block_out_channels"], _attends(where, c)
    if any(width % widths[0] for width in widths):
        raise beyond(where, "block_out_channels", widths, "whole multiples of the first")
    if c["time_embedding_dim"] not in (None, 4 * widths[0]):
        raise beyond(where, "time_embedding_dim", c["time_embedding_dim"], (4 * widths[0],))
    _refuse_other_groups(where, c)
    height, width = _size(where, c, size)
    per_head = c["attention_head_dim"]
    settings = {
        "model.name": "unet",
        "model.shape": (c["in_channels"], height, width),
        "model.channels": widths[0],
        "model.multipliers": tuple(each // widths[0] for each in widths),
        "model.blocks": c["layers_per_block"],
        "model.attention_sizes": tuple(
            max(height, width) >> k for k, a in enumerate(attends) if a
        ),
        "model.attention_middle": c["add_attention"],
        "model.num_groups": c["norm_num_groups"],
        "model.dropout": float(c["dropout"]),
        "model.norm_eps": float(c["norm_eps"]),
        "model.embedding_order": "cos_sin" if c["flip_sin_to_cos"] else "sin_cos",
        "model.frequency_shift": int(c["freq_shift"]),
        "model.padding": "symmetric" if c["downsample_padding"] else "bottom_right",
        "model.scale_shift": c["resnet_time_scale_shift"] == "scale_shift",
        "model.head_channels": per_head or 0,
    }
    if c["num_class_embeds"]:
        settings["model.conditional"] = True
        settings["model.num_classes"] = c["num_class_embeds"]
        settings["model.null_class"] = False
    return settings


def beyond(where: Path, key: str, value: object, ours: object = None) -> RequestError:
    """The refusal of a key or value that we cannot express, with what to do instead."""
    listed = ", ".join(map(str, ours)) if isinstance(ours, tuple) else ours
    rule = f" must be {listed} to be read," if ours is not None else " is not known here,"
    return RequestError(
        f"{where}: {shown(key)}{rule} got {shown(value)}: wrap the network instead "
        "(docs/networks.md)"
    )


# ---- parts of these -----------------------------------------------------------------------------


def _attends(where: Path, c: Json) -> list[bool]:
    """Which levels have attention, fine to coarse; the same on both ways."""
    down, up, widths = c["down_block_types"], c["up_block_types"], c["block_out_channels"]
    for key, types, known in (("down_block_types", down, DOWN), ("up_block_types", up, UP)):
        for each in types:
            if each not in known:
                raise beyond(where, key, each, tuple(known))
    attends = [DOWN[each] for each in down]
    if [UP[each] for each in reversed(up)] != attends or len(widths) != len(down):
        raise beyond(where, "up_block_types", up, "the mirror image of down_block_types")
    return attends


def _refuse_other_groups(where: Path, c: Json) -> None:
    """Refuse an attention in the middle whose norm has other groups, or that has no norm."""
    own, groups = c["attn_norm_num_groups"], c["norm_num_groups"]
    if own is None and c["resnet_time_scale_shift"] == "default":
        return
    if c["add_attention"] and own != groups:
        raise beyond(where, "attn_norm_num_groups", own, (groups,))


def _size(where: Path, c: Json, size: int) -> tuple[int, int]:
    found = c["sample_size"] or size
    if not found:
        raise RequestError(f"{where} has no sample_size: add --set size=PIXELS")
    height, width = found if isinstance(found, list) else (found, found)
    return height, width


def _match_channels(where: Path, c: Json, settings: Json) -> None:
    """Refuse a network whose output is not one estimate, or one and a variance, of its input."""
    wanted = c["in_channels"] * (2 if settings["model.learned_variance"] else 1)
    if c["out_channels"] != wanted:
        raise beyond(where, "out_channels", c["out_channels"], (wanted,))


def _facts(path: Path, folder: folders.Folder, c: Json) -> dict[str, str]:
    """What was found, in words."""
    widths, classes = c["block_out_channels"], c["num_class_embeds"]
    heads = c["attention_head_dim"]
    which = "one set; whether averaged, its folder does not say"
    if folder.raw is not None:
        which = "averaged, and the raw ones of " + folder.raw.relative_to(path).as_posix()
    elif folder.network.name == "unet" and re.fullmatch(
        r"checkpoint-\d+", folder.network.absolute().parent.name
    ):  # of train_unconditional.py, which keeps its average in unet_ema/
        which = "raw"
    return {
        "architecture": (
            f"U-Net, {', '.join(map(str, widths))} channels, {c['layers_per_block']} blocks a "
            f"level, attention with {f'{heads} channels a head' if heads else 'one head'}"
        ),
        "weights": which,
        "classes": f"{classes}, and none for no class" if classes else "none",
    }
