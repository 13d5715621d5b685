"""Classes by number or by name, as a user asks for them."""

from dataclasses import replace

import torch
from torch import Tensor

from scoreflow.data.dataset import Data
from scoreflow.data.stored.images import Images, chosen
from scoreflow.errors import RequestError, did_you_mean

LISTED = 12
"""Classes that a message names."""


def names_of(data: Data, known: int) -> tuple[str, ...]:
    """The names of `known` classes; none where the data name others, or none.

    Args:
        data: that may name its classes.
        known: how many classes there are.
    """
    return data.class_names if len(data.class_names) == known else ()


def numbers_of(asked: int | str, known: int, names: tuple[str, ...], key: str) -> tuple[int, ...]:
    """The classes that a text says: one, or several with commas between.

    A number is that of a class, unless all classes are called by whole numbers, as folders 1, 2
    and 10 are: then it is a name, and the class is the one that the user sees under it.

    Args:
        asked: a number, a name, or several.
        known: how many classes there are.
        names: of the classes; empty where they have none.
        key: of the config, for messages.

    Raises:
        RequestError: there is no such class.
    """
    if asked in names or "," not in str(asked):  # a name may have a comma
        return (_number(asked, known, names, key),)
    return tuple(_number(part.strip(), known, names, key) for part in str(asked).split(","))


def of_classes(data: Data, numbers: tuple[int, ...]) -> Data:
    """The part of labelled data that is of some classes; all of data without labels."""
    if data.train_labels is None or data.test_labels is None:
        return data
    (train, train_labels), (test, test_labels) = (
        _rows_of(values, labels, numbers)
        for values, labels in ((data.train, data.train_labels), (data.test, data.test_labels))
    )
    if data.one_part:
        test, test_labels = train, train_labels
    return replace(
        data,
        train=train,
        test=test,
        train_labels=train_labels,
        test_labels=test_labels,
        test_names=(),
    )


def _rows_of(values: Images, labels: Tensor, numbers: tuple[int, ...]) -> tuple[Images, Tensor]:
    """Those of some classes; of stored ones none is read."""
    rows = torch.isin(labels, torch.tensor(numbers, device=labels.device)).nonzero()[:, 0]
    where = rows.to(values.device) if isinstance(values, Tensor) else rows.cpu()
    return chosen(values, where), labels[rows]


def as_asked(number: int, names: tuple[str, ...]) -> int | str:
    """What `numbers_of` makes this number of."""
    return names[number] if number < len(names) else number


def _number(asked: int | str, known: int, names: tuple[str, ...], key: str) -> int:
    text = str(asked)
    if text in names:
        return names.index(text)
    numbered = tuple(map(str, range(known)))
    numbers_are_names = names not in ((), numbered) and all(name.isdecimal() for name in names)
    if text.removeprefix("-").isdecimal() and not numbers_are_names:
        if 0 <= int(text) < known:
            return int(text)
        raise RequestError(f"{key} must lie in 0..{known - 1} (-1 for none), got {text}")
    if not names:
        raise RequestError(
            f"{key} must be a number in 0..{known - 1} (-1 for none), for the classes here have "
            f"no names, got {text!r}"
        )
    shown = ", ".join(names[:LISTED]) + (f" and {known - LISTED} more" if known > LISTED else "")
    hint = did_you_mean(text, [name.lower() for name in names])
    raise RequestError(
        f"{key}: no class is called {text!r}; {f'{hint} ' if hint else ''}they are {shown}"
    )
