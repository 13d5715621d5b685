"""Loading data sets: digits, images from folders and files, the Hugging Face Hub.

An image is stored as levels k in {0, ..., L-1} and trained on as the point

    x = 2 (k + u) / L - 1,   u uniform in [0, 1),

which fills [-1, 1) without gaps: level k owns the bin [2k/L - 1, 2(k+1)/L - 1), of width 2/L.
The mean of log p(x) over u, plus the log of the bin's volume, is then a lower bound on the levels'
log probability (Theis et al. 2016, "A note on the evaluation of generative models", section 3.1),
and a uniform p costs exactly log2(L) bits a dimension. The same formula serves training,
likelihood and (through `quantize`) samples: there is no second scaling.

The `load_` functions are pure and return `Data`. They refuse what they cannot read exactly: what
may be resized or converted is said by a `Reading`, and nothing is dropped.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scoreflow.data.collect import collect, in_levels, in_one_mode
from scoreflow.data.dataset import Data
from scoreflow.data.reading.image_file import describe
from scoreflow.data.reading.settings import AS_IT_IS, Reading
from scoreflow.data.reading.tally import Tally
from scoreflow.data.sources.folders import suffix_of
from scoreflow.data.sources.hub import hub_data
from scoreflow.data.sources.labels import NO_CLASSES, Classes, numbered
from scoreflow.data.sources.places import FILES, READ, what_is_at
from scoreflow.data.sources.rows import Found, Row, Rows, joined, shown, some
from scoreflow.data.split import check_cut, cut
from scoreflow.data.stored.images import Images
from scoreflow.errors import RequestError
from scoreflow.paths import user_path

HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")

MOST_NAMES = 100_000
"""So many images of a set keep their names; those of a larger one are numbers alone."""


# ---- loaders ------------------------------------------------------------------------------------


def load_digits(test_fraction: float = 0.2, split_seed: int = 0) -> Data:
    """The 1797 8x8 digits inside scikit-learn: 17 levels (0..16), 10 classes, no download."""
    from sklearn import datasets  # half a second that only this data set should pay for

    bunch = datasets.load_digits()
    levels = torch.from_numpy(bunch.images.astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    whole = Data("digits", levels, levels, 17, labels, labels, tuple("0123456789"))
    return cut(whole, test_fraction, split_seed)


def no_images(shape: tuple[int, ...]) -> Data:
    """No data, for a network that knows its own shape: 256 levels, no image in either part.

    Args:
        shape: (C, H, W) of the images that there would be.
    """
    if not all(shape):
        raise RequestError(
            "data.name = none needs model.shape, the (C, H, W) of the network's images, got "
            f"{tuple(shape)}: name the data"
        )
    empty = torch.empty(0, *shape, dtype=torch.uint8)
    return Data("none", empty, empty, 256, None, None)


def load_images(
    path_or_name: str,
    test_fraction: float = 0.2,
    split_seed: int = 0,
    whole: bool = False,
    reading: Reading = AS_IT_IS,
    labels: str = "auto",
) -> Data:
    """Images from a folder or a file of a kind in `sources.places`, or the Hugging Face Hub.

    The test split is held out, or else the validation split, or else a part of the images that a
    seed chooses. Labels are class numbers where every image has a class, and left out otherwise:
    a remark says why.

    A network that was trained elsewhere has no training images here. What measures it, `whole`,
    is a test split where there is one, or else every image; and where there is no training split
    beside it, the same images are both parts.

    Args:
        path_or_name: a path that exists; otherwise, unless it is written like a path, the Hub's
            `name` or `owner/name`.
        test_fraction: share held out of one pool, in [0, 1); with 0 it is both parts.
        split_seed: seed of that split.
        whole: hold nothing out of one pool.
        reading: how image files are read.
        labels: where the classes are: "auto", "none", "folders", or a column's name.
    """
    tally = Tally(reading)
    data = _loaded(path_or_name, test_fraction, split_seed, whole, tally, labels)
    return in_levels(data, tally)


def _loaded(
    path_or_name: str,
    test_fraction: float,
    split_seed: int,
    whole: bool,
    tally: Tally,
    labels: str,
) -> Data:
    """The same as values of pixels, which are not yet levels."""
    check_cut(test_fraction, split_seed)
    found = _found(path_or_name, labels)
    if whole:
        return _measuring(found, tally)
    trained_on = _training(found)
    if held_out := next((part for part in ("test", "validation") if part in found.splits), ""):
        return _of_parts(found, tally, [trained_on], [held_out])
    return cut(_of_parts(found, tally, list(found.splits)), test_fraction, split_seed)


def load_whole(path_or_name: str, reading: Reading = AS_IT_IS, labels: str = "none") -> Data:
    """All images of a data set, whatever its splits, as both parts; with their names.

    Args:
        path_or_name: as in `load_images`, or "digits".
        reading: how image files are read.
        labels: where the classes are, as in `load_images`.
    """
    if path_or_name == "digits":
        digits = load_digits()
        images = torch.cat([digits.train, digits.test])
        return Data("digits", images, images, digits.num_levels, None, None)
    found, tally = _found(path_or_name, labels), Tally(reading)
    return in_levels(_of_parts(found, tally, list(found.splits)), tally)


# ---- which splits -------------------------------------------------------------------------------


def _found(path_or_name: str, labels: str) -> Found:
    """What lies at a path, or on the Hub."""
    path = user_path(path_or_name, "the data's path")
    if path_or_name and path.exists():
        return what_is_at(path, labels)
    if not HUB_NAME.fullmatch(path_or_name) or suffix_of(path.name) in FILES:
        raise RequestError(
            f"no such dataset path: {path_or_name!r} (looked in {Path.cwd()}); pass {READ}; or a "
            "name on the Hugging Face Hub"
        )
    return hub_data(path_or_name, labels)


def _training(found: Found) -> str:
    """The split to train on; it has no name where the others alone have one."""
    for part in ("train", ""):
        if part in found.splits:
            return part
    there = " and ".join(found.splits)
    raise RequestError(
        f"{found.root or found.name} has a split named {there}, but none to train on: add a train "
        "split, or pass a folder with its images alone, which is then split by seed"
    )


def _measuring(found: Found, tally: Tally) -> Data:
    """What measures a network: a test split, or else every image."""
    if "test" not in found.splits:
        return _of_parts(found, tally, list(found.splits))
    if "train" in found.splits:
        return _of_parts(found, tally, ["train"], ["test"])
    return _of_parts(found, tally, ["test"])


# ---- reading ------------------------------------------------------------------------------------


@dataclass
class _Split:
    """A split that has been read."""

    levels: Images = field(default_factory=lambda: torch.empty(0))
    labels: list[object] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    files: set[str] = field(default_factory=set)


def _read(rows: Rows, root: str, tally: Tally) -> _Split:
    """Decode a split; its labels and names are kept as its rows pass by."""
    found = _Split()

    def passing() -> Iterator[Row]:
        for name, source, label in rows[0]:
            found.labels.append(label)
            if len(found.names) < MOST_NAMES:
                found.names.append(shown(name.removeprefix(root)))
            if isinstance(source, Path) and str(source) != name:
                found.files.add(str(source).removeprefix(root))
            yield name, source, None

    found.levels = collect(passing(), *rows[1:], tally)
    return found


def _of_parts(found: Found, tally: Tally, train: list[str], test: list[str] | None = None) -> Data:
    """Data of some splits; of one part, the same images in both, without a second."""
    parts = [
        _read(joined([found.splits[split] for split in splits]), found.root, tally)
        for splits in (train, test)
        if splits is not None
    ]
    for part, levels in zip(
        parts, in_one_mode([each.levels for each in parts], tally.reading), strict=True
    ):
        part.levels = levels
    if parts[0].levels.shape[1:] != parts[-1].levels.shape[1:]:
        raise RequestError(
            f"{found.name}: {' and '.join((*train, *(test or [])))} must share one size and mode, "
            f"got {' and '.join(describe(each.levels.shape[1:]) for each in parts)}"
        )
    classes = _classes(found, parts)
    labels: list[Tensor] | list[None] = classes.labels or [None]
    unread = [split for split in found.splits if split not in (*train, *(test or train))]
    return Data(
        found.name,
        parts[0].levels,
        parts[-1].levels,
        256,
        labels[0],
        labels[-1],
        class_names=classes.names,
        test_names=tuple(parts[-1].names) if len(parts[-1].names) == len(parts[-1].levels) else (),
        remarks=(
            *found.remarks,
            *_said(found, parts, unread, test),
            *filter(None, [classes.remark]),
        ),
    )


def _classes(found: Found, parts: list[_Split]) -> Classes:
    if not found.classes_by:
        return Classes(remark=found.unlabelled and NO_CLASSES + found.unlabelled)
    told = [(part.labels, part.names) for part in parts]
    return numbered(told, found.classes_by, found.class_names, found.sure)


def _said(
    found: Found, parts: list[_Split], unread: list[str], test: list[str] | None
) -> Iterator[str]:
    """A line each: which split is held out, and what was left out."""
    if test is not None and test != ["test"]:
        yield f"{found.name}: the split {' and '.join(test)} is held out, for want of a test split"
    for split in unread:
        images = f"({found.splits[split][1]} images)"
        yield f"{found.name}: its split {split or 'without a name'} {images} is not read"
    used = set().union(*(part.files for part in parts))
    others = [name for name in found.left_out if name not in used]
    if others:
        one = len(others) == 1
        files = "1 file that is no image" if one else f"{len(others)} files that are no images"
        yield f"{found.name}: left out {files} of it: {some(others)}"
