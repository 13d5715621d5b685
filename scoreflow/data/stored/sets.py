"""Data sets decoded once: what is larger than memory is kept in a folder and found there again.

    FOLDER/KEY/data.json    names, levels, remarks, and which rows are which part
               0.rows ...   levels of the images, a row an image
               *.npy        labels, and the rows of the parts

The key is a hash of the source's files (names, sizes, times of change) and of all settings that
the data are a function of. A folder appears whole, and one that is there is complete.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from scoreflow.data.dataset import Data
from scoreflow.data.sources.walk import files_below
from scoreflow.data.stored.images import BLOCK, GIGA, Images, RowFile, StoredImages, storing
from scoreflow.errors import RunError

VERSION = 1
"""Of the files here: what another version wrote is made anew."""
PARTS = ("train", "test")


def loaded(
    load: Callable[[], Data],
    source: Path,
    settings: dict[str, Any],
    folder: Path,
    most_bytes: int,
) -> Data:
    """A data set: in memory if it fits, or else on the disk, decoded now or found decoded.

    Args:
        load: decodes it.
        source: the folder or file that it is read from.
        settings: JSON values, all else that it is a function of.
        folder: for decoded sets.
        most_bytes: that its images may take in memory.

    Raises:
        RequestError: as `load`, or the disk is full.
    """
    place = folder / _key(source, settings)
    if found := _opened(place):
        return found
    begun = place.with_name(f"{place.name}.part")
    with ExitStack() as stack:

        def begin() -> None:
            stack.enter_context(_alone(place))
            if _opened(place):  # another process has just made it
                raise _MadeMeanwhile
            if begun.is_symlink():  # which rmtree leaves, and what is written would follow
                begun.unlink()
            shutil.rmtree(begun, ignore_errors=True)  # of one that was killed
            stack.callback(shutil.rmtree, begun, ignore_errors=True)

        try:
            with storing(begun, most_bytes, begin):
                data = load()
            if not begun.is_dir():
                return data
            _keep(data, begun)
            shutil.rmtree(place, ignore_errors=True)  # of one of which a part is gone
            begun.rename(place)
        except _MadeMeanwhile:
            pass
        except OSError as error:
            raise RunError(f"cannot write {begun} ({error.strerror})") from error
    made = _opened(place)
    assert made is not None, "it was made above"
    return made


class _MadeMeanwhile(Exception):
    """The set is there by now."""


def _key(source: Path, settings: dict[str, Any]) -> str:
    """16 hexadecimal digits that stand for a source as it is now, and settings."""
    files = sorted(_files(source)) if source.is_dir() else [_file(source, "")]
    told = {"version": VERSION, "source": str(source.resolve()), "settings": settings}
    text = json.dumps([told, files], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _files(root: Path) -> Iterator[tuple[str, int, int]]:
    for name in files_below(root):
        if (path := root / name).exists():  # a link may lead nowhere
            yield _file(path, name)


def _file(path: Path, name: str) -> tuple[str, int, int]:
    found = path.stat()
    return name, found.st_size, found.st_mtime_ns


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """One process at a time, where the platform and the disk know locks."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield
        return
    lock, no_link = place.with_name(f"{place.name}.lock"), getattr(os, "O_NOFOLLOW", 0)
    with open(os.open(lock, os.O_WRONLY | os.O_CREAT | no_link, 0o666), "wb") as file:
        with suppress(OSError):  # a share without locks: at worst two do the same work
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


# ---- the folder of a set ------------------------------------------------------------------------


def _keep(data: Data, folder: Path) -> None:
    """Write what belongs to the images that `load` left in a folder."""
    parts: dict[str, Any] = {}
    for name in PARTS:
        images: Tensor | StoredImages = getattr(data, name)
        if name == "test" and data.one_part:
            continue
        parts[name] = _kept_images(images, name, folder)
        labels = getattr(data, f"{name}_labels")
        if labels is not None:
            np.save(folder / f"{name}-labels.npy", labels.numpy())
    known = {part["file"] for part in parts.values()}
    for path in folder.glob("*.rows"):
        if path.name not in known:
            path.unlink()
    told = {
        "version": VERSION,
        "name": data.name,
        "num_levels": data.num_levels,
        "class_names": data.class_names,
        "test_names": data.test_names,
        "remarks": data.remarks,
        "parts": parts,
    }
    (folder / "data.json").write_text(json.dumps(told), encoding="utf-8")


def _kept_images(images: Tensor | StoredImages, name: str, folder: Path) -> dict[str, Any]:
    """Which rows of which file a part is; written, if its levels are in no file as they are."""
    if isinstance(images, Tensor) or images.maps:
        images = _written(images, folder / f"{name}.rows")
    np.save(folder / f"{name}-rows.npy", images.rows)
    return {
        "file": images.file.path.name,
        "event": list(images.file.event),
        "kind": images.file.kind.name,
    }


def _written(images: Tensor | StoredImages, path: Path) -> StoredImages:
    """Images in a file of their own."""
    kind = np.dtype(np.uint8 if images.dtype == torch.uint8 else np.uint16)
    with path.open("wb") as file:
        for block in images.split(BLOCK):
            file.write(np.ascontiguousarray(block.cpu().numpy(), kind).data)
        file.flush()
        os.fsync(file.fileno())
    rows = RowFile(path, tuple(images.shape[1:]), kind)
    return StoredImages(rows, np.arange(len(images)))


def _opened(folder: Path) -> Data | None:
    """The set in a folder; None where there is none that can be read."""
    try:
        told = json.loads((folder / "data.json").read_text(encoding="utf-8"))
        parts = {name: _part(told["parts"][name], name, folder) for name in told["parts"]}
    except (OSError, ValueError, KeyError):
        return None
    train, test = parts["train"], parts.get("test", parts["train"])
    size = sum(part[0].nbytes for part in parts.values()) / GIGA
    line = f"{size:.3f} GB of images are read from {folder}, where they are decoded"
    data = Data(told["name"], train[0], test[0], told["num_levels"], train[1], test[1])
    return replace(
        data,
        class_names=tuple(told["class_names"]),
        test_names=tuple(told["test_names"]),
        remarks=(*told["remarks"], line),
    )


def _part(told: dict[str, Any], name: str, folder: Path) -> tuple[Images, Tensor | None]:
    file = RowFile(folder / told["file"], tuple(told["event"]), np.dtype(told["kind"]))
    images = StoredImages(file, np.load(folder / f"{name}-rows.npy", allow_pickle=False))
    ends = (int(images.rows.max(initial=-1)) + 1) * file.row_bytes
    if file.path.stat().st_size < ends:
        raise ValueError(f"{file.path} was cut short")
    labels = folder / f"{name}-labels.npy"
    return cast(Images, images), torch.from_numpy(
        np.load(labels, allow_pickle=False)
    ) if labels.exists() else None
