"""Loading data sets: digits, folders of images or Parquet files, the Hugging Face Hub.

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

import math
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scoreflow.data.collect import Split, collect, in_levels, in_one_mode
from scoreflow.data.dataset import Data
from scoreflow.data.reading.image_file import describe
from scoreflow.data.reading.settings import AS_IT_IS, Reading
from scoreflow.data.reading.tally import Tally
from scoreflow.data.sources.folders import image_files
from scoreflow.data.sources.hub import hub_rows, hub_splits
from scoreflow.data.sources.parquet import parquet_rows
from scoreflow.errors import RequestError

HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


# ---- loaders ------------------------------------------------------------------------------------


def load_digits(test_fraction: float = 0.2, split_seed: int = 0) -> Data:
    """The 1797 8x8 digits inside scikit-learn: 17 levels (0..16), 10 classes, no download."""
    from sklearn import datasets  # half a second that only this data set should pay for

    bunch = datasets.load_digits()
    levels = torch.from_numpy(bunch.images.astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    return _cut("digits", (levels, labels), 17, test_fraction, split_seed)


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
    """Images from a folder of parquet files, a folder of image files, or the Hugging Face Hub.

    A network that was trained elsewhere has no training images here. What measures it, `whole`,
    is a test split where there is one, or else every image; and where there is no training split
    beside it, the same images are both parts.

    Args:
        path_or_name: a folder that exists; otherwise, unless it is written like a path, the Hub's
            `name` or `owner/name`.
        test_fraction: share held out where the folder is one pool; in (0, 1).
        split_seed: seed of that split.
        whole: hold nothing out of one pool.
        reading: how image files are read.
        labels: where the classes are: "auto", "none", "folders", or a column's name.
    """
    return _load_images(path_or_name, test_fraction, split_seed, whole, Tally(reading))


def _load_images(
    path_or_name: str, test_fraction: float, split_seed: int, whole: bool, tally: Tally
) -> Data:
    path = Path(path_or_name).expanduser()
    if path_or_name and path.is_dir():
        if any(path.glob("*.parquet")):
            return in_levels(load_parquet(path, whole=whole, tally=tally), tally)
        return in_levels(load_folder(path, test_fraction, split_seed, whole, tally), tally)
    if path_or_name and path.exists():
        raise RequestError(f"a dataset is a folder, got the file {path}: pass the folder it is in")
    if not HUB_NAME.fullmatch(path_or_name):
        raise RequestError(
            f"no such dataset path: {path_or_name!r}; pass a folder of images or of parquet files"
        )
    return in_levels(load_hub(path_or_name, whole=whole, tally=tally), tally)


def load_pool(path_or_name: str, tally: Tally | None = None) -> Tensor:
    """All images of a data set, whatever its splits: levels (n, C, H, W).

    Args:
        path_or_name: as in `load_images`, or "digits".
        tally: says how files are read, and counts what is found in them.
    """
    if path_or_name == "digits":
        whole = load_digits()
        return torch.cat([whole.train, whole.test])
    path, tally = Path(path_or_name).expanduser(), tally or Tally()
    if path.is_dir() and not any(path.glob("*.parquet")):
        pixels, _ = _folder_split(image_files(path), [], tally)
        return tally.scale().levels(pixels)
    whole = _load_images(path_or_name, 0.2, 0, False, tally)
    return torch.cat([whole.train, whole.test])


def load_parquet(
    path: str | Path,
    train_split: str = "train",
    test_split: str = "test",
    whole: bool = False,
    tally: Tally | None = None,
) -> Data:
    """A folder of {split}-*.parquet in the Hugging Face image schema, 256 levels.

    Columns: `image` or `img`, a struct {bytes, path} whose bytes are an image file; if there are
    labels, `label`. With `whole`, splits are as in `load_images`.
    """
    folder = _folder(path)
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise RequestError(f"reading {path} needs pyarrow: pip install pyarrow") from error
    names = [train_split, test_split]
    if whole:
        names = _wanted([name for name in names if any(folder.glob(f"{name}-*.parquet"))], "")
    tally = tally or Tally()
    splits = [
        collect(*parquet_rows(parquet, folder, each), tally.reading, tally) for each in names
    ]
    return _join(folder.resolve().name, *in_one_mode(splits, tally.reading))


def load_hub(
    name: str,
    train_split: str = "train",
    test_split: str = "test",
    whole: bool = False,
    tally: Tally | None = None,
) -> Data:
    """An image data set of the Hugging Face Hub by its `name` or `owner/name`, 256 levels.

    With `whole`, splits are as in `load_images`.
    """
    try:
        import datasets
    except ImportError as error:
        raise RequestError(
            f"{name!r} is no folder here, so it names a Hugging Face Hub dataset, which needs the"
            " datasets package: pip install datasets, or pass a folder"
        ) from error
    names = [train_split, test_split]
    if whole:
        there = hub_splits(datasets, name)
        names = _wanted([each for each in names if each in there], "+".join(there))
    tally = tally or Tally()
    splits = [collect(*hub_rows(datasets, name, each), tally.reading, tally) for each in names]
    return _join(name, *in_one_mode(splits, tally.reading))


def load_folder(
    path: str | Path,
    test_fraction: float = 0.2,
    split_seed: int = 0,
    whole: bool = False,
    tally: Tally | None = None,
) -> Data:
    """Your own image files, 256 levels: path/train/** and path/test/**, or one pool split by seed.

    Files are taken in the order of their names (hidden ones are left out). Where they lie in
    sub-folders, the first sub-folder is the class, numbered in the order of the classes' names.
    With `whole`, nothing is split, and one of the two folders is enough.
    """
    folder = _folder(path)
    parts = [folder / part for part in ("train", "test") if (folder / part).is_dir()]
    if len(parts) == 1 and not whole:
        missing = {"train": "test", "test": "train"}[parts[0].name]
        raise RequestError(
            f"{folder} has {parts[0].name}/ but no {missing}/: add it, or keep all images in one"
            " pool (no folder named train or test), which is then split by seed"
        )
    found = [image_files(part) for part in parts or [folder]]
    classes = sorted({name for files in found for _, name in files if name is not None})
    tally = tally or Tally()
    splits = in_one_mode([_folder_split(each, classes, tally) for each in found], tally.reading)
    if parts or whole:
        return _join(folder.resolve().name, *splits)
    return _cut(folder.resolve().name, splits[0], 256, test_fraction, split_seed)


# ---- helpers of the loaders ---------------------------------------------------------------------


def _wanted(there: list[str], everything: str) -> list[str]:
    """Which splits to read: of train and test what there is, if test is; or else all as one."""
    return there if there and there[-1] != "train" else [everything]


def _folder(path: str | Path) -> Path:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise RequestError(f"no such dataset path: {str(path)!r}; pass a folder of images")
    return folder


def _folder_split(files: list[tuple[Path, str | None]], classes: list[str], tally: Tally) -> Split:
    number = {name: index for index, name in enumerate(classes)}
    rows = ((str(path), path, None if name is None else number.get(name)) for path, name in files)
    return collect(rows, len(files), "image files", tally.reading, tally)


def _join(name: str, train: Split, test: Split | None = None) -> Data:
    """Data of two splits that must look alike, or of one that is both."""
    test = train if test is None else test
    if train[0].shape[1:] != test[0].shape[1:]:
        raise RequestError(
            f"{name}: train and test must share one size and mode, got"
            f" {describe(train[0].shape[1:])} and {describe(test[0].shape[1:])}"
        )
    if (train[1] is None) != (test[1] is None):
        raise RequestError(f"{name}: train and test must both have labels or neither, got one")
    return Data(name, train[0], test[0], 256, train[1], test[1])


def _cut(name: str, pool: Split, num_levels: int, test_fraction: float, split_seed: int) -> Data:
    """Data of one pool: a random permutation of which the first part is the test set."""
    levels, labels = pool
    if not 0 < test_fraction < 1:
        raise RequestError(f"test_fraction must lie in (0, 1), got {test_fraction}")
    if split_seed < 0:
        raise RequestError(f"split_seed must be 0 or more, got {split_seed}")
    num_test = math.ceil(test_fraction * len(levels) - 1e-9)
    if num_test == len(levels):
        raise RequestError(
            f"{name}: test_fraction {test_fraction} of {len(levels)} images leaves none to train"
            " on; lower it or add images"
        )
    order = torch.from_numpy(np.random.default_rng(split_seed).permutation(len(levels)))
    test, train = order[:num_test], order[num_test:]
    pick = (lambda rows: None) if labels is None else (lambda rows: labels[rows])
    return Data(name, levels[train], levels[test], num_levels, pick(train), pick(test))
