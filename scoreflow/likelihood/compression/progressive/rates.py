"""Real bytes against distortion: of a progressive code, and of JPEG, WebP and JPEG XL for scale.

Distortion is that of levels on the scale 0..255 of a picture, as the ledger's curve has it: the
root of the mean square error over all images, and PSNR = 20 log10(255 / RMSE).
"""

import importlib.util
import io
import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scoreflow.data.levels import from_uint8, quantize, to_uint8
from scoreflow.likelihood.compression.progressive.states import State
from scoreflow.storage.atomic_files import Json

Pixels = np.ndarray[Any, Any]

QUALITIES = (1, 3, 5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 95)
"""Of the other codes."""
FORMS = {"JPEG": "JPEG", "WebP": "WEBP", "JPEG XL": "JXL"}
WIDEST = 16383
"""Pixels of a side that all of them hold."""


def distortion(found: Tensor, levels: Tensor, num_levels: int) -> float:
    """Root mean square error of levels, in units of a picture's 0..255.

    Args:
        found: (n, ...) levels.
        levels: those that it should be.
        num_levels: L.
    """
    apart = (found.double() - levels.double()) * 255 / (num_levels - 1)
    return math.sqrt(float(apart.square().mean()))


def row_of(state: State, levels: Tensor, num_levels: int, header_bytes: int) -> Json:
    """What a file has by a time of its code: bytes, bits/dim, KL, parts and distortion.

    Args:
        state: of the sender.
        levels: the images, (n, ...).
        num_levels: L.
        header_bytes: of the file, before its words.
    """
    sent = state.sent
    assert sent is not None, "the sender counts"
    count = header_bytes + -(-sent.bits // 8)
    rmse = distortion(quantize(state.estimate, num_levels), levels, num_levels)
    return {
        "t": state.t,
        "bytes": count,
        "bits_per_dim": 8 * count / levels.numel(),
        "divergence": sent.nats / math.log(2) / levels.numel(),
        "parts": sent.parts / len(levels),
        "cut": sent.cut,
        **_of_rmse(rmse),
    }


def _of_rmse(rmse: float) -> Json:
    """PSNR of no error at all is None."""
    return {"rmse": rmse, "psnr": 20 * math.log10(255 / rmse) if rmse > 0 else None}


def other_codes(levels: Tensor, num_levels: int) -> list[Json]:
    """The same of lossy pictures of all images in a square sheet, a row a code and quality.

    Args:
        levels: (n, C, H, W) of 1 or 3 channels and at most 256 levels, else there are none.
        num_levels: L.
    """
    levels = levels.cpu()
    if levels.shape[1] not in (1, 3) or num_levels > 256:
        return []
    pixels = to_uint8(levels, num_levels).permute(0, 2, 3, 1).numpy()
    return [
        _coded(name, form, quality, pixels, levels, num_levels)
        for name, form in FORMS.items()
        if form != "JXL" or importlib.util.find_spec("pillow_jxl") is not None
        for quality in QUALITIES
    ]


def _coded(name: str, form: str, quality: int, pixels: Pixels, levels: Tensor, of: int) -> Json:
    high, wide = pixels.shape[1:3]
    most, count, back = (WIDEST // max(high, wide)) ** 2, 0, []
    for start in range(0, len(pixels), most):
        part = pixels[start : start + most]
        sheet, columns = _sheet(part)
        content, shown = _through(form, quality, sheet)
        count += len(content)
        back.append(_images(shown, columns, high, wide)[: len(part)])
    found = torch.from_numpy(np.concatenate(back)).permute(0, 3, 1, 2)
    rmse = distortion(from_uint8(found, of), levels, of)
    return {
        "code": name,
        "quality": quality,
        "bytes": count,
        "bits_per_dim": 8 * count / levels.numel(),
        **_of_rmse(rmse),
    }


def _sheet(pixels: Pixels) -> tuple[Pixels, int]:
    """Images (n, H, W, C) side by side in rows, black where there is none; and how many a row."""
    count, high, wide, channels = pixels.shape
    columns = math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    full = np.zeros((rows * columns, high, wide, channels), np.uint8)
    full[:count] = pixels
    places = full.reshape(rows, columns, high, wide, channels).transpose(0, 2, 1, 3, 4)
    return places.reshape(rows * high, columns * wide, channels), columns


def _images(sheet: Pixels, columns: int, high: int, wide: int) -> Pixels:
    """The images of a sheet again."""
    places = sheet.reshape(-1, high, columns, wide, sheet.shape[-1]).transpose(0, 2, 1, 3, 4)
    return places.reshape(-1, high, wide, sheet.shape[-1])


def _through(form: str, quality: int, sheet: Pixels) -> tuple[bytes, Pixels]:
    """A picture's file, and the picture that is in it."""
    if form == "JXL":
        import pillow_jxl  # noqa: F401  # registers itself with Pillow
    grey = sheet.shape[-1] == 1
    stream = io.BytesIO()
    Image.fromarray(sheet[..., 0] if grey else sheet).save(stream, format=form, quality=quality)
    stream.seek(0)
    with Image.open(stream, formats=(form,)) as image:
        back = np.asarray(image.convert("L" if grey else "RGB"))
    return stream.getvalue(), back.reshape(sheet.shape)
