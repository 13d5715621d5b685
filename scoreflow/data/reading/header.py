"""What an image file holds by its header, beyond the pixels that Pillow gives.

Pillow gives eight bits of a colour channel whatever the file has, the first of several pictures,
and the pixels before they are turned. What of this a file has is found here, in one rule for all
formats.
"""

import re
from dataclasses import dataclass
from typing import Any

from PIL import ExifTags, Image

GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N")
SAMPLE_BITS, PHOTOMETRIC, SAMPLES, SAMPLE_FORMAT = 258, 262, 277, 339
"""Tags of a TIFF file."""
HIGH_BITS, TWELVE_BITS = 0x40, 0x20
"""Of the third byte of an AV1 configuration record."""
SRGB_GAMMA = 1 / 2.2
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What a viewer does to the stored pixels, by their EXIF orientation; nothing for 1."""
TURNING = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
"""Where Pillow keeps what may state an orientation."""


@dataclass(frozen=True)
class Header:
    """What a file holds.

    Attributes:
        format: Pillow's name of it.
        mode: Pillow's name of the pixel format.
        levels: L, the number of values of a channel.
        pictures: pages or frames.
        oriented: whether viewers turn or mirror the stored pixels.
        turn: what is left to do of that; None where Pillow has turned them, or nothing is.
        profile: an ICC profile, or None.
        gamma: of a PNG file; sRGB's own where it says nothing.
        strange: what else it holds that cannot be read, in words; "" for nothing.
        srgb: whether its primaries and its curve, by code points or chromaticities, are sRGB's.
    """

    format: str
    mode: str
    levels: int
    pictures: int
    oriented: bool
    turn: Image.Transpose | None
    profile: bytes | None
    gamma: float
    strange: str
    srgb: bool = True

    @property
    def grey(self) -> bool:
        """Whether it has no colour."""
        return self.mode in GREY_MODES

    @property
    def deep(self) -> bool:
        """Whether it has more than eight bits a channel."""
        return self.levels > 256


def header_of(image: Image.Image, content: bytes) -> Header:
    """The header of a file that is opened but not loaded; it is loaded afterwards.

    Args:
        image: from Pillow.
        content: the file.
    """
    pictures = int(getattr(image, "n_frames", 1))
    levels, strange = _levels(image, content)
    # Pillow turns a TIFF when it loads it, and finds a PNG's tag only then
    stored = orientation_of(image) if image.format == "TIFF" else 1
    image.load()
    turn = TURNS.get(orientation_of(image))
    profile = image.info.get("icc_profile") or None
    gamma = image.info.get("gamma", SRGB_GAMMA)
    gamma = SRGB_GAMMA if profile is not None or "srgb" in image.info else float(gamma)
    kind, oriented = image.format or "", stored != 1 or turn is not None
    srgb = profile is not None or _is_srgb(image, content)  # a profile says more
    return Header(
        kind, image.mode, levels, pictures, oriented, turn, profile, gamma, strange, srgb
    )


# ---- colours ------------------------------------------------------------------------------------

PRIMARIES, CURVES = {1, 2}, {1, 2, 6, 13, 14, 15}
"""Code points of ITU-T H.273 that are sRGB's, unspecified, or shown as sRGB's (BT.709's curve)."""
OF_SRGB = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
"""x and y of the white point, red, green and blue, in the order of a PNG's cHRM."""


def _is_srgb(image: Image.Image, content: bytes) -> bool:
    """Whether nothing but an ICC profile says that a file has other colours than sRGB."""
    codes = {"PNG": _cicp, "AVIF": _nclx}.get(image.format or "", lambda _: None)(content)
    if codes is not None:
        return codes[0] in PRIMARIES and codes[1] in CURVES
    given = image.info.get("chromaticity")
    if given is None or "srgb" in image.info or len(given) != len(OF_SRGB):
        return True
    return all(abs(a - b) < 0.005 for a, b in zip(given, OF_SRGB, strict=True))


def _cicp(content: bytes) -> tuple[int, int] | None:
    """Primaries and curve of a PNG's chunk of code points, which stands before its pixels."""
    start = 8
    while start + 8 <= len(content):
        size, kind = int.from_bytes(content[start : start + 4]), content[start + 4 : start + 8]
        if kind == b"cICP" and size == 4:
            return content[start + 8], content[start + 9]
        if kind == b"IDAT":
            return None
        start += size + 12
    return None


def _nclx(content: bytes) -> tuple[int, int] | None:
    """Primaries and curve of an AVIF's box of code points."""
    start = content.find(b"colrnclx") + 8
    if start < 8 or start + 4 > len(content):
        return None
    return int.from_bytes(content[start : start + 2]), int.from_bytes(
        content[start + 2 : start + 4]
    )


def orientation_of(image: Image.Image) -> int:
    """Which of `TURNS` viewers heed, 1 for none."""
    if image.format != "TIFF" and not any(key in image.info for key in TURNING):
        return 1
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # whatever Pillow raises on a damaged EXIF block, the pixels are whole
        return 1
    return found if found in TURNS else 1


# ---- bits ---------------------------------------------------------------------------------------


def _levels(image: Image.Image, content: bytes) -> tuple[int, str]:
    """L of the file's channels, and what of it cannot be read."""
    if image.mode not in (*GREY_MODES, "RGB", "RGBA", "P", "PA", "CMYK", "YCbCr"):
        return 256, f"values that are no levels of grey or RGB (mode {image.mode})"
    by_format = {
        "PNG": _png,
        "TIFF": _tiff,
        "JPEG2000": _jpeg2000,
        "AVIF": _avif,
        "PPM": _ppm,
        "SGI": _sgi,
    }
    levels, strange = by_format.get(image.format or "", _eight)(image, content)
    if image.mode in ("P", "PA"):
        return 256, strange
    if image.mode == "1":
        return 2, strange
    if levels > 65536:
        return levels, strange or "more than 16 bits a channel"
    if levels > 256 and "transparency" in image.info:
        return levels, strange or "a transparent colour of more than 8 bits"
    return levels, strange


def _eight(_image: Image.Image, _content: bytes) -> tuple[int, str]:
    return 256, ""


def _png(_image: Image.Image, content: bytes) -> tuple[int, str]:
    depth = content[content.index(b"IHDR") + 12]
    return 2**depth, ""


def _tiff(image: Image.Image, _content: bytes) -> tuple[int, str]:
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    depths, samples = tags.get(SAMPLE_BITS, (1,)), tags.get(SAMPLES, 1)
    if samples > len(image.getbands()):  # Pillow reads over channels whose meaning is not said
        return 2 ** max(depths), f"{samples} channels, which are more than those of {image.mode}"
    if set(tags.get(SAMPLE_FORMAT, (1,))) != {1}:
        return 2 ** max(depths), "signed or floating-point values"
    if image.mode == "I;16" and tags.get(PHOTOMETRIC) == 0:  # which Pillow turns for 8 bits alone
        return 2 ** max(depths), "grey that counts from white"
    return 2 ** max(depths), ""


def _jpeg2000(_image: Image.Image, content: bytes) -> tuple[int, str]:
    start = content.index(b"\xff\x4f\xff\x51") + 42  # the codestream's start: its components
    channels = int.from_bytes(content[start - 2 : start])
    found = content[start : start + 3 * channels : 3]
    depths = {1 + (each & 0x7F) for each in found}
    if any(each & 0x80 for each in found) or not depths <= {8, 16}:  # Pillow shifts the others
        return 2 ** max(depths), "values of other than 8 or 16 bits without a sign"
    return 2 ** max(depths), ""


def _avif(_image: Image.Image, content: bytes) -> tuple[int, str]:
    third = content[content.index(b"av1C") + 6]
    bits = (12 if third & TWELVE_BITS else 10) if third & HIGH_BITS else 8
    return 2**bits, ""


def _sgi(_image: Image.Image, content: bytes) -> tuple[int, str]:
    return 2 ** (8 * content[3]), ""


RAW = (b"P4", b"P5", b"P6")
"""Kinds of Netpbm files in which pictures may follow one another."""
NETPBM = re.compile(rb"P[2356](?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+(\d+)")


def _ppm(image: Image.Image, content: bytes) -> tuple[int, str]:
    found = NETPBM.match(content)
    levels = int(found[1]) + 1 if found else 2  # a bitmap, P1 or P4, states no maximum
    row = (image.width + 7) // 8 if image.mode == "1" else image.width * len(image.getbands())
    size = image.height * row * (2 if levels > 256 else 1)
    after: int = image.tile[0][2] + size  # type: ignore[attr-defined]
    several = content[:2] in RAW and content[after : after + 2] in RAW
    return levels, "more than one picture" if several else ""
