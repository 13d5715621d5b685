"""The architecture of one of OpenAI's U-Nets, read off the names and shapes of its tensors."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from scoreflow.errors import RequestError
from scoreflow.interop.torch_files import printable

REMEDY = "wrap the network instead (docs/networks.md)"
IMAGE_CHANNELS = (1, 3)
"""Channels of images, grey or in colour."""
NEEDED = {
    "time_embed.0.weight": 2,
    "input_blocks.0.0.weight": 4,
    "middle_block.0.emb_layers.1.weight": 2,
    "out.2.weight": 4,
}
"""Tensors that tell sizes, and their numbers of dimensions."""
BLOCK = re.compile(r"(?:input|output)_blocks\.(?:0|[1-9][0-9]{0,3})\.[0-9]\.[a-z_.0-9]+")
"""What a tensor of a numbered block is called."""


@dataclass(frozen=True)
class Shape:
    """What the tensors tell.

    Attributes:
        image_channels: of x.
        channels: of the stem.
        multipliers: of each level, fine to coarse.
        blocks: residual blocks a level on the way down.
        attends: levels with attention, 0 the finest.
        classes: K; 0 for none.
        scale_shift: whether the embedding scales and shifts.
        residual_resampling: whether halvings and doublings are residual blocks.
        learned_variance: whether the output has a second half.
    """

    image_channels: int
    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    attends: tuple[int, ...]
    classes: int
    scale_shift: bool
    residual_resampling: bool
    learned_variance: bool

    def place(self, top: str, k: int, child: int) -> str:
        """Where our U-Net has a block.

        Args:
            top: "input_blocks" or "output_blocks".
            k: its number there; of the input blocks, 0 is the stem.
            child: its number inside that.

        Returns:
            "down.L.blocks.K", "down.L.resize", "up.L.blocks.K" or "up.L.resize".
        """
        if top == "input_blocks":
            level, block = divmod(k - 1, self.blocks + 1)
            return f"down.{level}." + ("resize" if block == self.blocks else f"blocks.{block}")
        level, block = divmod(k, self.blocks + 1)
        coarsest = len(self.multipliers) - 1
        attended = coarsest - level in self.attends
        if block == self.blocks and level < coarsest and child == (2 if attended else 1):
            return f"up.{level}.resize"
        return f"up.{level}.blocks.{block}"


def shape_of(tensors: Mapping[str, Tensor], where: Path) -> Shape:
    """The architecture.

    Raises:
        RequestError: the tensors are of another network, or of one that our U-Net cannot be.
    """
    _check_names(tensors, where)
    count = _count(tensors, "output_blocks")
    blocks = _blocks(tensors, count)
    if count % (blocks + 1) or count != _count(tensors, "input_blocks"):
        raise RequestError(
            f"{where}: its blocks do not form levels of equal length, so it is no U-Net of "
            f"improved- or guided-diffusion: {REMEDY}"
        )
    levels = count // (blocks + 1)
    channels, image_channels = tensors["input_blocks.0.0.weight"].shape[:2]
    first = [1 + level * (blocks + 1) for level in range(levels)]
    widths = [_channels_of(tensors, f"input_blocks.{k}.0", where) for k in first]
    _refuse_other_widths(tensors, channels, widths, where)
    out = tensors["out.2.weight"].shape[0]
    _refuse_upsampler(image_channels, out, where)
    resized = f"output_blocks.{blocks}."
    return Shape(
        image_channels,
        channels,
        tuple(width // channels for width in widths),
        blocks,
        tuple(
            level for level, k in enumerate(first) if f"input_blocks.{k}.1.qkv.weight" in tensors
        ),
        len(tensors["label_emb.weight"]) if "label_emb.weight" in tensors else 0,
        tensors["middle_block.0.emb_layers.1.weight"].shape[0] == 2 * widths[-1],
        levels > 1 and any(re.match(rf"{re.escape(resized)}[12]\.in_layers", n) for n in tensors),
        out == 2 * image_channels,
    )


def _check_names(tensors: Mapping[str, Tensor], where: Path) -> None:
    """Refuse names that no network has, and what is missing or of another rank."""
    for name in tensors:
        numbered = name.startswith(("input_blocks.", "output_blocks."))
        if numbered and not BLOCK.fullmatch(name):
            raise RequestError(
                f"{where}: a block's tensor is called as input_blocks.1.0.in_layers.2.weight, "
                f"got {printable(name)}: the file is of another network; {REMEDY}"
            )
    for name, rank in NEEDED.items():
        _needed(tensors, name, rank, where)
    if "label_emb.weight" in tensors:
        _needed(tensors, "label_emb.weight", 2, where)


def _needed(tensors: Mapping[str, Tensor], name: str, rank: int, where: Path) -> Tensor:
    """A tensor that tells a size; refused if missing, of another rank, or empty."""
    if name not in tensors:
        raise RequestError(
            f"{where}: the tensor {name} is missing: the file is not whole, or {REMEDY}"
        )
    found = tensors[name]
    if found.ndim != rank or not found.numel():
        raise RequestError(
            f"{where}: the tensor {name} must have {rank} dimensions, none of them 0, got "
            f"{tuple(found.shape)}: the file is damaged, or {REMEDY}"
        )
    return found


def _refuse_upsampler(channels: int, out: int, where: Path) -> None:
    """Refuse a network that sees more than x_t, or answers with other than its estimate."""
    if channels not in IMAGE_CHANNELS:
        raise RequestError(
            f"{where}: a network must see images of 1 or 3 channels, got {channels}: an "
            "upsampler cannot be read, which sees a smaller image beside x_t"
        )
    if out not in (channels, 2 * channels):
        raise RequestError(
            f"{where}: a network of {channels} channels in must have as many out, or twice "
            f"with a variance, got {out}: {REMEDY}"
        )


def _count(tensors: Mapping[str, Tensor], top: str) -> int:
    return 1 + max((int(n.split(".")[1]) for n in tensors if n.startswith(f"{top}.")), default=-1)


def _blocks(tensors: Mapping[str, Tensor], count: int) -> int:
    """Blocks a level on the way down: the way up has one more, and doubles after it."""
    doubling = re.compile(r"output_blocks\.(\d+)\.[12]\.(?:conv\.weight|in_layers\.0\.weight)")
    found = [int(match[1]) for name in tensors if (match := doubling.fullmatch(name))]
    return min(found, default=count - 1)


def _channels_of(tensors: Mapping[str, Tensor], block: str, where: Path) -> int:
    return _needed(tensors, f"{block}.in_layers.2.weight", 4, where).shape[0]


def _refuse_other_widths(
    tensors: Mapping[str, Tensor], channels: int, widths: list[int], where: Path
) -> None:
    embedding, sinusoids = tensors["time_embed.0.weight"].shape
    if sinusoids != channels or embedding != 4 * channels:
        raise RequestError(
            f"{where}: a stem of {channels} channels needs a time embedding of as many sinusoids, "
            f"got {sinusoids} (as the network of 512 pixels has): {REMEDY}"
        )
    if any(width % channels for width in widths):
        raise RequestError(
            f"{where}: the levels' channels must be whole multiples of the stem's {channels}, got "
            f"{widths}: {REMEDY}"
        )
