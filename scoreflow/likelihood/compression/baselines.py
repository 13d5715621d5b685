"""What general codes need for the same images: PNG, WebP, JPEG XL, zlib, LZMA and a histogram.

Each picture code is asked twice: a file an image, and all images below one another in one, where
headers cost next to nothing and repetitions among images are found. Levels 0..L-1 are written as
they are and spread over the white of a picture, and the smaller one counts: which of them suits a
code's predictors differs. Everything is decoded and held against the images.
"""

import importlib.util
import io
import lzma
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scoreflow.data.levels import spread
from scoreflow.errors import RunError
from scoreflow.storage.atomic_files import Json

Array = np.ndarray[Any, Any]

NOT_INSTALLED = "not installed: pip install scoreflow-sde[jxl]"
DEEP = "holds at most 256 levels"
BLOCK = 1024
"""Images whose levels are counted at a time."""


@dataclass(frozen=True)
class Code:
    """A code for pictures.

    Attributes:
        name: of it, in words.
        form: as Pillow calls it.
        options: of its most compact setting.
        deep: whether it holds 16 bits a channel.
        tallest: pixels that a picture may be high.
    """

    name: str
    form: str
    options: dict[str, Any] = field(default_factory=dict)
    deep: bool = True
    tallest: int = 2**30


PNG = Code("PNG", "PNG", {"optimize": True})
WEBP = Code("WebP", "WEBP", {"lossless": True, "quality": 100, "method": 6}, False, 16383)
JXL = Code("JPEG XL", "JXL", {"lossless": True, "effort": 9, "num_threads": 1})
CODES = (PNG, WEBP, JXL)


def table(
    levels: Tensor,
    num_levels: int,
    train: Tensor | None = None,
    tick: Callable[[], None] = lambda: None,
) -> list[Json]:
    """Rows of all baselines: name, bytes, bits_per_dim, kind "baseline" and a note.

    A code that can't be asked has None bytes, and its note says why.

    Args:
        levels: (n, C, H, W) integers in 0..L-1, n >= 1.
        num_levels: L.
        train: (m, C, H, W) other images, for the histogram of each pixel; None for no such row.
        tick: called after each of `count_of(train)` rows.

    Raises:
        RunError: a code gives other images back.
    """
    rows = []
    for row in _rows(levels.cpu(), num_levels, train):
        rows.append(row)
        tick()
    return rows


def count_of(train: Tensor | None = None) -> int:
    """How many rows `table` has."""
    return 2 * len(CODES) + 2 + (train is not None)


def lines(rows: list[Json]) -> str:
    """The table as text: name, bytes, bits/dim and note of each row, the numbers aligned."""
    wide = max(len(row["name"]) for row in rows)
    told = []
    for row in rows:
        known = row["bytes"] is not None
        size = f"{row['bytes']:12,d} bytes {row['bits_per_dim']:8.4f} bits/dim" if known else ""
        note = f"  {row['note']}" if row["note"] else ""
        told.append(f"  {row['name']:<{wide}}{size}{note}")
    return "\n".join(told)


def row_of(name: str, count: int | None, values: int, kind: str, note: str = "") -> Json:
    """A row of the table.

    Args:
        name: of the code.
        count: bytes; None where it can't be asked.
        values: numbers that are coded, of all images.
        kind: "ours", "predicted" or "baseline".
        note: what else is to be said.
    """
    bits = None if count is None else 8 * count / values
    return {"name": name, "bytes": count, "bits_per_dim": bits, "kind": kind, "note": note}


def _rows(images: Tensor, num_levels: int, train: Tensor | None) -> Iterator[Json]:
    values = images.numel()
    for code in CODES:
        for stacked in (False, True):
            name = f"{code.name}, {'stacked' if stacked else 'a file an image'}"
            why = _cannot(code, images, num_levels)
            count, note = (None, why) if why else _picture_bytes(code, images, num_levels, stacked)
            yield row_of(name, count, values, "baseline", note)
    for name, pack, unpack in (
        ("zlib of the levels", _zlib, zlib.decompress),
        ("LZMA of the levels", _lzma, lzma.decompress),
    ):
        count, note = _stream_bytes(name, images, num_levels, pack, unpack)
        yield row_of(name, count, values, "baseline", note)
    if train is not None:
        bits = histogram_bits(train, images, num_levels)
        note = "of training images; computed from its probabilities, no file"
        name = "histogram of each pixel"
        yield row_of(name, math.ceil(bits / 8), values, "baseline", note)


def _cannot(code: Code, images: Tensor, num_levels: int) -> str:
    """Why a code can't be asked; "" where it can."""
    _, channels, height, width = images.shape
    if num_levels > 256 and not code.deep:
        return DEEP
    if max(height, width * channels) > code.tallest:
        return f"holds at most {code.tallest} pixels a side"
    if code is JXL and importlib.util.find_spec("pillow_jxl") is None:
        return NOT_INSTALLED
    return ""


# ---- pictures -----------------------------------------------------------------------------------


def _picture_bytes(code: Code, images: Tensor, num_levels: int, stacked: bool) -> tuple[int, str]:
    """Bytes of the files of all images, and how their levels lie in them."""
    white = 255 if num_levels <= 256 else 65535
    forms = {"levels as they are": images.to(torch.int64)}
    if num_levels <= white:
        forms["levels spread to white"] = spread(images, num_levels, white)
    sizes, files = {}, 0
    for name, pixels in forms.items():
        pictures = _pictures(pixels, white)
        joined = list(_stacked(pictures, code.tallest)) if stacked else list(pictures)
        sizes[name], files = sum(len(encoded(code, each)) for each in joined), len(joined)
    best = min(sizes, key=lambda name: sizes[name])
    said = [best] if len(forms) > 1 else []
    if stacked and files > 1:
        said.append(f"in {files} files of at most {code.tallest} rows")
    return sizes[best], ", ".join(said)


def _pictures(pixels: Tensor, white: int) -> Array:
    """Images as Pillow takes them: (n, H, W) grey, or (n, H, W, 3).

    Of another number of channels, or of 16 bits, the channels lie side by side in grey.
    """
    if pixels.shape[1] not in (1, 3) or white > 255:
        pixels = torch.cat(pixels.split(1, dim=1), dim=3)
    shown = pixels.permute(0, 2, 3, 1).numpy().astype(np.uint8 if white == 255 else np.uint16)
    return shown[..., 0] if shown.shape[-1] == 1 else shown


def _stacked(pictures: Array, tallest: int) -> Iterator[Array]:
    """The pictures below one another, in as few pictures as may be so high."""
    high = pictures.shape[1]
    most = max(1, tallest // high)
    for start in range(0, len(pictures), most):
        part = pictures[start : start + most]
        yield part.reshape(len(part) * high, *pictures.shape[2:])


def encoded(code: Code, picture: Array) -> bytes:
    """The bytes of a picture's file.

    Args:
        code: lossless.
        picture: (H, W) grey, uint8 or uint16, or (H, W, 3) uint8.

    Raises:
        RunError: decoded it is another picture.
    """
    if code is JXL:
        import pillow_jxl  # noqa: F401  # registers itself with Pillow
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format=code.form, **code.options)
    content = stream.getvalue()
    with Image.open(io.BytesIO(content), formats=(code.form,)) as image:
        back = np.asarray(image)
    if back.ndim > picture.ndim:  # of grey some codes make three equal channels
        back = back[..., 0] if (back == back[..., :1]).all() else back
    if not np.array_equal(back, picture):
        raise RunError(f"{code.name} is to be lossless, and gives another picture back")
    return content


# ---- streams of levels --------------------------------------------------------------------------


def _stream_bytes(
    name: str,
    images: Tensor,
    num_levels: int,
    pack: Callable[[bytes], bytes],
    unpack: Callable[[bytes], bytes],
) -> tuple[int, str]:
    """Bytes of the levels in one stream, a whole number of bytes each or packed to their bits."""
    flat = images.to(torch.int64).flatten().numpy()
    forms = {
        "whole bytes a level": flat.astype("<u1" if num_levels <= 256 else "<u2").tobytes(),
        f"{bits_of(num_levels)} bits a level": packed(flat, num_levels),
    }
    sizes = {}
    for form, content in forms.items():
        small = pack(content)
        if unpack(small) != content:
            raise RunError(f"{name} is to be lossless, and gives other bytes back")
        sizes[form] = len(small)
    best = min(sizes, key=lambda form: sizes[form])
    return sizes[best], best


def bits_of(num_levels: int) -> int:
    """Bits that one of L levels needs when each has as many."""
    return max(1, (num_levels - 1).bit_length())


def packed(levels: Array, num_levels: int) -> bytes:
    """Levels side by side in as many bits as one needs, the highest bit first.

    Args:
        levels: (n,) integers in 0..L-1.
        num_levels: L.
    """
    places = np.arange(bits_of(num_levels) - 1, -1, -1)
    return np.packbits((levels[:, None] >> places & 1).astype(np.uint8)).tobytes()


def _zlib(content: bytes) -> bytes:
    return zlib.compress(content, 9)


def _lzma(content: bytes) -> bytes:
    return lzma.compress(content, lzma.FORMAT_ALONE, preset=9 | lzma.PRESET_EXTREME)


# ---- a model without a network ------------------------------------------------------------------


def histogram_bits(train: Tensor, images: Tensor, num_levels: int) -> float:
    """Bits of all images if pixels were independent, each with its levels' training histogram.

    Every count is one more than it is, so that a level that was never there costs something
    finite.

    Args:
        train: (m, ...) levels in 0..L-1.
        images: (n, ...) levels.
        num_levels: L.
    """
    places = torch.arange(images[0].numel()) * num_levels
    counts = torch.zeros(len(places) * num_levels, dtype=torch.int64)
    for part in train.cpu().split(BLOCK):
        counts += torch.bincount((part.flatten(1) + places).flatten(), minlength=len(counts))
    bits = ((len(train) + num_levels) / (counts + 1).double()).log2()
    return sum(float(bits[part.flatten(1) + places].sum()) for part in images.cpu().split(BLOCK))
