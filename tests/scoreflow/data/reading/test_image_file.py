"""One image file: read exactly, or refused with the flags that convert it."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import AvifImagePlugin, Image, ImageCms

from scoreflow.data.reading.formats import SUFFIXES, SUFFIXES_OF, decoders
from scoreflow.data.reading.image_file import decode, read
from scoreflow.data.reading.settings import Reading, size_of
from scoreflow.errors import RequestError

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (4, 6), dtype=np.uint8)
RGB = RANDOM.integers(0, 256, (4, 6, 3), dtype=np.uint8)
DEEP = RANDOM.integers(0, 4096, (4, 6), dtype=np.uint16)
ORIENTATION = 0x0112


def saved(pixels, file_format="PNG", mode=None, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image = image.convert(mode) if mode else image
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(depth, colour_type, rows, width, *more):
    """A PNG of packed rows, which Pillow itself does not write in each depth."""
    head = struct.pack(">IIBBBBB", width, len(rows), depth, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + b"".join(chunk(*each) for each in more)
        + chunk(b"IDAT", body)
        + chunk(b"IEND", b"")
    )


def tiff(values, bits, channels, width, height, **tags):
    """An uncompressed TIFF of one strip, which Pillow itself does not write in each depth."""
    entries = {256: width, 257: height, 259: 1, 262: 2 if channels >= 3 else 1, 277: channels}
    entries |= {278: height, 279: len(values)} | {int(k[1:]): v for k, v in tags.items()}
    count = len(entries) + 2
    after = 8 + 2 + 12 * count + 4
    depths = struct.pack(f"<{channels}H", *[bits] * channels)
    depth = struct.unpack("<I", depths.ljust(4, b"\0"))[0] if channels <= 2 else after
    rows = [struct.pack("<HHII", k, 4, 1, v) for k, v in entries.items()]
    rows.append(struct.pack("<HHII", 258, 3, channels, depth))
    rows.append(struct.pack("<HHII", 273, 4, 1, after + len(depths)))
    rows.sort(key=lambda row: struct.unpack("<H", row[:2]))
    head = struct.pack("<2sHIH", b"II", 42, 8, count)
    return head + b"".join(rows) + struct.pack("<I", 0) + depths + values


def several(file_format, pages=3, **options):
    images = [Image.fromarray(RGB + each) for each in range(pages)]
    return saved(images[0], file_format, save_all=True, append_images=images[1:], **options)


def turned(pixels, file_format, orientation, **options):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return saved(pixels, file_format, exif=exif, **options)


def refusal(content, reading=None):
    with pytest.raises(RequestError) as refused:
        decode(content, "it", reading or Reading())
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("it: ")
    return str(refused.value)


# ---- what is exact ------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "TGA", "PPM", "SGI", "PCX", "QOI"])
def test_colours_of_eight_bits_come_back(file_format):
    assert (decode(saved(RGB, file_format), "it") == RGB.transpose(2, 0, 1)).all()


@pytest.mark.parametrize(
    ("file_format", "options"),
    [("WEBP", {"lossless": True}), ("JPEG2000", {"irreversible": False})],
)
def test_colours_come_back_from_lossless_compression(file_format, options):
    assert (decode(saved(RGB, file_format, **options), "it") == RGB.transpose(2, 0, 1)).all()


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_greys_are_so_many_levels(depth):
    levels = np.arange(2 * 8).reshape(2, 8) % 2**depth
    bits = [[value >> k & 1 for value in row for k in range(depth - 1, -1, -1)] for row in levels]
    rows = [np.packbits(row).tobytes() for row in bits]
    found = read(png(depth, 0, rows, 8), "it")
    assert found.levels == 2**depth
    assert (found.pixels[0].astype(int) * (2**depth - 1) == levels * 255).all()


def test_the_maximum_of_a_pgm_file_is_the_last_level():
    found = read(b"P5 # 17 levels\n3 1\n16\n" + bytes([0, 3, 16]), "it")
    assert found.levels == 17
    assert found.pixels.tolist() == [[[0, 48, 255]]]  # 255 k / 16, to the nearest


@pytest.mark.parametrize(
    "content",
    [
        png(16, 0, [row.astype(">u2").tobytes() for row in DEEP], 6),
        saved(DEEP, "TIFF"),
        saved(DEEP, "TIFF", compression="tiff_lzw"),
        saved(DEEP, "JPEG2000", irreversible=False),
        b"P5 6 4 65535\n" + DEEP.astype(">u2").tobytes(),
        b"P5 6 4 4095\n" + DEEP.astype(">u2").tobytes(),
        DEEP,
    ],
    ids=["png", "tiff", "lzw", "jp2", "pgm", "pgm-4095", "array"],
)
def test_deep_greys_are_taken_as_stored_if_that_is_asked_for(content):
    found = read(content, "it", Reading(levels=4096))
    assert found.stored
    assert found.pixels.dtype == np.uint16
    assert (found.pixels[0] == DEEP).all()
    said = refusal(content)
    assert "16" in said or "12-bit" in said
    assert "add --config.data.levels=" in said
    assert "--config.data.mode=grey" in said


def test_opaque_alpha_is_left_out_exactly():
    opaque = np.dstack([RGB, np.full(GREY.shape, 255, np.uint8)])
    found = read(saved(opaque), "it")
    assert (found.pixels == RGB.transpose(2, 0, 1)).all()
    assert found.done == ("opaque alpha left out",)
    other = tuple(int(v) for v in RGB.max((0, 1)) - RGB.max((0, 1)) // 2)
    assert not (other == RGB).all(-1).any()  # a transparent colour that no pixel has
    assert (decode(saved(RGB, transparency=other), "it") == RGB.transpose(2, 0, 1)).all()


def test_arrays_are_taken_as_they_are():
    assert (decode(GREY, "it")[0] == GREY).all()
    four = np.dstack([RGB, GREY])
    assert (decode(four, "it") == four.transpose(2, 0, 1)).all()
    found = read(GREY > 99, "it")
    assert found.levels == 2
    assert (found.pixels[0] == (GREY > 99) * 255).all()
    with pytest.raises(RequestError, match=r"float64 of shape \(4, 6\); an array must be"):
        decode(GREY / 255, "it")


# ---- more in the file than is read --------------------------------------------------------------

RED = (255, 0, 0)
WITH_RED = np.where(np.arange(6)[None, :, None] == 2, np.array(RED, np.uint8), RGB)
TWO_BITS = [bytes([0b00011011])] * 2

MORE = {
    "rgb16.png": (png(16, 2, [bytes(36)] * 4, 6), "16 bits a channel in colour", "mode=rgb"),
    "rgba16.png": (png(16, 6, [bytes(48)] * 4, 6), "16 bits a channel", "mode=rgb"),
    "rgb16.tif": (tiff(bytes(2 * 3 * 6), 16, 3, 3, 2), "16 bits a channel", "mode=rgb"),
    "rgb.ppm": (b"P6 1 1 4095\n" + bytes(6), "12 bits a channel in colour", "mode=rgb"),
    "rgb16.sgi": (saved(RGB, "SGI", bpc=2), "16 bits a channel in colour", "mode=rgb"),
    "pages.tif": (several("TIFF"), "3 pages or frames", "file of its own"),
    "frames.gif": (several("GIF"), "3 pages or frames", "file of its own"),
    "frames.webp": (several("WEBP", lossless=True), "3 pages or frames", "file of its own"),
    "frames.png": (several("PNG"), "3 pages or frames", "file of its own"),
    "frames.avif": (several("AVIF"), "3 pages or frames", "file of its own"),
    "pictures.mpo": (several("MPO"), "3 pictures", "mode=rgb"),
    "alpha.png": (saved(np.dstack([RGB, GREY])), "transparent pixels", "background=#ffffff"),
    "alpha.webp": (saved(np.dstack([RGB, GREY]), "WEBP"), "transparent", "background=#ffffff"),
    "la.png": (saved(np.dstack([GREY, GREY])), "transparent", "background=#ffffff"),
    "trns.png": (saved(WITH_RED, transparency=RED), "transparent", "background=#ffffff"),
    "trns-grey.png": (
        saved(GREY, transparency=int(GREY[0, 0])),
        "transparent",
        "background=#ffffff",
    ),
    "trns-2bit.png": (
        png(2, 0, TWO_BITS, 4, (b"tRNS", b"\0\1")),
        "transparent",
        "background=#ffffff",
    ),
    "trns-16bit.png": (
        png(16, 2, [bytes(6)], 1, (b"tRNS", bytes(6))),
        "a transparent colour of more than 8 bits",
        "convert it first",
    ),
    "palette.png": (saved(Image.fromarray(RGB).quantize(8)), "a palette", "mode=rgb"),
    "cmyk.tif": (saved(RGB, "TIFF", mode="CMYK"), "CMYK", "mode=rgb"),
    "float.tif": (saved(GREY / np.float32(255), "TIFF"), "mode F", "convert it first"),
    "lab.tif": (saved(Image.new("LAB", (3, 3)), "TIFF"), "mode LAB", "convert it first"),
    "signed.tif": (tiff(bytes(6), 8, 1, 3, 2, _339=2), "signed or floating", "convert it first"),
    "from-white.tif": (tiff(bytes(12), 16, 1, 3, 2, _262=0), "from white", "convert it first"),
    "two.pgm": (b"P5 2 1 255\n\0\1P5 2 1 255\n\2\3", "more than one picture", "convert it first"),
    "two.pbm": (b"P4 9 1\n\0\1P4 9 1\n\2\3", "more than one picture", "convert it first"),
    "unsaid.tif": (tiff(bytes(24), 8, 4, 3, 2, _338=0), "4 channels", "convert it first"),
    "turned.jpg": (turned(RGB, "JPEG", 6), "orientation", "mode=rgb"),
    "turned.png": (turned(GREY, "PNG", 3), "orientation", "mode=grey"),
    "turned.webp": (turned(RGB, "WEBP", 8), "orientation", "mode=rgb"),
    "turned.tif": (saved(RGB, "TIFF", tiffinfo={ORIENTATION: 2}), "orientation", "mode=rgb"),
    "turned.avif": (turned(RGB, "AVIF", 6), "orientation", "mode=rgb"),
}


@pytest.mark.parametrize("name", MORE)
def test_what_the_array_would_not_hold_is_refused_with_a_remedy(name):
    content, what, remedy = MORE[name]
    said = refusal(content)
    assert what in said
    assert remedy in said


def test_all_flags_that_a_file_needs_are_named_at_once():
    both = Image.fromarray(np.dstack([RGB, GREY])).quantize(8)
    said = refusal(saved(both), Reading(size=(8, 8)))
    flags = "--config.data.mode=rgb --config.data.background=#ffffff"
    assert said == f"it: a palette (mode P) and transparent pixels (mode P); add {flags}"
    said = refusal(saved(GREY), Reading(size=(8, 8), section="control", channels=3))
    assert "grey, where RGB is wanted and 4x6 pixels, where 8x8 are wanted" in said
    assert "add --config.control.mode=rgb --config.control.fit=crop" in said


def test_the_bits_of_a_jpeg_2000_or_avif_file_are_found(monkeypatch):
    content = saved(RGB, "JPEG2000", irreversible=False)
    start = content.index(b"\xff\x4f\xff\x51") + 42
    for depth, what in ((12, "values of other than 8 or 16 bits"), (16, "16 bits a channel")):
        changed = bytearray(content)
        changed[start : start + 9 : 3] = bytes([depth - 1] * 3)
        monkeypatch.setattr(Image.Image, "load", lambda _self: None)  # its pixels do not fit
        assert what in refusal(bytes(changed))
    monkeypatch.setattr(AvifImagePlugin.AvifImageFile, "load", lambda _self: None)
    content = bytearray(saved(RGB, "AVIF"))
    depths = content.index(b"pixi") + 9
    for flags, bits in ((0x40, 10), (0x60, 12)):
        content[content.index(b"av1C") + 6] |= flags
        content[depths : depths + 3] = bytes([bits] * 3)
        assert f"{bits} bits a channel in colour" in refusal(bytes(content))


# ---- formats ------------------------------------------------------------------------------------


def test_every_suffix_of_a_decoder_is_known():
    Image.init()
    known = Image.registered_extensions()
    assert {each for each, kind in known.items() if kind in SUFFIXES_OF} <= SUFFIXES
    assert {known[each] for each in SUFFIXES if each in known} <= set(SUFFIXES_OF)
    assert "EPS" not in decoders()


def test_a_format_that_starts_another_program_is_never_opened(monkeypatch):
    content = saved(RGB, "EPS")
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("started a program"))
    assert "not a whole image (it begins like no format that is read)" in refusal(content)
    assert refusal(b"<html>").startswith("it: not a whole image (it begins like")


def test_more_pixels_than_pillow_allows_are_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 11)
    assert "not a whole image" in refusal(saved(GREY))


# ---- settings -----------------------------------------------------------------------------------


def test_a_size_is_a_side_or_height_by_width():
    assert size_of("") is None
    assert size_of("64") == size_of(64) == (64, 64)
    assert size_of("48x64") == size_of("48 X 64") == (48, 64)
    for wrong in ("0", "64x", "x", "-3", "4x4x4", "big", 2.5, "0x4"):
        with pytest.raises(RequestError, match=r"data\.size must be a side in pixels, as 64"):
            size_of(wrong)


def test_settings_that_cannot_be():
    for colour in ("#12345", "#ffffff80", "nocolour"):
        with pytest.raises(RequestError, match=r"data\.background must be an opaque colour"):
            Reading(background=colour)
    assert Reading(background="white").colour == (255, 255, 255)
    with pytest.raises(RequestError, match=r"control\.levels must be 2 or more"):
        Reading(levels=1, section="control")


# ---- colour profiles ----------------------------------------------------------------------------

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SWAPPED = SRGB.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
"""A profile whose red is sRGB's blue."""


def test_a_profile_is_said_and_applied_only_if_conversions_are_allowed():
    assert SWAPPED != SRGB
    plain = RGB.transpose(2, 0, 1)
    found = read(saved(RGB, icc_profile=SRGB), "it")
    assert (found.pixels == plain).all()
    assert found.kept == ()
    found = read(saved(RGB, icc_profile=SWAPPED), "it")
    assert (found.pixels == plain).all()
    assert found.kept == ("a colour profile other than sRGB",)
    found = read(saved(RGB, icc_profile=SWAPPED), "it", Reading(mode="rgb"))
    assert np.abs(found.pixels.astype(int) - plain[::-1]).max() <= 2
    assert found.kept == ()
    found = read(saved(RGB, icc_profile=b"damaged"), "it", Reading(mode="rgb"))
    assert (found.pixels == plain).all()
    assert found.kept == ("a colour profile other than sRGB",)


POINTS_OF_P3 = [31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000]
POINTS_OF_SRGB = [31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000]


@pytest.mark.parametrize(
    ("more", "other"),
    [
        ((b"cICP", bytes([12, 13, 0, 1])), True),  # Display P3
        ((b"cICP", bytes([1, 16, 0, 1])), True),  # PQ
        ((b"cICP", bytes([1, 13, 0, 1])), False),
        ((b"cHRM", struct.pack(">8I", *POINTS_OF_P3)), True),
        ((b"cHRM", struct.pack(">8I", *POINTS_OF_SRGB)), False),
    ],
)
def test_other_colours_without_a_profile_are_said(more, other):
    expected = ("colours other than sRGB's",) if other else ()
    for kind, row in ((2, bytes(range(9))), (0, bytes(range(3)))):
        found = read(png(8, kind, [row], 3, more), "it")
        assert found.kept == expected
        assert found.pixels.transpose(1, 2, 0).tobytes() == row


def test_other_colours_of_an_avif_are_said():
    content = saved(RGB, "AVIF")
    assert read(content, "it").kept == ()
    start = content.index(b"colrnclx") + 8
    assert content[start : start + 4] == bytes([0, 1, 0, 13])
    wide = content[:start] + bytes([0, 12, 0, 16]) + content[start + 4 :]
    assert read(wide, "it").kept == ("colours other than sRGB's",)


def test_a_grey_palette_is_not_called_colour():
    grey = saved(Image.fromarray(GREY), "GIF")
    with pytest.raises(RequestError, match=r"--config\.data\.mode=auto"):
        read(grey, "it")
    assert read(grey, "it", Reading(mode="auto")).pixels.shape == (1, 4, 6)
    with pytest.raises(RequestError, match=r"--config\.data\.mode=rgb"):
        read(saved(Image.fromarray(RGB), "GIF"), "it")


def test_a_gamma_is_said():
    linear = png(8, 0, [bytes(range(3))], 3, (b"gAMA", struct.pack(">I", 100_000)))
    assert read(linear, "it").kept == ("a gamma other than sRGB's",)
    usual = png(8, 0, [bytes(range(3))], 3, (b"gAMA", struct.pack(">I", 45_455)))
    assert read(usual, "it").kept == ()


def test_what_is_read_is_counted_by_what_was_done():
    assert read(turned(RGB, "PNG", 6), "it", Reading(mode="auto")).done == ("orientation",)
    assert read(MORE["palette.png"][0], "it", Reading(mode="auto")).done == ("palette",)
    assert read(MORE["rgb16.png"][0], "it", Reading(mode="auto")).done == (
        "from 16 bits to 8",
        "all black by that",
    )
    assert read(several("MPO"), "it", Reading(mode="auto")).done == ("first of several pictures",)


DAMAGED = ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "AVIF", "JPEG2000", "TGA", "SGI", "PCX", "QOI"]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::RuntimeWarning:PIL")
@pytest.mark.parametrize("file_format", DAMAGED)
def test_a_damaged_file_is_read_or_refused_in_one_line(file_format):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    more = {"PNG", "JPEG", "TIFF", "WEBP", "AVIF"}
    options = {"exif": exif, "icc_profile": SRGB[:200]} if file_format in more else {}
    whole = saved(RGB, file_format, **options)
    random = np.random.default_rng(7)
    for _ in range(40):
        content = bytearray(whole)
        for place in random.integers(0, min(len(whole), 400), 3):
            content[place] = random.integers(256)
        for reading in (Reading(), Reading(mode="auto", size=(3, 3), fit="crop")):
            try:
                assert decode(bytes(content), "it", reading).ndim == 3
            except RequestError as error:
                assert "\n" not in str(error)  # noqa: PT017
