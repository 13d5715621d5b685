"""Images on the disk, read by their numbers: a data set that is larger than memory.

Where a set would take more than its share of memory, `collect` decodes it into a file of rows
instead of an array, and `StoredImages` stands for the tensor (n, C, H, W). Nothing is mapped:
rows are read into fresh buffers, so a process stays as small as the batches that it holds,
and the system keeps what it likes of the file in its own cache.
"""

import math
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from scoreflow.errors import RequestError, RunError
from scoreflow.host_memory import available_bytes

Array = np.ndarray[Any, Any]
GIGA = 1e9
BLOCK = 4096
"""Images that pass through memory at a time where a set is copied."""


class RowFile:
    """A file of rows of one shape, read by their numbers, from any thread.

    Args:
        path: of the file.
        event: the shape of a row, (C, H, W).
        kind: uint8 or uint16.
    """

    def __init__(self, path: Path, event: tuple[int, ...], kind: np.dtype[Any]) -> None:
        self.path, self.event, self.kind = path, event, kind
        self.row_bytes = math.prod(event) * kind.itemsize
        self._file = path.open("rb", buffering=0)
        self._lock = threading.Lock()  # of the position, where there is no preadv

    def read(self, rows: Array, into: Array) -> None:
        """Rows (n,) int64 into an array (n, *event); neighbours in one call.

        Raises:
            RunError: the file ends before one of them.
        """
        if not len(rows):
            return
        flat = into.reshape(len(into), -1).view(np.uint8)
        ends = [*(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        first = 0
        for end in ends:
            part = flat[first:end].reshape(-1).data
            place = int(rows[first]) * self.row_bytes
            while part:
                count = self._read_at(part, place)
                if not count:
                    raise RunError(f"{self.path} was cut short: remove it, to have it made anew")
                part, place = part[count:], place + count
            first = end

    def _read_at(self, part: memoryview, place: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [part], place)
        with self._lock:
            self._file.seek(place)
            return self._file.readinto(part) or 0


@dataclass(frozen=True, eq=False)
class StoredImages:
    """What stands for a tensor (n, C, H, W) of levels whose values are in a file.

    `images[rows]` (integers), `images[a:b]` and `images[k]` are tensors on its device. With a mask
    of truth values, `images[mask]` is another of these, as `images.chosen(rows)` is: nothing is
    read.

    Args:
        file: where the values are.
        rows: which of its rows these are, (n,) int64.
        device: where tensors go.
        maps: what is done to values that were read, one after the other, each a function of an
            image alone.
    """

    file: RowFile
    rows: Array
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    maps: tuple[Callable[[Tensor], Tensor], ...] = ()

    def __len__(self) -> int:
        """How many."""
        return len(self.rows)

    @cached_property
    def _like(self) -> Tensor:
        return self._read(np.empty(0, np.int64))

    @property
    def shape(self) -> torch.Size:
        """(n, C, H, W)."""
        return torch.Size((len(self), *self._like.shape[1:]))

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return self._like.ndim

    @property
    def dtype(self) -> torch.dtype:
        """Of its tensors."""
        return self._like.dtype

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return len(self) * self.file.row_bytes

    def __getitem__(self, key: Any) -> Any:  # noqa: ANN401  # a tensor, or of a mask a StoredImages
        """Some of them: see the class."""
        if isinstance(key, slice):
            return self.on_host(np.arange(len(self))[key]).to(self.device, non_blocking=True)
        key = key.cpu().numpy() if isinstance(key, Tensor) else np.asarray(key)
        if key.dtype == bool:
            return self.chosen(np.flatnonzero(key))
        found = self.on_host(key.reshape(-1)).to(self.device, non_blocking=True)
        return found if key.ndim else found[0]

    def on_host(self, rows: Array) -> Tensor:
        """Images (n, C, H, W) by their numbers, in memory that a GPU can fetch from if it is one.

        Args:
            rows: (n,) integers, negative ones from the end.
        """
        return self._read(self.rows[rows])

    def _read(self, rows: Array) -> Tensor:
        kind = torch.uint8 if self.file.kind.itemsize == 1 else torch.uint16
        pinned = self.device.type == "cuda" and len(rows) > 0
        found = torch.empty(len(rows), *self.file.event, dtype=kind, pin_memory=pinned)
        self.file.read(rows, found.numpy())
        found = found if kind == torch.uint8 else found.to(torch.int32)
        for each in self.maps:
            found = each(found)
        return found.pin_memory() if pinned else found

    def chosen(self, rows: Tensor | Array) -> "StoredImages":
        """Those of some numbers, in their order, without reading them."""
        return replace(self, rows=self.rows[np.asarray(rows)])

    def mapped(self, each: Callable[[Tensor], Tensor]) -> "StoredImages":
        """All of them after a function of tensors that acts on each image alone."""
        return replace(self, maps=(*self.maps, each))

    def to(self, device: torch.device | str) -> "StoredImages":
        """The same, with tensors on a device."""
        return replace(self, device=torch.device(device))

    def split(self, size: int) -> Iterator[Tensor]:
        """Tensors of `size` images, the last may be shorter."""
        for start in range(0, len(self), size):
            yield self[start : start + size]


if TYPE_CHECKING:  # what takes len, shape, rows and slices of data need not know which it has
    Images = Tensor
else:
    Images = Tensor | StoredImages
"""Levels (n, C, H, W), in memory or on the disk; or vectors."""


def chosen(images: Tensor | StoredImages, rows: Tensor) -> Images:
    """Those of some numbers; of stored ones none is read."""
    found = images.chosen(rows) if isinstance(images, StoredImages) else images[rows]
    return cast(Images, found)


def mapped(images: Tensor | StoredImages, each: Callable[[Tensor], Tensor]) -> Images:
    """All of them after a function of tensors that acts on each image alone."""
    found = images.mapped(each) if isinstance(images, StoredImages) else each(images)
    return cast(Images, found)


# ---- decoding into a file -----------------------------------------------------------------------


@dataclass
class Place:
    """Where data may be stored, and from which size on.

    Attributes:
        folder: for their files.
        most_bytes: that all arrays of a data set may take in memory together.
        begin: called before the first file is made.
        in_memory: what they take so far.
        files: how many were begun.
    """

    folder: Path
    most_bytes: int
    begin: Callable[[], None] = lambda: None
    in_memory: int = 0
    files: int = 0


_PLACE: ContextVar[Place | None] = ContextVar("place", default=None)


@contextmanager
def storing(
    folder: Path, most_bytes: int, begin: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Within this, `allocate` gives a file where arrays would take more than so many bytes.

    Args:
        folder: as in `Place`.
        most_bytes: the same.
        begin: the same.
    """
    token = _PLACE.set(Place(folder, most_bytes, begin))
    try:
        yield
    finally:
        _PLACE.reset(token)


class RowWriter:
    """What stands for an array (n, C, H, W) while it is filled: a file of its rows.

    Args:
        path: of the file.
        shape: (n, C, H, W).
        kind: uint8; of more than 256 levels int32, whose values are stored as uint16.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], kind: np.dtype[Any]) -> None:
        self.path, self.shape = path, shape
        self.kind = np.dtype(np.uint8 if kind.itemsize == 1 else np.uint16)
        self._file = path.open("w+b")

    def __setitem__(self, index: int, pixels: Array) -> None:
        """Write row `index`."""
        values = np.ascontiguousarray(pixels, self.kind)
        self._file.seek(index * values.nbytes)
        self._file.write(values.data)

    def repeat(self, count: int, axis: int) -> "RowWriter":
        """As the array's: each grey image written so far as one of `count` equal channels."""
        assert axis == 1, "only channels are repeated"
        grey, written = self.finished(), self._written
        shape = (self.shape[0], self.shape[1] * count, *self.shape[2:])
        wide = RowWriter(self.path.with_suffix(".wide"), shape, self.kind)
        for index in range(written):
            row = grey.on_host(np.array([index]))[0].numpy()
            wide[index] = row.repeat(count, axis=0)
        return wide

    @property
    def _written(self) -> int:
        row = math.prod(self.shape[1:]) * self.kind.itemsize
        return self.path.stat().st_size // row

    def finished(self) -> StoredImages:
        """What was written, on the disk for good."""
        self._file.flush()
        os.fsync(self._file.fileno())
        file = RowFile(self.path, tuple(self.shape[1:]), self.kind)
        return StoredImages(file, np.arange(self.shape[0]))


def allocate(shape: tuple[int, ...], kind: Any) -> Any:  # noqa: ANN401  # np.ndarray | RowWriter
    """An empty array (n, C, H, W) to be filled row by row; or the same in a file.

    Raises:
        RequestError: the disk has no room for it.
    """
    place, kind = _PLACE.get(), np.dtype(kind)
    size = math.prod(shape) * kind.itemsize
    if place is None or place.in_memory + size <= place.most_bytes:
        if place is not None:
            place.in_memory += size
        return np.empty(shape, kind)
    stored = math.prod(shape) * min(kind.itemsize, 2)
    if not place.files:
        place.begin()
    place.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(place.folder).free
    if stored > free:
        raise RequestError(
            f"these images take {stored / GIGA:.1f} GB once they are decoded, more than memory "
            f"should hold, and {place.folder} has {free / GIGA:.1f} GB free: name a folder with "
            "room by --config.data.cache=DIR"
        )
    place.files += 1
    return RowWriter(place.folder / f"{place.files - 1}.rows", shape, kind)


def filled(array: Any) -> Images:  # noqa: ANN401  # np.ndarray | RowWriter
    """What `allocate` gave, once it is full."""
    found = array.finished() if isinstance(array, RowWriter) else torch.from_numpy(array)
    return cast(Images, found)


def available_memory(device: torch.device) -> int:
    """Bytes that this process could still take, of the host's memory and the device's."""
    found = [available_bytes()]
    if device.type == "cuda":
        found.append(torch.cuda.mem_get_info(device)[0])
    return min(found)
