"""Data from Python: arrays, tensors, torch data sets, with labels or without.

    (n, H, W), (n, C, H, W), (n, H, W, C)   images: integer levels, or floats exactly k/255
    (n, D)                                  vectors of real numbers
    (either, labels)                        with the class of each
    a sequence, such as a torch Dataset     of images, or of (image, label)

The last axis is that of channels where it has 1 to 4 entries and the second has not; else the
second is. An image of a sequence is a PIL image, a tensor (C, H, W) or an array (H, W[, C]).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoreflow.data.dataset import Data
from scoreflow.data.levels import MOST_LEVELS, dtype_of
from scoreflow.data.reading.conversion import alpha_of
from scoreflow.data.reading.floats import floats_refused
from scoreflow.data.reading.header import orientation_of
from scoreflow.data.sources.labels import NO_CLASSES, Classes, numbered
from scoreflow.data.split import check_cut, cut
from scoreflow.data.vectors import remarks_of
from scoreflow.errors import RequestError

CHANNELS = range(1, 5)
"""How many entries an axis has that is taken for that of channels."""
MODES = {"1": 2, "L": 256, "LA": 256, "RGB": 256, "RGBA": 256, "I;16": 0}
"""Modes of PIL images whose pixels are levels, and how many; 0 where that must be said."""
WANTED = (
    "an array or tensor (n, C, H, W), (n, H, W, C), (n, H, W) or (n, D), a pair (data, labels), "
    "or a sequence of images or of (image, label) such as a torch Dataset"
)
SIGNED = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}
"""Types that torch does not compute in, and what holds their values."""
WHITE = 255
"""Of what torchvision's ToTensor divides by."""


@dataclass(frozen=True)
class Part:
    """Data of one part, before they are split.

    Attributes:
        values: levels (n, C, H, W), or vectors (n, D) float32.
        num_levels: L; None for vectors.
        labels: of each, as they were given; None where there are none.
        reason: why there are none, where that is worth a line.
        sure: whether they came beside the data as a whole, and not item by item.
    """

    values: Tensor
    num_levels: int | None
    labels: list[object] | None
    reason: str = ""
    sure: bool = False


def given_data(
    data: object,
    data_test: object = None,
    num_levels: int = 0,
    test_fraction: float = 0.2,
    split_seed: int = 0,
) -> Data:
    """A data set from what a program holds, under the name "given".

    Args:
        data: as at the head of this file.
        data_test: the held-out part, of the same kind; None to cut it from the other.
        num_levels: L of images; 0 for 256 of 8-bit ones, 2 of boolean ones.
        test_fraction: share held out if `data_test` is None, in [0, 1).
        split_seed: seed of that cut.

    Raises:
        RequestError: they are none of these, or the two parts do not fit each other. Labels are
            no reason: what are no classes is left out, and said.
    """
    check_cut(test_fraction, split_seed)
    train = _part(data, num_levels, "data")
    parts = [train] if data_test is None else [train, _part(data_test, num_levels, "data_test")]
    _refuse_unlike(parts[0], parts[-1])
    classes = _classes(parts)
    labels: list[Tensor] | list[None] = classes.labels or [None]
    remarks = remarks_of("data", train.values.numpy()) if train.num_levels is None else ()
    if data_test is not None or not test_fraction:  # else the cut copies what is the caller's
        parts = [replace(part, values=part.values.clone()) for part in parts]
    found = Data(
        "given",
        parts[0].values,
        parts[-1].values,
        train.num_levels,
        labels[0],
        labels[-1],
        class_names=classes.names,
        remarks=(*remarks, *filter(None, [classes.remark])),
    )
    return cut(found, test_fraction, split_seed) if data_test is None else found


def no_data(shape: tuple[int, ...], num_levels: int) -> Data:
    """What data looked like that are not here: none in either part.

    Args:
        shape: of a datum: (C, H, W), or (D,).
        num_levels: L of images.
    """
    vectors = len(shape) == 1
    dtype = torch.float32 if vectors else dtype_of(num_levels)
    empty = torch.empty(0, *shape, dtype=dtype)
    return Data("given", empty, empty, None if vectors else num_levels, None, None)


def _refuse_unlike(train: Part, test: Part) -> None:
    sides = [(tuple(p.values.shape[1:]), p.num_levels) for p in (train, test)]
    if sides[0] != sides[1]:
        said = [f"{shape}, {levels or 'no'} levels" for shape, levels in sides]
        raise RequestError(f"data and data_test must be alike, got {said[0]}; and {said[1]}")


# ---- what is given, as one array ----------------------------------------------------------------


def _part(given: object, num_levels: int, name: str) -> Part:
    """One part as levels or vectors, with labels as they were given."""
    pair = isinstance(given, tuple) and len(given) == 2
    values, labels = given if isinstance(given, tuple) and pair else (given, None)
    array, deep = _array(values), _is_deep(values)
    if array is None:
        if pair or isinstance(values, Mapping | str | bytes) or not _is_sequence(values):
            raise RequestError(f"{name} must be {WANTED}, got {type(values).__name__}")
        array, labels, own, deep = _gathered(values, name)
        num_levels = num_levels or own
    if not array.ndim or not len(array):
        raise RequestError(f"{name} must hold a datum, got none")
    found, reason = _labels(labels, len(array), name)
    if array.ndim == 2:
        return Part(_vectors(array, name), None, found, reason, pair)
    if deep and not num_levels:
        raise RequestError(
            f"{name}: images of 16 bits (uint16) need the number of their levels, as "
            f"overrides={{'data.levels': {MOST_LEVELS}}}, or the number that all values are below"
        )
    images, levels = _levels(array, num_levels, name)
    return Part(_channels_second(images, name), levels, found, reason, pair)


def _is_sequence(values: object) -> bool:
    return hasattr(values, "__getitem__") and hasattr(values, "__len__")


def _is_deep(values: object) -> bool:
    """Whether these are 16-bit values, which do not say how many levels they have."""
    if isinstance(values, np.ndarray):
        return bool(values.dtype.kind == "u" and values.dtype.itemsize == 2)
    return isinstance(values, Tensor) and values.dtype == torch.uint16


def _array(values: object) -> Tensor | None:
    """An array or a tensor as a tensor; None for anything else.

    Raises:
        RequestError: its values are no numbers.
    """
    if not isinstance(values, Tensor | np.ndarray):
        return None
    if isinstance(values, np.ndarray):
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        if not values.flags.writeable or min(values.strides, default=0) < 0:
            values = values.copy()  # torch warns of the former, and knows no negative strides
    try:
        found = torch.as_tensor(values).detach().cpu()
    except (TypeError, ValueError) as error:
        raise RequestError(f"data must be numbers, got an array of {values.dtype}") from error
    return found.to(SIGNED.get(found.dtype, found.dtype))


def _gathered(
    items: Any,  # noqa: ANN401
    name: str,
) -> tuple[Tensor, list[object] | None, int, bool]:
    """Each item of a sequence once.

    Returns:
        Images or vectors; labels; L, 0 where nothing says it; whether L must be said.
    """
    images, own, deep = torch.empty(0), 0, False
    labels: list[object] = []
    for k in range(len(items)):
        image, label = _item(items[k], f"{name}[{k}]")
        deep = deep or _is_deep(image) or getattr(image, "mode", "") == "I;16"
        values, levels = _image(image, f"{name}[{k}]")
        if k == 0:
            images = torch.empty(len(items), *values.shape, dtype=values.dtype)
        if (values.shape, values.dtype) != (images.shape[1:], images.dtype):
            raise RequestError(
                f"{name} must be of one shape and dtype, got {tuple(images.shape[1:])} "
                f"{images.dtype} in {name}[0] and {tuple(values.shape)} {values.dtype} in "
                f"{name}[{k}]: convert them first"
            )
        images[k] = values
        labels.append(label)
        own = max(own, levels)
    return images, None if all(each is None for each in labels) else labels, own, deep


def _item(item: object, name: str) -> tuple[object, object]:
    """Image and label of an item of a data set; the label may be None."""
    if isinstance(item, Mapping):
        for key in ("image", "img", "x"):
            if key in item:
                return item[key], item.get("label")
        raise RequestError(f"{name} has no `image`, got the keys {', '.join(map(str, item))}")
    if isinstance(item, tuple | list):
        if len(item) not in (1, 2):
            raise RequestError(f"{name} must be an image or (image, label), got {len(item)} items")
        return item[0], item[1] if len(item) == 2 else None
    return item, None


def _image(image: object, name: str) -> tuple[Tensor, int]:
    """An image or a vector as a tensor, channels first, and L where its mode says it."""
    levels, mode = 0, getattr(image, "mode", None)
    if isinstance(mode, str):  # a PIL image
        if mode not in MODES:
            raise RequestError(
                f"{name}: PIL images must have one of the modes {', '.join(MODES)}, got {mode}; "
                "convert it, as by image.convert('RGB')"
            )
        _refuse_what_viewers_heed(image, name)
        image, levels = np.asarray(image), MODES[mode]
    found = _array(image)
    if found is None or found.ndim not in (1, 2, 3):
        shape = "" if found is None else f" of shape {tuple(found.shape)}"
        raise RequestError(
            f"{name} must be a PIL image, a tensor or an array, got {type(image).__name__}{shape}"
        )
    if isinstance(image, np.ndarray) and found.ndim == 3:
        found = found.permute(2, 0, 1)
    return found[None] if found.ndim == 2 else found, levels


def _refuse_what_viewers_heed(image: Any, name: str) -> None:  # noqa: ANN401  # a PIL image
    """Refuse a picture that is shown turned, or through which one sees, as of a file."""
    if orientation_of(image) != 1:
        raise RequestError(
            f"{name} has an EXIF orientation that turns or mirrors it: turn it first, by "
            "PIL.ImageOps.exif_transpose(image)"
        )
    if "transparency" not in image.info:
        return
    alpha = alpha_of(image)
    if alpha is None or alpha.getextrema()[0] != 255:
        raise RequestError(
            f"{name} has transparent pixels (a transparent colour of mode {image.mode}): paste it "
            "on a background, or keep them as a channel by image.convert('RGBA')"
        )


# ---- levels, vectors, labels --------------------------------------------------------------------


def _channels_second(images: Tensor, name: str) -> Tensor:
    """(n, C, H, W) of any of the three layouts of images."""
    if images.ndim == 3:
        return images[:, None].contiguous()
    if images.ndim != 4:
        raise RequestError(f"{name} must be {WANTED}, got the shape {tuple(images.shape)}")
    last = images.shape[3] in CHANNELS and images.shape[1] not in CHANNELS
    return (images.permute(0, 3, 1, 2) if last else images).contiguous()


def _levels(array: Tensor, num_levels: int, name: str) -> tuple[Tensor, int]:
    """Integer levels in their dtype, and L."""
    if array.is_complex():
        raise RequestError(f"{name} must be real numbers, got {array.dtype}")
    if array.is_floating_point():
        array = _of_to_tensor(array, name)
    if array.dtype == torch.bool:
        num_levels = num_levels or 2
    low, high = int(array.min()), int(array.max())
    if not num_levels and array.dtype != torch.uint8 and not 0 <= low <= high <= WHITE:
        raise RequestError(
            f"{name}: images of {array.dtype} with values in {low}..{high} need the number of "
            f"their levels, as overrides={{'data.levels': {MOST_LEVELS}}} for 16 bits"
        )
    levels = num_levels or WHITE + 1
    if low < 0 or high >= levels:
        raise RequestError(
            f"{name}: images must be levels in 0..{levels - 1}, got {low}..{high}; set "
            "data.levels to their number"
        )
    return array.to(dtype_of(levels)), levels


def _of_to_tensor(array: Tensor, name: str) -> Tensor:
    """Levels 0..255 of floats that torchvision's ToTensor made of them: k/255, nothing else."""
    levels = (array * WHITE).round()
    exact = [(levels.to(dtype) / WHITE).to(array.dtype) for dtype in (torch.float32, array.dtype)]
    known = any(torch.equal(array, each) for each in exact)
    if not known or float(levels.min()) < 0 or float(levels.max()) > WHITE:
        wide = array.double() if array.dtype == torch.bfloat16 else array
        raise RequestError(f"{name}: {floats_refused(wide.numpy())}")
    return levels.long()


def _vectors(array: Tensor, name: str) -> Tensor:
    """Real vectors, float32."""
    if array.is_complex() or array.dtype == torch.bool:
        raise RequestError(f"{name} must be real numbers, got {array.dtype}")
    values = array.float()
    if not bool(values.isfinite().all()):
        row = int((~values.isfinite()).any(1).nonzero()[0])
        raise RequestError(f"{name}: vectors must be finite in float32, got one in row {row}")
    return values.contiguous()


def _labels(
    labels: Any,  # noqa: ANN401
    count: int,
    name: str,
) -> tuple[list[object] | None, str]:
    """One label a datum, as Python values; or None, and why."""
    if labels is None:
        return None, ""
    try:
        given = [_plain(each) for each in (labels.tolist() if _has_list(labels) else labels)]
    except TypeError:  # nothing that can be gone through
        return None, f"the labels of {name} are a {type(labels).__name__}, and not one a datum"
    if isinstance(labels, Mapping) or len(given) != count:
        return None, f"{name} has {count} data and {len(given)} labels"
    flat = [each[0] if isinstance(each, list) and len(each) == 1 else each for each in given]
    if isinstance(flat[0], list):
        remedy = "; one-hot labels are made class numbers by labels.argmax(1)"
        return None, f"the labels of {name} are {len(flat[0])} values a datum, and not one{remedy}"
    return flat, ""


def _plain(label: Any) -> object:  # noqa: ANN401
    """A label as Python has it."""
    found: object = label.tolist() if _has_list(label) else label
    return found


def _has_list(values: object) -> bool:
    """Whether these are of numpy or torch."""
    return isinstance(values, Tensor | np.ndarray | np.generic)


def _classes(parts: list[Part]) -> Classes:
    """The classes of all parts, or why they have none."""
    names = ("data", "data_test")
    reason = next((part.reason for part in parts if part.reason), "")
    bare = [part.labels is None for part in parts]
    if not reason and any(bare) and not all(bare):
        reason = f"{names[bare.index(True)]} has no labels, and {names[bare.index(False)]} has"
    if reason:
        return Classes(remark=NO_CLASSES + reason)
    if all(bare):
        return Classes()
    told = [
        (part.labels or [], [f"{name}[{k}]" for k in range(len(part.values))])
        for part, name in zip(parts, names, strict=False)
    ]
    sure, remedy = all(part.sure for part in parts), "pass (data, labels) to take them for classes"
    return numbered(told, "label", sure=sure, remedy=remedy)
