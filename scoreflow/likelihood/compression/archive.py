"""The file of compressed images: its bytes, checked before anything else is done with them.

    SFBB            magic
    1 byte          version of the format
    4 + 4 bytes     length and CRC-32 of the header
    header          a fixed part, texts, names (zlib), a CRC-32 for each block of images
    4 bytes a word  the stack, from the bottom to the top, little-endian

The header says what the decoder must have: the weights' and the laws' hashes, the shape of a
batch, threads and versions. Numbers are big-endian. Lengths are held against the file before
anything is made of them.
"""

import base64
import json
import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scoreflow.errors import RequestError

MAGIC, VERSION = b"SFBB", 1
BLOCK = 64
"""Images that share a check sum, at the least."""
_HEAD = struct.Struct(">4sBII")
_FIXED = struct.Struct(">16s8sQIIIIIIHHBHBIIHI")
_SIDE = struct.Struct(">I")
MOST_IMAGES, MOST_NUMBERS, MOST_NAMES = 1 << 28, 1 << 28, 1 << 26
"""Images of a file, numbers of a batch, and bytes of all names: more is damage."""
_LONGEST = 200
"""Bytes of a name: a file system takes 255, of which an ending and a copy's addition need some."""
_RANGES = {
    "fitted": (2, 65536),
    "seed": (0, 2**31 - 1),
    "step": (0, 2**31 - 1),
    "num_levels": (2, 1 << 20),
    "count": (1, MOST_IMAGES),
    "batch": (1, 4096),
    "steps": (2, 128),
    "bits": (1, 8),
    "threads": (1, 65535),
}
"""What --mode compress can have written; the keys of a config's section have the same ranges."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself.

    Attributes:
        weights: first 16 bytes of the SHA-256 of the network's weights.
        laws: first 8 bytes of the SHA-256 of the chain and its errors.
        seed: of the errors' measurement.
        fitted: training images that they were measured on.
        step: of the checkpoint.
        num_levels: L.
        count: images.
        borrowed: words at the bottom that hold no image.
        words: of the stack.
        batch: images in flight, B; the last batch has what is left.
        steps: K.
        bits: of the grid.
        threads: of the processor.
        block: images that share a check sum.
        shape: of an image, (C, H, W).
        run: the run's folder, as it was typed.
        machine: versions, and what else floats depend on.
        names: of the images, without ending; none where they have none.
        checks: CRC-32 of the levels of each block.
    """

    weights: bytes
    laws: bytes
    seed: int
    fitted: int
    step: int
    num_levels: int
    count: int
    borrowed: int
    words: int
    batch: int
    steps: int
    bits: int
    threads: int
    block: int
    shape: tuple[int, ...]
    run: str
    machine: str
    names: tuple[str, ...]
    checks: tuple[int, ...]


def size_of(header: Header) -> tuple[int, int]:
    """Bytes of a header: all but its names, and these."""
    names = len(packed_names(header.names))
    return _HEAD.size + len(_header_bytes(header, 0)) - names, names


def to_bytes(header: Header, words: NDArray[np.uint32]) -> bytes:
    """The whole file."""
    payload = words.astype("<u4").tobytes()
    inside = _header_bytes(header, zlib.crc32(payload))
    head = _HEAD.pack(MAGIC, VERSION, len(inside), zlib.crc32(inside))
    return head + inside + payload


def _header_bytes(h: Header, of_payload: int) -> bytes:
    texts = "\n".join((h.run.replace("\n", " "), h.machine)).encode(errors="surrogateescape")
    names = packed_names(h.names)
    numbers = (h.seed, h.fitted, h.step, h.num_levels, h.count, h.borrowed, h.words)
    more = (h.batch, h.steps, h.bits, h.threads, len(h.shape))
    fixed = _FIXED.pack(
        h.weights, h.laws, *numbers, *more, h.block, of_payload, len(texts), len(names)
    )
    sides = b"".join(_SIDE.pack(side) for side in h.shape)
    return fixed + sides + texts + names + struct.pack(f">{len(h.checks)}I", *h.checks)


def packed_names(names: tuple[str, ...]) -> bytes:
    """Names as a file has them; nothing of none."""
    return zlib.compress(json.dumps(names).encode(), 9) if names else b""


def of_bytes(data: bytes, where: str) -> tuple[Header, NDArray[np.uint32]]:
    """The header and the stack of a file.

    Args:
        data: all of it.
        where: it is from, for messages.

    Raises:
        RequestError: it is none, damaged, or of a newer format.
    """
    if data[:4] != MAGIC or len(data) < _HEAD.size:
        raise RequestError(
            f"{where} is no file of --mode compress: it begins with {data[:4]!r}, not {MAGIC!r}"
        )
    _, version, length, check = _HEAD.unpack_from(data)
    if version != VERSION:
        raise RequestError(
            f"{where} has the format {version}, and this version of ScoreFlow reads {VERSION}: "
            "decompress it with the version that wrote it, or a newer one"
        )
    inside = data[_HEAD.size : _HEAD.size + length]
    if len(inside) != length or zlib.crc32(inside) != check:
        raise _damaged(where, "its header is not what was written")
    try:
        header, of_payload = _parsed(inside)
    except (struct.error, ValueError, zlib.error) as error:
        raise _damaged(where, f"its header says nothing that can be ({error})") from error
    payload = data[_HEAD.size + length :]
    if len(payload) != 4 * header.words:
        raise _damaged(
            where, f"{4 * header.words} bytes should follow the header, not {len(payload)}"
        )
    if zlib.crc32(payload) != of_payload:
        raise _damaged(where, "its bytes are not what was written")
    return header, np.frombuffer(payload, "<u4").astype(np.uint32)


def _parsed(inside: bytes) -> tuple[Header, int]:
    weights, laws, *numbers = _FIXED.unpack_from(inside)
    seed, fitted, step, num_levels, count, borrowed, words, *more = numbers
    batch, steps, bits, threads, ndim, block, of_payload, of_texts, of_names = more
    at = _FIXED.size
    shape = tuple(_SIDE.unpack_from(inside, at + 4 * k)[0] for k in range(ndim))
    at += 4 * ndim
    run, _, machine = inside[at : at + of_texts].decode(errors="surrogateescape").partition("\n")
    at += of_texts
    names = parsed_names(inside[at : at + of_names], count) if of_names else ()
    checks = tuple(each for (each,) in struct.iter_unpack(">I", inside[at + of_names :]))
    found = Header(
        weights, laws, seed, fitted, step, num_levels, count, borrowed, words, batch, steps, bits,
        threads, block, shape, run, machine, names, checks,
    )  # fmt: skip
    _refuse_impossible(found)
    return found, of_payload


def _refuse_impossible(h: Header) -> None:
    """Raise ValueError of numbers that no encoder writes, and a decoder might work on for long."""
    numbers = vars(h)
    for name, (low, high) in _RANGES.items():
        if not low <= numbers[name] <= high:
            raise ValueError(f"{name} {numbers[name]} is not in {low}..{high}")
    if not h.shape or min(h.shape) < 1:
        raise ValueError("no images")
    if too_large(h.batch, h.count, h.shape):
        raise ValueError("too many numbers at a time")
    if h.block != block_of(h.batch) or len(h.checks) != -(-h.count // h.block):
        raise ValueError("other check sums than blocks")
    if "\0" in h.run:
        raise ValueError("no folder of a run")


def block_of(batch: int) -> int:
    """Images a block, whole batches: those that share a check sum."""
    return batch * -(-BLOCK // batch)


def too_large(batch: int, count: int, shape: tuple[int, ...]) -> bool:
    """Whether images in flight have more numbers than a file may ask a decoder for."""
    return min(batch, count) * math.prod(shape) > MOST_NUMBERS


def parsed_names(packed: bytes, count: int) -> tuple[str, ...]:
    """The names again.

    Raises:
        ValueError: there are not so many, two are one, or one is no file's.
        zlib.error: they are no names.
    """
    opened = zlib.decompressobj()
    text = opened.decompress(packed, MOST_NAMES)
    if not opened.eof or opened.unused_data:
        raise ValueError("names without an end, or more than names")
    try:
        names = json.loads(text)
    except RecursionError as error:
        raise ValueError("lists in lists") from error
    if not (isinstance(names, list) and len(names) == count):
        raise ValueError("other names than images")
    if not all(isinstance(each, str) and is_plain(each) for each in names):
        raise ValueError("a name that is none of a file")
    if len({*names}) != count:
        raise ValueError("a name of two images")
    return tuple(names)


def is_plain(name: str) -> bool:
    """Whether a name is one of a file in a folder, wherever that lies."""
    bad = set('/\\:*?"<>|\0')
    if not name.isprintable() or not 0 < len(name.encode()) <= _LONGEST:
        return False
    return not (bad & {*name} or name[0] in ". ")


def _damaged(where: str, why: str) -> RequestError:
    return RequestError(f"{where} is damaged ({why}): copy it again, nothing was written")


def packed(codes: NDArray[np.int16]) -> str:
    """Whole numbers as a text for results/*.json."""
    return _packed(codes.astype("<i2"))


def unpacked(text: str, shape: tuple[int, ...]) -> NDArray[np.int16]:
    """The numbers of `packed`.

    Raises:
        ValueError: they are not so many.
    """
    return _unpacked(text, "<i2", shape).astype(np.int16)


def packed_reals(values: NDArray[np.float64]) -> str:
    """Floats, infinite ones as well, as a text that has every bit of them."""
    return _packed(values.astype("<f8"))


def unpacked_reals(text: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The numbers of `packed_reals`.

    Raises:
        ValueError: they are not so many.
    """
    return _unpacked(text, "<f8", shape).astype(np.float64)


def _packed(values: NDArray[Any]) -> str:
    return base64.b64encode(zlib.compress(values.tobytes(), 9)).decode()


def _unpacked(text: str, form: str, shape: tuple[int, ...]) -> NDArray[Any]:
    wanted = np.dtype(form).itemsize * int(np.prod(shape))
    opened = zlib.decompressobj()
    try:
        data = opened.decompress(base64.b64decode(text, validate=True), wanted + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(data) != wanted:
        raise ValueError(f"{wanted} bytes wanted, got {len(data)}")
    return np.frombuffer(data, form).reshape(shape)
