"""Images in numpy's files: .npy, .npz, and folders of .npy."""

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from scoreflow.data.reading.floats import floats_refused
from scoreflow.data.sources.names import split_of_file
from scoreflow.data.sources.rows import (
    MOST_CHANNELS,
    Array,
    Found,
    Row,
    Rows,
    damaged,
    named,
    shown,
    some,
)
from scoreflow.errors import RequestError, first_line
from scoreflow.host_memory import total_bytes

IMAGES = frozenset({"image", "images", "imgs", "x", "data", "arr_0", "samples"})
LABELS = frozenset({"label", "labels", "y", "target", "targets", "arr_1", "class", "classes"})
"""What arrays in a .npz are called, their split taken off."""
LOOKED_AT = 256
"""So many images of floats are looked at before they are refused."""


def npy_file(path: Path) -> Found:
    """One .npy of images, N x H x W or N x H x W x C; or of one image, H x W x C."""
    images = _stack(load_array(path), str(path))
    return Found(path.name, f"{path.parent}/", {"": _rows(images, None, str(path))})


def npz_file(path: Path, labels: str = "auto") -> Found:
    """A .npz of images and perhaps their labels, of one pool or by splits.

    The arrays are called arr_0 and arr_1, images and labels, x and y, or so with a split:
    x_train, test_labels. Others are left out.

    Args:
        path: the file.
        labels: "auto", "none", or the name of the array of labels.
    """
    arrays = _opened(path)
    images = {split_of_file(name): name for name in arrays if _role(name) in IMAGES}
    if not images:
        raise RequestError(
            f"{path}: the images must be an array called arr_0, images or x, got {some(arrays)}"
        )
    if labels not in ("auto", "none") and labels not in arrays:
        raise RequestError(f"data.labels = {labels} is no array of {path}, got {some(arrays)}")
    classes = {split_of_file(n): n for n in arrays if _role(n) in LABELS and labels == "auto"}
    if labels in arrays:
        classes = {split_of_file(labels): labels}
    unread = [name for name in arrays if name not in {*images.values(), *classes.values()}]
    pixels, told, reasons = {}, {}, []
    for name in (*images.values(), *classes.values()):
        _refuse_bomb(path, name)
    for split, name in images.items():
        pixels[split] = _stack(_member(arrays, name, path), f"{path}, array {name}")
        if split in classes:
            told[split], reason = _column(arrays, classes[split], len(pixels[split]))
            reasons += [reason] if reason else []
    splits = {
        split: _rows(pixels[split], None if reasons else told.get(split), f"{path}, array {name}")
        for split, name in images.items()
    }
    return Found(
        name=path.name,
        root=f"{path.parent}/",
        splits=splits,
        classes_by=f"array {named(classes.values())}" if classes and not reasons else "",
        unlabelled="; ".join(reasons),
        sure=labels in arrays,
        remarks=(f"{path.name}: its arrays {some(unread)} are not read",) if unread else (),
    )


def one_array(path: Path) -> Array:
    """One image of a folder of .npy, H x W, H x W x C or C x H x W, as (H, W[, C])."""
    found = load_array(path)
    if found.ndim == 2 or (found.ndim == 3 and found.shape[2] <= MOST_CHANNELS):
        return _levels(found, str(path))
    if found.ndim == 3 and found.shape[0] <= MOST_CHANNELS:
        return _levels(found.transpose(1, 2, 0), str(path))
    raise RequestError(
        f"{path}: in a folder of .npy files each is one image, H x W or H x W x C, got the shape "
        f"{found.shape}; an array of many images is passed itself: --config.data.path={path}"
    )


def load_array(path: Path) -> Array:
    """The array of a .npy, not yet in memory."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise damaged(str(path), ".npy file", error) from error
    if not isinstance(found, np.ndarray):
        other = ValueError("it is an archive of another name")
        raise damaged(str(path), ".npy file", other)
    return found


def _opened(path: Path) -> Mapping[str, Array]:
    """The arrays of an archive, each read when it is asked for."""
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            raise ValueError("it is a .npy of another name")
        opened: Mapping[str, Array] = found
        return opened
    except Exception as error:  # zip's, zlib's or numpy's
        raise damaged(str(path), ".npz file", error) from error


def _refuse_bomb(path: Path, name: str) -> None:
    """Refuse an array of an archive that takes more memory than there is, whatever else runs."""
    with zipfile.ZipFile(path) as archive:
        sizes = {each.filename.removesuffix(".npy"): each.file_size for each in archive.infolist()}
    need, there = sizes.get(name, 0), total_bytes()
    if need > there:
        raise RequestError(
            f"{path}: array {shown(name)} takes {need} bytes of memory, and there are {there} in "
            "all: divide it, and pass a folder of image files or Parquet files"
        )


def _member(arrays: Mapping[str, Array], name: str, path: Path) -> Array:
    try:
        return arrays[name]
    except Exception as error:  # zip's, zlib's or numpy's
        raise damaged(str(path), ".npz file", error) from error


def _role(name: str) -> str:
    """What an array is called without its split: x of x_train, images of test_images."""
    parts = [part for part in re.split(r"[-_ ]", name.lower()) if not split_of_file(part)]
    return "_".join(parts)


def _stack(found: Array, where: str) -> Array:
    """Images as (N, H, W[, C]), a view."""
    if found.ndim == 3:
        return found[None] if found.shape[2] <= MOST_CHANNELS else found
    if found.ndim == 4 and found.shape[3] <= MOST_CHANNELS:
        return found
    if found.ndim == 4 and found.shape[1] <= MOST_CHANNELS:
        return found.transpose(0, 2, 3, 1)
    remedy = "; rows of numbers are read by --config.data.name=vectors" if found.ndim == 2 else ""
    raise RequestError(
        f"{where}: images are N x H x W, or N x H x W x C with C up to {MOST_CHANNELS}, got the "
        f"shape {found.shape}{remedy}"
    )


def _column(arrays: Mapping[str, Array], name: str, count: int) -> tuple[list[object], str]:
    """The labels of `count` images, as Python values, and why there are none.

    A column (N, 1) counts as (N,).
    """
    try:
        found = arrays[name]
    except Exception as error:  # zip's, zlib's or numpy's
        return [], f"array `{name}` cannot be read ({shown(first_line(error))})"
    flat = found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found
    if flat.shape != (count,):
        return [], f"array `{name}` of shape {found.shape} is not one label for each of {count}"
    values: list[object] = flat.tolist()
    return values, ""


def _rows(images: Array, labels: list[object] | None, where: str) -> Rows:
    def rows() -> Iterator[Row]:
        for index in range(len(images)):
            row = f"{where} row {index}"
            label = None if labels is None else labels[index]
            yield row, _levels(images[index], row, images[:LOOKED_AT]), label

    return rows(), len(images), where


def _levels(image: Array, where: str, among: Array | None = None) -> Array:
    """An image's levels as uint8, or as bool or uint16 where they are; others are refused.

    Args:
        image: (H, W[, C]).
        where: what it is called.
        among: images by which floats are judged, for one alone may be all black.
    """
    if image.dtype in (bool, np.uint8, np.uint16):
        return np.asarray(image)
    if not np.issubdtype(image.dtype, np.integer):
        raise RequestError(f"{where}: {floats_refused(image if among is None else among)}")
    low, high = int(image.min()), int(image.max())
    if low < 0 or high > 255:
        raise RequestError(
            f"{where}: images must be integers 0..255, got {low}..{high} as {image.dtype}; save "
            "them as uint8, or as uint16 with --config.data.levels"
        )
    return np.asarray(image).astype(np.uint8)
