"""The file of images that were sent state by state (`progressive`): what a receiver must know.

    4 bytes     "SFP" and the version
    header      numbers, seven bits a byte, the lowest first; the run's name; its weights' digest;
                the errors of the laws, deflated; the images' names, deflated, where they have any
    4 bytes     CRC-32 of all else
    words       32 bits each, to the end

All of it counts: of few images the header is a good part.
"""

import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch

from scoreflow.errors import RequestError
from scoreflow.likelihood.compression.archive import packed_names, parsed_names
from scoreflow.likelihood.compression.error_law import ErrorLaw, Kind, buckets

MAGIC = b"SFP\1"
KINDS: tuple[Kind, ...] = get_args(Kind)
DIGEST = 16
"""Bytes of the weights' digest that are kept."""
MOST_DIMS, MOST_TIMES, MOST_NAME = 2**28, 2**20, 4096
"""Of what a header may say, whose tables are made before anything else is known."""
PART_UNIT = 8
"""Parts of a bit in which the bits of a part are kept."""


@dataclass(frozen=True)
class ProgressiveFile:
    """What is in it.

    Attributes:
        run: the name of the run, as it was typed.
        weights: the SHA-256 of its weights, the first `DIGEST` bytes.
        step: of their checkpoint.
        count: images.
        event: their shape, (C, H, W).
        num_levels: L.
        times: 0, the last one sent, ..., N.
        law: the errors at all of them but the first two.
        seed: of the candidates.
        batch_size: images that the network was asked of at once.
        part_bits: of a part at the most.
        words: the code, (n,) uint32.
        names: of the images, without ending; none where they have none.
    """

    run: str
    weights: bytes
    step: int
    count: int
    event: tuple[int, ...]
    num_levels: int
    times: tuple[int, ...]
    law: ErrorLaw
    seed: int
    batch_size: int
    part_bits: float
    words: np.ndarray[Any, Any]
    names: tuple[str, ...] = ()

    def packed(self) -> bytes:
        """The file's bytes."""
        head, words = self._head(), self.words.astype("<u4").tobytes()
        return head + struct.pack("<I", zlib.crc32(head + words)) + words

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image."""
        return self.event

    @property
    def header_bytes(self) -> int:
        """Of the file, all but the words."""
        return len(self._head()) + 4

    def _head(self) -> bytes:
        name, named = self.run.encode(errors="surrogateescape"), packed_names(self.names)
        strides = np.diff(self.times).tolist()
        numbers = [
            len(name), self.step, self.count, len(self.event), *self.event, self.num_levels,
            len(strides), *strides, self._kind(), self.seed, self.batch_size,
            round(self.part_bits * PART_UNIT),
        ]  # fmt: skip
        errors = law_bytes(self.law)
        parts = (_varints(numbers), name, self.weights, _varints([len(errors)]), errors)
        whole = (*parts, _varints([len(named)]), named) if named else parts
        return MAGIC + b"".join(whole)

    def _kind(self) -> int:
        """Of the laws' buckets; with names there is as many more."""
        return KINDS.index(self.law.kind) + len(KINDS) * bool(self.names)


def is_progressive(content: bytes) -> bool:
    """Whether a file begins as one, of any version."""
    return content[:3] == MAGIC[:3]


def unpacked(content: bytes, name: str) -> ProgressiveFile:
    """The file again.

    Args:
        content: all its bytes.
        name: of the file, for messages.

    Raises:
        RequestError: it is cut, changed, of another kind or of a newer version.
    """
    if not is_progressive(content):
        raise RequestError(f"{name} is no file of progressive images")
    if content[:4] != MAGIC:
        raise RequestError(f"{name} is of a newer version of ScoreFlow than this one: upgrade")
    try:
        found, start = _read(content)
    except (IndexError, ValueError, zlib.error, struct.error) as error:
        raise RequestError(f"{name} is damaged or cut: its header cannot be read") from error
    (expected,) = struct.unpack_from("<I", content, start - 4)
    if zlib.crc32(content[: start - 4] + content[start:]) != expected:
        raise RequestError(f"{name} is damaged or cut: its check sum is another")
    return found


def _read(content: bytes) -> tuple[ProgressiveFile, int]:
    """The file, unchecked, and where its words begin."""
    head = _Numbers(content, len(MAGIC))
    named, step, count = head.next(MOST_NAME), head.next(2**53), head.next(2**32 - 1)
    event = tuple(head.next(MOST_DIMS) for _ in range(head.next(8)))
    num_levels, steps = head.next(2**16), head.next(MOST_TIMES)
    strides = [head.next(MOST_TIMES) for _ in range(steps)]
    kind, seed, batch_size = head.next(2 * len(KINDS) - 1), head.next(2**64 - 1), head.next()
    has_names, kind = divmod(kind, len(KINDS))
    part_bits = head.next() / PART_UNIT
    run, weights = head.bytes(named).decode(errors="surrogateescape"), head.bytes(DIGEST)
    times = (0, *np.cumsum(strides).tolist())
    if math.prod(event) > MOST_DIMS or len(times) < 2 or min(count, batch_size, num_levels) < 1:
        raise ValueError("nothing that is written")
    law = _law_of(head.bytes(head.next()), KINDS[kind], times[2:], event)
    names = parsed_names(head.bytes(head.next()), count) if has_names else ()
    start = head.at + 4
    if start > len(content) or (len(content) - start) % 4:
        raise ValueError("cut")
    words = np.frombuffer(content, "<u4", offset=start)
    of_all = (count, event, num_levels, times, law, seed, batch_size, part_bits, words, names)
    return ProgressiveFile(run, weights, step, *of_all), start


def _law_of(
    deflated: bytes, kind: Kind, times: tuple[int, ...], event: tuple[int, ...]
) -> ErrorLaw:
    shape = (len(times), buckets(kind, event))
    size = 2 * math.prod(shape)
    inflate = zlib.decompressobj()
    content = inflate.decompress(deflated, size + 1)  # no more, whatever is in it
    if len(content) != size:
        raise ValueError("a table of another size")
    squares = torch.from_numpy(np.frombuffer(content, "<i2").astype(np.int16)).view(shape)
    return ErrorLaw(kind, times, squares, squares)


def law_bytes(law: ErrorLaw) -> bytes:
    """The table of a law, deflated."""
    return zlib.compress(law.squares.numpy().astype("<i2").tobytes(), 9)


# ---- numbers ------------------------------------------------------------------------------------


def _varints(numbers: Sequence[int]) -> bytes:
    """Seven bits a byte, the lowest first; the highest bit says that more follow."""
    found = bytearray()
    for number in numbers:
        while number > 127:
            found.append(number & 127 | 128)
            number >>= 7
        found.append(number)
    return bytes(found)


class _Numbers:
    """Reads them back, and bytes between them."""

    def __init__(self, content: bytes, at: int) -> None:
        self._content, self.at = content, at

    def next(self, most: int = 2**32) -> int:
        """The next number, at most this."""
        found = shift = 0
        while True:
            byte = self._content[self.at]
            self.at += 1
            found |= (byte & 127) << shift
            shift += 7
            if found > most or shift > 70:
                raise ValueError(f"a number above {most}")
            if byte < 128:
                return found

    def bytes(self, count: int) -> bytes:
        """The next bytes."""
        if self.at + count > len(self._content):
            raise IndexError("cut")
        self.at += count
        return self._content[self.at - count : self.at]
