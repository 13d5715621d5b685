"""Labels of images as class numbers: the distinct values in order, or no classes at all."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoreflow.data.sources.names import natural
from scoreflow.data.sources.rows import shown

MOST_CLASSES = 10_000
NO_CLASSES = "no classes: "
"""How a remark begins that says why labels were left out."""

_MOST_LISTED, _LISTED_AT_ENDS, _LONGEST_SHOWN = 12, 3, 40


@dataclass(frozen=True)
class Classes:
    """The classes of a data set.

    Attributes:
        labels: of each split (n,) int64, or None for all of them.
        names: of each class, by its number.
        remark: a line: which classes they are, or why there are none; "" for no labels at all.
    """

    labels: list[Tensor] | None = None
    names: tuple[str, ...] = ()
    remark: str = ""


def numbered(
    splits: Sequence[tuple[Sequence[object], Sequence[str]]],
    classes_by: str,
    class_names: tuple[str, ...] = (),
    sure: bool = False,
    remedy: str = "name it by --config.data.labels to take it for them",
) -> Classes:
    """Number the distinct labels of all splits: integers by value, text in natural order.

    Labels never stop a training that needs none: what are no classes of all images is left out,
    and said. None, NaN, -1 and "" mean that an image has no class.

    Args:
        splits: of each one the labels as they stand in the source, and what the images are called;
            of a large set not all.
        classes_by: what the labels are, for the remark: "folder", "column `label`".
        class_names: the names of labels 0, 1, ...; these labels keep their numbers.
        sure: whether the user named the labels; else so many of them as there can be no classes
            of, more than half of the images or than 10,000, are left out.
        remedy: how the user names them.
    """
    values = [[_value(label) for label in labels] for labels, _ in splits]
    flat = [value for split in values for value in split]
    kinds = {type(value) for value in flat if value is not None}
    if not kinds:
        told = "" if classes_by == "folder" else f"{NO_CLASSES}{classes_by} gives no image one"
        return Classes(remark=told)
    reason = _lacking(values, [names for _, names in splits], classes_by)
    reason = reason or _reason(flat, kinds, classes_by, sure, remedy)
    if reason:
        return Classes(remark=NO_CLASSES + reason)
    ordered = _ordered(flat, class_names)
    names = tuple(shown(name) for _, name in ordered)
    number: dict[object, int] = {value: k for k, (value, _) in enumerate(ordered)}
    labels = [torch.tensor([number[v] for v in split], dtype=torch.int64) for split in values]
    plural = "class" if len(names) == 1 else "classes"
    return Classes(labels, names, f"{len(names)} {plural} by {classes_by}: {_listed(names)}")


def _value(label: object) -> object:
    """A label as it is compared: a whole number as an int; None for one that means no class."""
    if isinstance(label, bool):
        return label
    if isinstance(label, float):
        if math.isnan(label):
            return None
        label = int(label) if label.is_integer() else label
    return None if label == -1 or label == "" else label


def _lacking(values: Sequence[Sequence[object]], names: Sequence[Sequence[str]], by: str) -> str:
    """That some images have no class, the first of them by its name; "" if all have one."""
    without = [[k for k, value in enumerate(split) if value is None] for split in values]
    count = sum(map(len, without))
    if count == 0:
        return ""
    first, its_names = next(
        (each[0], own) for each, own in zip(without, names, strict=True) if each
    )
    example = shown(its_names[first]) if first < len(its_names) else f"number {first}"
    total = sum(map(len, values))
    return f"{count} of {total} images have none by {by} ({example}), so all are taken without"


def _reason(flat: Sequence[object], kinds: set[type], by: str, sure: bool, remedy: str) -> str:
    """Why these labels are no classes of the images; "" if they are."""
    if kinds in ({int, str}, {bool, str}, {int, bool}):
        return f"{by} mixes text, numbers or truth values"
    if not kinds <= {int, bool, str}:
        odd = next(value for value in flat if not isinstance(value, int | str))
        value = f"{shown(str(odd))[:_LONGEST_SHOWN]} ({type(odd).__name__})"
        return f"{by} holds {value}, and a class is a whole number or text"
    count = len(set(flat))
    if not sure and (2 * count > len(flat) or count > MOST_CLASSES):
        return (
            f"{by} has {count} distinct values for {len(flat)} images, too many to be classes; "
            f"{remedy}"
        )
    return ""


def _ordered(values: Iterable[object], names: tuple[str, ...]) -> list[tuple[int | str, str]]:
    """The classes in order, each a value and its name; all that have names, if these suffice."""
    texts = {value for value in values if isinstance(value, str)}
    if texts:
        return [(text, text) for text in sorted(texts, key=natural)]
    numbers = sorted({value for value in values if isinstance(value, int)})
    if names and numbers[0] >= 0 and numbers[-1] < len(names):
        return list(enumerate(names))
    return [(number, str(number)) for number in numbers]


def _listed(names: Sequence[str]) -> str:
    if len(names) <= _MOST_LISTED:
        return ", ".join(names)
    return ", ".join((*names[:_LISTED_AT_ENDS], "...", names[-1]))
