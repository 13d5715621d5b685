"""From what Pillow opened to (C, H, W) integers: exact, converted as asked for, or refused."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from scoreflow.data.reading.colour import is_srgb, to_srgb
from scoreflow.data.reading.header import SRGB_GAMMA, Header
from scoreflow.data.reading.refusal import Refused
from scoreflow.data.reading.settings import MODE_OF, Reading

Pixels = np.ndarray[Any, Any]

NAMES = {
    "P": "a palette (mode P)",
    "PA": "a palette with transparency (mode PA)",
    "CMYK": "colours in CMYK",
    "YCbCr": "colours in YCbCr",
}
"""Modes that are only read by a conversion, and what they are called."""
PROFILE = "a colour profile other than sRGB"
COLOURS = "colours other than sRGB's"
LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601, as Pillow's conversion to grey."""


@dataclass(frozen=True)
class Converted:
    """One image, with what was done to it.

    Attributes:
        pixels: (C, H, W) uint8 or uint16.
        levels: L, the number of values that its file can hold.
        stored: whether the pixels are the stored values; else they are brightness, 0..255.
        done: the conversions, in words.
        kept: what a viewer would heed and was left as it stands, in words.
        resized: whether its size was changed.
        enlarged: whether it grew by that.
        spread: the greatest stored value of those that became 0..255, and what it could be.
    """

    pixels: Pixels
    levels: int
    stored: bool = False
    done: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    resized: bool = False
    enlarged: bool = False
    spread: tuple[int, int] | None = None


def converted(image: Image.Image, header: Header, where: str, reading: Reading) -> Converted:
    """An image in the form that is asked for.

    Args:
        image: loaded.
        header: of its file.
        where: what it is called in messages.
        reading: what may be done to it.

    Raises:
        Refused: something in it cannot be read so.
    """
    image = _levelled(image, header)
    alpha = alpha_of(image)
    grey = header.grey or (header.mode in ("P", "PA") and _plain(image).mode == "L")
    refuse(_needs(header, alpha, reading, grey), where, _turned(image, header))
    done = list(_done(header, alpha, reading))
    if header.turn is not None:
        image = image.transpose(header.turn)
        alpha = None if alpha is None else alpha_of(image)
    kept: tuple[str, ...]
    spread = None
    if header.deep and header.grey:
        pixels, stored = _deep(image, header)[None], True
        if reading.converts and reading.levels <= 256:
            spread = (int(pixels.max(initial=0)), header.levels - 1)
            pixels, stored = _spread(pixels, header.levels), False
        kept = () if is_srgb(header.profile) else (PROFILE,)
        kept = kept if header.srgb else (*kept, COLOURS)
    else:
        flat, kept = _flat(image, header, alpha, reading)
        array = np.asarray(flat)
        pixels, stored = array[None] if array.ndim == 2 else array.transpose(2, 0, 1), False
        if header.deep and not pixels.any():  # its values may lie in the lost bits alone
            done.append("all black by that")
    levels = header.levels if header.levels < 256 or stored else 256
    found = Converted(pixels, levels, stored, tuple(done), kept, spread=spread)
    return _shaped(found, where, reading)


def of_array(array: Pixels, where: str, reading: Reading) -> Converted:
    """An image that is given as an array, whose channels are taken as they stand.

    Args:
        array: (H, W) or (H, W, C), bool, uint8 or uint16.
        where: what it is called in messages.
        reading: what may be done to it.
    """
    if array.ndim not in (2, 3) or array.dtype not in (bool, np.uint8, np.uint16):
        raise Refused(
            where,
            f"{array.dtype} of shape {array.shape}",
            "an array must be (H, W) or (H, W, C), of bool, uint8 or uint16",
        )
    pixels = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    levels, stored = (2 if array.dtype == bool else 256), array.dtype == np.uint16
    pixels = pixels.astype(np.uint8) * np.uint8(255) if levels == 2 else pixels
    done: tuple[str, ...] = ()
    spread = None
    if stored:
        levels = 65536
        refuse(_of_depth("values of 16 bits (uint16)", levels, True, reading), where)
        if reading.converts and reading.levels <= 256:
            spread = (int(pixels.max(initial=0)), levels - 1)
            pixels, stored, done = _spread(pixels, levels), False, ("from 16 bits to 8",)
            levels = 256
    return _shaped(Converted(pixels, levels, stored, done, spread=spread), where, reading)


# ---- what is refused ----------------------------------------------------------------------------

Need = tuple[str, str, str]
"""What is in the way, the flag that allows it, another remedy."""


def refuse(needs: Iterator[Need], where: str, size: tuple[int, int] | None = None) -> None:
    """Raise one error for all that is in the way, if anything is.

    Args:
        needs: what is.
        where: what the image is called.
        size: (H, W) that it is read at, if known.
    """
    found = list(needs)
    if not found:
        return
    flags = tuple(dict.fromkeys(flag for _, flag, _ in found if flag))
    others = tuple(dict.fromkeys(other for _, _, other in found if other))
    remedy = "; ".join([*([f"add {' '.join(flags)}"] if flags else []), *others])
    deep = [other.partition(EIGHT)[2].split()[0] for other in others if EIGHT in other]
    others = tuple(other for other in others if EIGHT not in other)
    what = " and ".join(what for what, _, _ in found)
    raise Refused(where, what, remedy, flags=(*flags, *deep), others=others, size=size)


EIGHT = "; or for 8 bits add "
"""Before the flag that helps a deep image among others, where its own levels do not."""


def _needs(
    header: Header, alpha: Image.Image | None, reading: Reading, grey: bool
) -> Iterator[Need]:
    if header.strange:
        yield header.strange, "", "convert it first"
        return
    # another picture of a palette may have colour: auto makes each what it is
    flag = reading.flag("mode", "grey" if header.grey else "auto" if grey else "rgb")
    if header.pictures > 1 and header.format != "MPO":
        yield f"{header.pictures} pages or frames", "", "save each as a file of its own"
    elif header.pictures > 1 and not reading.converts:
        yield f"{header.pictures} pictures, of which the first would be taken", flag, ""
    if header.mode in NAMES and not reading.converts:
        yield NAMES[header.mode], flag, ""
    bits = (header.levels - 1).bit_length()
    yield from _of_depth(f"{bits}-bit grey", header.levels, header.grey, reading)
    if header.oriented and not reading.converts:
        yield "an EXIF orientation that turns or mirrors it", flag, ""
    if alpha is not None and alpha.getextrema()[0] != 255 and not reading.background:
        yield f"transparent pixels (mode {header.mode})", reading.flag("background", "#ffffff"), ""


def _of_depth(deep: str, levels: int, grey: bool, reading: Reading) -> Iterator[Need]:
    bits = (levels - 1).bit_length()
    if levels <= 256:
        if reading.levels > 256:
            what = f"{bits} bits, where {reading.levels} levels are stored values of deeper files"
            flag = "" if reading.given else reading.flag("levels", 0)
            yield what, flag, "" if flag else "give one of more bits"
    elif not grey:
        what = f"{bits} bits a channel in colour"
        if reading.levels > 256:
            yield what, "", "more than 8 bits are read in grey alone: leave the levels at 0"
        if not reading.converts:
            yield what, reading.flag("mode", "rgb"), ""
    elif not reading.converts and not reading.levels:
        own, eight = reading.flag("levels", levels), reading.flag("mode", "grey")
        remedy = (
            f"add {own}, or the number that all its values are below, to take them as they stand"
            f"{EIGHT}{eight}"
        )
        yield deep, "", remedy


def _turned(image: Image.Image, header: Header) -> tuple[int, int]:
    """(H, W) of an image as viewers show it."""
    on_its_side = header.turn is not None and header.turn not in KEEP_SIZE
    return image.size if on_its_side else image.size[::-1]


KEEP_SIZE = (
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.ROTATE_180,
)
"""Turns and mirrors that keep height and width."""


def _done(header: Header, alpha: Image.Image | None, reading: Reading) -> Iterator[str]:
    if header.pictures > 1:
        yield "first of several pictures"
    if header.mode in NAMES:
        yield "palette" if header.mode in ("P", "PA") else header.mode
    if header.deep and not (header.grey and (reading.levels > 256 or not reading.converts)):
        yield f"from {(header.levels - 1).bit_length()} bits to 8"
    if header.oriented:
        yield "orientation"
    if alpha is not None:
        opaque = alpha.getextrema()[0] == 255
        yield "opaque alpha left out" if opaque else f"transparent over {reading.background}"


# ---- pixels -------------------------------------------------------------------------------------


def _levelled(image: Image.Image, header: Header) -> Image.Image:
    """With the transparent one of few levels of grey spread to 0..255, as its pixels are."""
    grey = image.info.get("transparency")
    if image.mode == "L" and isinstance(grey, int) and header.levels < 256:
        image.info["transparency"] = grey * 255 // (header.levels - 1)
    return image


def alpha_of(image: Image.Image) -> Image.Image | None:
    """How opaque each pixel is, 0..255; None where nothing says it."""
    if image.mode in ("LA", "PA", "RGBA"):
        return image.getchannel("A")
    if "transparency" in image.info and image.mode in ("1", "L", "P", "RGB"):
        return image.convert("RGBA").getchannel("A")
    return None


def _deep(image: Image.Image, header: Header) -> Pixels:
    """The stored values of a grey image of more than eight bits, (H, W) uint16."""
    values = np.asarray(image).astype(np.int64)
    if header.format == "PPM":  # which Pillow spreads over 0..65535
        values = (values * (header.levels - 1) * 2 + 65535) // (2 * 65535)
    return values.astype(np.uint16)


def _spread(pixels: Pixels, levels: int) -> Pixels:
    """Values 0..L-1 as 0..255, to the nearest."""
    top = levels - 1
    return ((pixels.astype(np.int64) * 510 + top) // (2 * top)).astype(np.uint8)


def _flat(
    image: Image.Image, header: Header, alpha: Image.Image | None, reading: Reading
) -> tuple[Image.Image, tuple[str, ...]]:
    """Grey or RGB without alpha, in sRGB if conversions are allowed; what was left as it is."""
    kept = [] if abs(header.gamma - SRGB_GAMMA) < 0.01 else ["a gamma other than sRGB's"]
    if not header.srgb:
        kept.append(COLOURS)
    flat = _plain(image)
    if header.profile is not None and not is_srgb(header.profile):
        found = to_srgb(flat, header.profile) if reading.converts else None
        if found is None:
            kept.append(PROFILE)
        flat = found or flat
    if flat.mode == "CMYK":
        flat = flat.convert("RGB")
    if alpha is not None and alpha.getextrema()[0] != 255:
        if len(set(reading.colour)) > 1:
            flat = flat.convert("RGB")
        ground = reading.colour if flat.mode == "RGB" else reading.colour[0]
        flat = Image.composite(flat, Image.new(flat.mode, flat.size, ground), alpha)
    return flat, tuple(kept)


def _plain(image: Image.Image) -> Image.Image:
    """Grey, RGB or CMYK, of the colours that a file states, its alpha left out."""
    if image.mode in ("1", "LA"):
        return image.convert("L")
    if image.mode in ("P", "PA"):
        colours = image.convert("RGBA").convert("RGB")
        red, green, blue = (np.asarray(band) for band in colours.split())
        grey = (red == green).all() and (green == blue).all()
        return colours.getchannel("R") if grey else colours
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")


# ---- mode and size ------------------------------------------------------------------------------


def _shaped(image: Converted, where: str, reading: Reading) -> Converted:
    """With the channels and of the size that are asked for."""
    pixels, done = image.pixels, list(image.done)
    if reading.mode == "rgb" and len(pixels) == 1:
        pixels = pixels.repeat(3, axis=0)
        done.append("grey to RGB")
    elif reading.mode == "grey" and len(pixels) == 3:
        pixels = _grey(pixels)
        done.append("colour to grey")
    height, width = pixels.shape[1:]
    refuse(_needs_of_shape(pixels.shape, reading), where)
    scale = 1.0
    if reading.size not in (None, (height, width)):
        scale = _scale(reading, width, height)
        pixels = fitted(pixels, reading)
    resized = pixels.shape[1:] != (height, width)
    if pixels is image.pixels:
        return image
    return replace(
        image, pixels=pixels, done=tuple(done), resized=resized, enlarged=resized and scale > 1
    )


def _needs_of_shape(shape: tuple[int, ...], reading: Reading) -> Iterator[Need]:
    channels, height, width = shape
    if reading.channels not in (None, channels):
        assert reading.channels is not None, "mypy does not see it"
        mode = MODE_OF.get(reading.channels)
        what = f"{_kind(channels)}, where {_kind(reading.channels)} is wanted"
        yield what, reading.flag("mode", mode) if mode else "", "" if mode else "convert it first"
    if reading.size not in (None, (height, width)):
        yield from needs_of_size(width, height, reading)


def _kind(channels: int) -> str:
    return {1: "grey", 3: "RGB"}.get(channels, f"an image of {channels} channels")


def needs_of_size(width: int, height: int, reading: Reading) -> Iterator[Need]:
    """What is in the way of another size."""
    if reading.fit == "refuse":
        assert reading.size is not None, "asked by the caller"
        what = f"{height}x{width} pixels, where {reading.size[0]}x{reading.size[1]} are wanted"
        yield what, reading.flag("fit", "crop"), "or fit=resize, fit=pad"


def _scale(reading: Reading, width: int, height: int) -> float:
    """By how much a side grows, the greater of the two where they differ."""
    assert reading.size is not None, "asked by the caller"
    sides = (reading.size[0] / height, reading.size[1] / width)
    return min(sides) if reading.fit == "pad" else max(sides)


def fitted(
    pixels: Pixels, reading: Reading, by: Image.Resampling = Image.Resampling.LANCZOS
) -> Pixels:
    """Pixels of the size that is asked for.

    Args:
        pixels: (C, H, W) uint8 or uint16.
        reading: the size; "crop" cuts the middle of what covers it, "pad" puts the background
            around what fits into it, "resize" stretches.
        by: the filter; Lanczos' is spread over all that a new pixel covers.

    Returns:
        (C, *size), of the same dtype; uint16 within the range of the given values.
    """
    assert reading.size is not None, "asked by the caller"
    deep, size = pixels.dtype == np.uint16, reading.size[::-1]
    ground = reading.colour if len(pixels) == 3 else (_luma(reading.colour),) * len(pixels)
    fitted = []
    for channel, colour in zip(pixels, ground, strict=True):
        band = Image.fromarray(
            channel.astype(np.float32) if deep else np.ascontiguousarray(channel)
        )
        if reading.fit == "crop":
            band = ImageOps.fit(band, size, by)
        elif reading.fit == "pad":
            filled = colour * int(channel.max()) // 255 if deep else colour
            band = ImageOps.pad(band, size, by, color=filled)
        else:
            band = band.resize(size, by)
        fitted.append(np.asarray(band))
    found = np.stack(fitted)
    if not deep:
        return found
    return found.round().clip(pixels.min(), pixels.max()).astype(np.uint16)


def _grey(pixels: Pixels) -> Pixels:
    """(1, H, W) of the dtype of (3, H, W)."""
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels.transpose(1, 2, 0)).convert("L"))[None]
    return np.tensordot(LUMA, pixels, 1).round().astype(pixels.dtype)[None]


def _luma(colour: tuple[int, int, int]) -> int:
    return round(sum(weight * value for weight, value in zip(LUMA, colour, strict=True)))
