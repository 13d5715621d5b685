"""The formats of image files that are read, and the suffixes that belong to them.

Left out of what Pillow reads is what would start another program (EPS starts Ghostscript), what
only an installed plug-in reads, and what is no single picture of one size (icons, textures with
mipmaps, film, PDF).
"""

from functools import cache

from PIL import Image

SUFFIXES_OF = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "AVIF": (".avif", ".avifs"),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "MPO": (".mpo",),
    "PCX": (".pcx",),
    "PPM": (".pbm", ".pgm", ".ppm", ".pnm", ".pfm"),
    "QOI": (".qoi",),
    "SGI": (".sgi", ".bw", ".rgb", ".rgba"),
    "SUN": (".ras",),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
"""By Pillow's name of the format, in the order in which they are tried."""

SUFFIXES = frozenset(suffix for each in SUFFIXES_OF.values() for suffix in each)
"""Endings of file names, in lower case, with their dot."""


@cache
def decoders() -> tuple[str, ...]:
    """Pillow's names of the formats, without those that this build of it lacks."""
    Image.init()
    return tuple(each for each in SUFFIXES_OF if each in Image.OPEN)
