"""A data set with a held-out part, and the order in which training sees it."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoreflow.data.stored.images import Images
from scoreflow.errors import RequestError

BLOCK = 4096
"""Data that are hashed at a time."""


@dataclass(frozen=True)
class Data:
    """A data set with a held-out part.

    Args:
        name: what results and pictures call it.
        train: (n, C, H, W) levels in 0..num_levels-1, uint8, or int32 where they are more than
            256, in memory or on the disk; (n, D) float32 when that is None.
        test: the same for the held-out part.
        num_levels: L, or None for real-valued data.
        train_labels: (n,) int64, or None.
        test_labels: (n,) int64, or None.
        class_names: the name of each class, by its number; empty where they have none.
        test_names: what each held-out datum is called, its file say; empty where none has a name.
        remarks: a line each for what is to be known of how they were read.
    """

    name: str
    train: Images
    test: Images
    num_levels: int | None
    train_labels: Tensor | None
    test_labels: Tensor | None
    class_names: tuple[str, ...] = ()
    test_names: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def accept(self, values: Tensor | np.ndarray[Any, Any]) -> Tensor:
        """Values like those of this data set, on its device and of its dtype.

        Args:
            values: integer levels (n, C, H, W) in 0..num_levels-1, n >= 1; or vectors (n, D).

        Raises:
            RequestError: they are of another shape, no integers, or out of range.
        """
        own = self.train
        values = _as_tensor(values)
        wanted = tuple(own.shape[1:])
        if values.ndim != own.ndim or tuple(values.shape[1:]) != wanted or len(values) == 0:
            sides = ", ".join(map(str, wanted))
            raise RequestError(f"data must be (n, {sides}), n >= 1, got {tuple(values.shape)}")
        if self.num_levels is None:
            return values.to(own.device, own.dtype)
        if values.is_floating_point():
            raise RequestError(
                f"images must be integer levels in 0..{self.num_levels - 1}, got {values.dtype}: "
                "the dequantization belongs to the likelihood"
            )
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= self.num_levels:
            raise RequestError(
                f"images must be levels in 0..{self.num_levels - 1}, got {low}..{high}"
            )
        return values.to(own.device, own.dtype)

    @property
    def one_part(self) -> bool:
        """Whether both parts are the same data, so that nothing is held out."""
        return len(self.train) > 0 and self.train is self.test

    @property
    def is_toy(self) -> bool:
        """Whether they are the mixture of `data.toy`; a folder of images may be called so too."""
        return self.name == "toy" and self.num_levels is None

    @property
    def num_classes(self) -> int:
        """All that have a name or a datum in either part; 0 for data without labels."""
        if self.train_labels is None:
            return 0
        parts = [self.train_labels, self.test_labels]
        greatest = [int(each.max()) for each in parts if each is not None and len(each)]
        return max(len(self.class_names), max(greatest, default=-1) + 1)

    @property
    def empty_classes(self) -> tuple[int, ...]:
        """Those without a training datum, which nothing can be learned of."""
        if self.train_labels is None or not len(self.train_labels):
            return ()
        counts = torch.bincount(self.train_labels, minlength=self.num_classes)
        return tuple((counts == 0).nonzero()[:, 0].tolist())


def _as_tensor(values: object) -> Tensor:
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = type(values).__name__
        raise RequestError(f"data must be a tensor or an array of numbers, got {kind}") from error


@dataclass(frozen=True)
class Batches:
    """Addressed data order: what step k sees is a pure function of (seed, k).

    Item p = step * batch_size + j of the endless row of epochs, epoch e being a permutation that
    depends on (seed, e) alone. No item is dropped, and a resumed run needs no cursor.

    Args:
        num_items: size of the data set.
        batch_size: items a step; it need not divide num_items and may exceed it.
        seed: 0 or more.
        eras: of a training whose batch size changed, (first step, batch size) of each part, from
            step 0 on: item p is then counted over the parts, so none is left out or repeated.
    """

    num_items: int
    batch_size: int
    seed: int
    eras: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.num_items < 1 or self.batch_size < 1 or self.seed < 0:
            raise RequestError(
                "num_items and batch_size must be at least 1 and seed at least 0, got"
                f" {self.num_items}, {self.batch_size} and {self.seed}"
            )

    def indices(self, step: int) -> Tensor:
        """Which items step `step` (from 0) sees: (batch_size,) int64."""
        start, size = self._span(step)
        stop, parts = start + size, []
        while start < stop:
            epoch, offset = divmod(start, self.num_items)
            taken = _epoch_order(self.num_items, self.seed, epoch)[offset : offset + stop - start]
            parts.append(taken)
            start += len(taken)
        return torch.cat(parts)

    def _span(self, step: int) -> tuple[int, int]:
        """How many items were seen before a step, and how many it sees."""
        start, first, size = 0, 0, self.batch_size
        for begin, own in self.eras:
            if begin > step:
                break
            start, first, size = start + (begin - first) * size, begin, own
        return start + (step - first) * size, size


@lru_cache(maxsize=2)
def _epoch_order(num_items: int, seed: int, epoch: int) -> Tensor:
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return torch.from_numpy(generator.permutation(num_items))


def digest(values: Images, labels: Tensor | None = None) -> str:
    """SHA-256 of data, and of their labels if they are given."""
    found = hashlib.sha256()
    for start in range(0, len(values), BLOCK):
        found.update(values[start : start + BLOCK].cpu().numpy().tobytes())
    if labels is not None:
        found.update(labels.cpu().numpy().tobytes())
    return found.hexdigest()


def overlap(of: Data) -> int:
    """How many data of the test part are equal to one of the training part."""
    return int(np.isin(_digests(of.test), _digests(of.train)).sum())


def _digests(values: Images) -> np.ndarray[Any, Any]:
    """A number of 64 bits for each datum: two that differ share one with probability 2^-64."""
    found = np.empty(len(values), np.uint64)
    for start in range(0, len(values), BLOCK):
        rows = values[start : start + BLOCK].cpu().numpy()
        for k, row in enumerate(rows, start=start):
            found[k] = int.from_bytes(hashlib.sha256(row.tobytes()).digest()[:8], "little")
    return found
