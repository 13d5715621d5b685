"""Arrays of images on the disk, written by index in any order and finished once.

A PNG each, one npz as OpenAI's evaluator reads it, or one tensor file. None of them needs more
memory than the images handed over: npz and tensor file are rows of a raw file until all are there,
and are then copied piece by piece. Several processes may write, each at its own indices.
"""

import io
import os
import shutil
import zipfile
from collections.abc import Callable
from functools import cached_property, partial
from math import prod
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch.serialization import skip_data

from scoreflow.errors import RequestError, first_line
from scoreflow.storage.atomic_files import fsync_file, replacing
from scoreflow.storage.regular_files import open_regular, put, temporary_folder

Array = np.ndarray[Any, Any]
PNG_END = b"IEND\xaeB`\x82"
"""The last chunk's name and check sum."""
PIECE = 2**20
"""Bytes that are copied at a time."""


class ImageFiles(Protocol):
    """Images 0..count-1 of one shape."""

    @property
    def path(self) -> Path:
        """What is there in the end."""
        ...

    def put(self, start: int, images: Array) -> None:
        """Write images start, start + 1, ...: (n, *shape)."""
        ...

    def holds(self, start: int, stop: int) -> bool:
        """Whether what `put` wrote of them is still there, and can be read.

        Raises:
            OSError: something else has the name, or the file may not be read.
        """
        ...

    @property
    def begun(self) -> bool:
        """Whether some of them can be written again, and the others stay what they are."""
        ...

    def finish(self) -> None:
        """Make the file of rows that are all there; again, nothing."""
        ...

    def first(self, count: int) -> Array:
        """The first images of a finished file: (count, *shape)."""
        ...


class PngFolder:
    """A PNG an image, 00000000.png and so on.

    Args:
        folder: where.
        count: how many images.
        shape: (C, H, W): grey, grey with alpha, RGB, or RGB with alpha.
        depth: bits of a channel: 8, or of grey images 16.
    """

    def __init__(
        self, folder: Path, count: int, shape: tuple[int, ...], depth: Literal[8, 16] = 8
    ) -> None:
        if len(shape) != 3 or not 1 <= shape[0] <= 4:
            raise RequestError(
                "sampling.save = png is for images of 1 to 4 channels, got samples of shape "
                f"{shape}: save them as pt"
            )
        if depth == 16 and shape[0] > 1:
            raise RequestError(
                "sampling.save = png holds more than 256 levels of grey images alone, got "
                f"{shape[0]} channels: save them as npz or pt"
            )
        self.path, self.count, self.shape = folder, count, shape
        self.dtype = np.dtype(np.uint16 if depth == 16 else np.uint8)

    def put(self, start: int, images: Array) -> None:
        """As `ImageFiles`; the whole range of their bits. A file appears whole."""
        for k, image in enumerate(images.astype(self.dtype), start=start):
            pixels, path = image.transpose(1, 2, 0), self._path(k)
            shown = Image.fromarray(np.squeeze(pixels, 2) if self.shape[0] == 1 else pixels)
            stream = io.BytesIO()
            shown.save(stream, format="PNG")
            put(path, stream.getbuffer())

    def holds(self, start: int, stop: int) -> bool:
        """As `ImageFiles`; a file that lost its bytes with the power is not there."""
        return all(_stands(partial(self._check, self._path(k))) for k in range(start, stop))

    def _check(self, path: Path) -> None:
        """Raise ValueError, or what Pillow does, of what is no PNG of this kind."""
        with (
            open(open_regular(path, os.O_RDONLY), "rb") as file,
            Image.open(file, formats=("PNG",)) as image,
        ):
            kind = (image.size, len(image.getbands()), image.mode[0] == "I")
            image.verify()  # the check sum of every chunk
            file.seek(0)
            content = file.read()
        ends = content.find(PNG_END) == len(content) - len(PNG_END)
        if not ends or kind != (self.shape[:0:-1], self.shape[0], self.dtype == np.uint16):
            raise ValueError(kind)

    @property
    def begun(self) -> bool:
        """As `ImageFiles`: always, for they are files of their own."""
        return True

    def finish(self) -> None:
        """Nothing is left to do."""

    def first(self, count: int) -> Array:
        """As `ImageFiles`."""
        images = [
            np.asarray(Image.open(self._path(k), formats=("PNG",)), self.dtype)
            for k in range(count)
        ]
        return (
            np.stack(images).reshape(count, *self.shape[1:], self.shape[0]).transpose(0, 3, 1, 2)
        )

    def _path(self, index: int) -> Path:
        return self.path / f"{index:08d}.png"


class _Rows:
    """A raw file with a row an image, from which a finished file is made.

    Args:
        path: of the finished file.
        count: how many images.
        row: the shape of a row.
        dtype: of its values.
    """

    def __init__(self, path: Path, count: int, row: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path, self.count, self.row, self.dtype = path, count, row, dtype
        self._raw = path.with_name(f"{path.name}.part")
        self._bytes = prod(row) * dtype.itemsize

    def _put(self, start: int, rows: Array) -> None:
        # made by whichever process is first
        with open(open_regular(self._raw, os.O_RDWR | os.O_CREAT), "r+b") as file:
            file.truncate(self.count * self._bytes)
            file.seek(start * self._bytes)
            file.write(np.ascontiguousarray(rows, self.dtype).tobytes())
            file.flush()
            fsync_file(file.fileno())

    def _rows(self) -> IO[bytes]:
        """The raw file, to be read."""
        return open(open_regular(self._raw, os.O_RDONLY), "rb")

    def first(self, count: int) -> Array:
        """As `ImageFiles`."""
        raise NotImplementedError

    def holds(self, start: int, stop: int) -> bool:
        """As `ImageFiles`; of a finished file all or none."""
        if self._raw.exists():
            return self._raw.stat().st_size == self.count * self._bytes
        return self._whole

    @cached_property
    def _whole(self) -> bool:
        return _stands(self._check)

    def _check(self) -> None:
        """Raise ValueError, or what the reader does, of what is no finished file of this kind."""
        with (
            open(open_regular(self.path, os.O_RDONLY), "rb") as file,
            zipfile.ZipFile(file) as archive,
        ):
            if archive.testzip() is not None or file.seek(0, 2) < self.count * self._bytes:
                raise ValueError("a check sum, or too few rows")
            if min(each.header_offset for each in archive.infolist()) > 0:
                raise ValueError("something before it")
        one = self.first(1)
        if one.dtype != self.dtype or one.size != prod(self.row):
            raise ValueError((one.dtype, one.shape))

    @property
    def begun(self) -> bool:
        """As `ImageFiles`: a finished file is written as a whole, from rows that are gone."""
        return self._raw.exists()


class NpzFile(_Rows):
    """One npz: `arr_0` (n, H, W, C) integers, and with classes `arr_1`, (n,) int64.

    The format of the evaluator of guided-diffusion (Dhariwal & Nichol 2021), which its
    sample scripts write.

    Args:
        path: of the file.
        count: how many images.
        shape: (C, H, W).
        labels: the class of each, (count,) integers; None for none.
        dtype: uint8 in 0..255; uint16 for the levels themselves, where there are more.
    """

    def __init__(
        self,
        path: Path,
        count: int,
        shape: tuple[int, ...],
        labels: Array | None = None,
        dtype: type[np.unsignedinteger[Any]] = np.uint8,
    ) -> None:
        if len(shape) != 3:
            raise RequestError(
                f"sampling.save = npz is for images, got samples of shape {shape}: save them as pt"
            )
        super().__init__(path, count, (*shape[1:], shape[0]), np.dtype(dtype))
        self.labels = labels

    def put(self, start: int, images: Array) -> None:
        """As `ImageFiles`; integers of its dtype."""
        self._put(start, images.transpose(0, 2, 3, 1))

    def finish(self) -> None:
        """As `ImageFiles`."""
        if not self._raw.exists():
            return
        with replacing(self.path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            with _member(archive, "arr_0.npy") as file, self._rows() as rows:
                _header(file, (self.count, *self.row), self.dtype)
                shutil.copyfileobj(rows, file, PIECE)
            if self.labels is not None:
                labels = self.labels.astype(np.int64)
                with _member(archive, "arr_1.npy") as file:
                    _header(file, labels.shape, labels.dtype)
                    file.write(labels.tobytes())
        self._raw.unlink()

    def first(self, count: int) -> Array:
        """As `ImageFiles`."""
        with zipfile.ZipFile(self.path) as archive, archive.open("arr_0.npy") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            rows = np.frombuffer(file.read(count * self._bytes), self.dtype)
        return rows.reshape(count, *self.row).transpose(0, 3, 1, 2)


class TensorFile(_Rows):
    """One tensor (n, *shape), as torch.save writes it: levels of images, or float64 vectors.

    Args:
        path: of the file.
        count: how many images.
        shape: of one.
        dtype: torch.uint8 or torch.int32, or torch.float64.
    """

    def __init__(self, path: Path, count: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        super().__init__(path, count, shape, torch.empty(0, dtype=dtype).numpy().dtype)
        self.torch_dtype = dtype

    def put(self, start: int, images: Array) -> None:
        """As `ImageFiles`."""
        self._put(start, images)

    def finish(self) -> None:
        """As `ImageFiles`: torch's own file, for which only the values are streamed."""
        if not self._raw.exists():
            return
        with (
            replacing(self.path) as temporary,
            temporary_folder(self.path) as place,
            zipfile.ZipFile(temporary, "w") as archive,
            zipfile.ZipFile(self._frame(place)) as skeleton,
        ):
            for name in skeleton.namelist():
                values = name.endswith("/data/0")
                with (
                    self._rows() if values else skeleton.open(name) as source,
                    _member(archive, name, 64 if values else 1) as file,
                ):
                    shutil.copyfileobj(source, file, PIECE)
        self._raw.unlink()

    def _frame(self, folder: Path) -> Path:
        """The file without its values; its name, without ending, is in it."""
        frame = folder / f"{self.path.name}.frame"
        try:
            with skip_data():  # of the tensor no byte is touched, so no memory is taken
                torch.save(torch.empty(self.count, *self.row, dtype=self.torch_dtype), frame)
        except RuntimeError as error:  # of torch's own writer, which knows no errno
            raise OSError(first_line(error)) from error
        return frame

    def first(self, count: int) -> Array:
        """As `ImageFiles`."""
        whole: torch.Tensor = torch.load(self.path, mmap=True, weights_only=True)
        return whole[:count].clone().numpy()


def _stands(check: Callable[[], None]) -> bool:
    """Whether a check of a file passes.

    Raises:
        OSError: with an errno: it is no matter of what the file holds.
    """
    try:
        check()
    except OSError as error:
        if error.errno is None or isinstance(error, FileNotFoundError):  # Pillow's own, or gone
            return False
        raise
    except Exception:  # what bytes that are no image do to their reader is unbounded
        return False
    return True


def _member(archive: zipfile.ZipFile, name: str, align: int = 1) -> Any:  # noqa: ANN401
    """A file inside an archive, uncompressed and without a date, to be written in pieces.

    Args:
        archive: that is written.
        name: of the file.
        align: its bytes begin at a multiple of this, so that they can be mapped.
    """
    info = zipfile.ZipInfo(name)
    if align > 1:
        header = archive.fp.tell() + 30 + len(name) + 20 + 4 if archive.fp else 0  # 20: zip64
        fill = -header % align
        info.extra = b"FB" + fill.to_bytes(2, "little") + b"\0" * fill
    return archive.open(info, "w", force_zip64=True)


def _header(file: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:  # noqa: ANN401
    described = np.lib.format.dtype_to_descr(dtype)
    head = {"descr": described, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, head)
